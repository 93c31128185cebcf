"""`debian:trixie-slim`, which every image of this project builds on: pulled by the digest that the
runner's Dockerfile names, or bootstrapped.

Where no registry is reached, debootstrap makes the same base from Debian's own packages, and it is
imported under the same tag. Builds on it trust the certificate authorities that this machine
trusts, so that they get through wherever this machine gets through.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound
from requests.exceptions import RequestException

from codeexec.sandbox.docker.base_images import FROM_BY_DIGEST
from codeexec.sandbox.docker.runner_image import SOURCES as RUNNER
from scripts import apt
from scripts.steps import SetUpError, Step, end_group, run_logged, step

SUITE = "trixie"
REPOSITORY, TAG = "debian", f"{SUITE}-slim"
MIRROR = "http://deb.debian.org/debian"
SILENCE_SECONDS = 15  # a pull without progress for this long is given up
_BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SOURCES = f"""\
Types: deb
URIs: {MIRROR}
Suites: {SUITE} {SUITE}-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {MIRROR}-security
Suites: {SUITE}-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
# What makes an image slim: no documentation, no package archives, no service started by a package.
_FILES = {
    "etc/apt/sources.list.d/debian.sources": _SOURCES,
    "etc/apt/apt.conf.d/containers": (
        'Acquire::Languages "none";\n'
        'APT::AutoRemove::SuggestsImportant "false";\n'
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };\n'
    ),
    "etc/dpkg/dpkg.cfg.d/containers": (
        "force-unsafe-io\n"
        "path-exclude /usr/share/doc/*\n"
        "path-include /usr/share/doc/*/copyright\n"
        "path-exclude /usr/share/info/*\n"
        "path-exclude /usr/share/locale/*\n"
        "path-exclude /usr/share/man/*\n"
    ),
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
}
_LEFT_OUT = (
    "dev/*",
    "etc/apt/sources.list",
    "proc/*",
    "sys/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/man/*/*",
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
    "var/log/*",
)


def ensure_base_image(client: docker.DockerClient, socket: str, log: Path) -> None:
    """Makes the base image be there, on the Engine that `client` talks to at `socket`.

    Raises SetUpError where it can't be had.
    """
    with step(f"Base image {REPOSITORY}:{TAG}") as current:
        if _present(client):
            current.outcome = "present"
        elif _pulled(socket, current):
            current.outcome = "pulled"
        else:
            _bootstrap(client, log, current)
            current.outcome = "bootstrapped"


def _present(client: docker.DockerClient) -> bool:
    try:
        client.images.get(f"{REPOSITORY}:{TAG}")
    except ImageNotFound:
        return False
    return True


def _pulled(socket: str, current: Step) -> bool:
    current.doing("pulling")
    impatient = docker.DockerClient(base_url=socket, timeout=SILENCE_SECONDS)
    try:
        impatient.images.pull(REPOSITORY, pinned_digest()).tag(REPOSITORY, TAG)
    except (DockerException, RequestException):
        return False
    finally:
        impatient.close()
    return True


def pinned_digest() -> str:
    """Of the base image, as the Dockerfiles name it."""
    found = FROM_BY_DIGEST.search((RUNNER / "Dockerfile").read_text())
    if found is None:
        raise SetUpError(f"{RUNNER / 'Dockerfile'} names no image by digest.")
    return found["digest"]


def _bootstrap(client: docker.DockerClient, log: Path, current: Step) -> None:
    if not apt.can_install():
        raise SetUpError(
            f"{REPOSITORY}:{TAG} can't be pulled, and only root on Debian or Ubuntu can "
            "bootstrap it: check this machine's way to its image registry."
        )
    current.doing("no registry is reached, bootstrapping from Debian's packages")
    if shutil.which("debootstrap") is None:
        apt.install("debootstrap", "debian-archive-keyring", log=log)
    with tempfile.TemporaryDirectory(prefix="code-executor-base-") as folder:
        root = Path(folder) / "root"
        run_logged(["debootstrap", "--variant=minbase", SUITE, root, MIRROR], log)
        _make_slim(root)
        _trust_what_this_machine_trusts(root)
        _import(client, root)


def _make_slim(root: Path) -> None:
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    for path in (root / "usr/share/doc").rglob("*"):
        if path.name != "copyright" and not path.is_dir():
            path.unlink()


def _trust_what_this_machine_trusts(root: Path) -> None:
    """The host's bundle in its usual place, and its own additions where `update-ca-certificates`
    takes them from, so that they stay when a build installs Debian's ca-certificates.
    """
    bundle = Path("/") / _BUNDLE
    if not bundle.is_file():
        return
    (root / _BUNDLE).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(bundle, root / _BUNDLE)
    shipped = Path("/usr/share/ca-certificates").rglob("*.crt")
    known = {_key(text) for path in shipped for text in _CERTIFICATE.findall(path.read_text())}
    folder = root / "usr/local/share/ca-certificates"
    folder.mkdir(parents=True, exist_ok=True)
    additions = [
        text for text in _CERTIFICATE.findall(bundle.read_text()) if _key(text) not in known
    ]
    for number, text in enumerate(additions):
        (folder / f"host-{number}.crt").write_text(f"{text}\n")


def _key(certificate: str) -> str:
    return "".join(certificate.split())


def _import(client: docker.DockerClient, root: Path) -> None:
    left_out = [f"--exclude=./{pattern}" for pattern in _LEFT_OUT]
    tar = subprocess.Popen(
        ["tar", "--numeric-owner", *left_out, "-C", str(root), "-c", "."],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        client.api.import_image_from_stream(
            tar.stdout,
            repository=REPOSITORY,
            tag=TAG,
            changes=['CMD ["bash"]', f"ENV PATH={_PATH}"],
        )
    finally:
        end_group(tar, signal.SIGPIPE, seconds=5)
    if tar.returncode != 0 or not _present(client):
        raise SetUpError(f"The bootstrapped base could not be imported (tar: {tar.returncode}).")
