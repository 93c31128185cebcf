"""The configuration: each setting with its default, its meaning and what it may be.

Values come from `code-executor.conf` (environment-variable format); real environment
variables win. A secret can also be kept in a file of its own, which `<NAME>_FILE` names. Everything
that can't be is refused at once, in one message, before anything starts. No message has a secret.
"""

from __future__ import annotations

import difflib
import io
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
from dotenv import dotenv_values
from dotenv.parser import parse_stream
from psycopg.conninfo import conninfo_to_dict

from codeexec.bounds import CONFIGURATION_BYTES
from codeexec.numbers import within
from codeexec.sizes import ALLOWED as SIZE_ALLOWED
from codeexec.sizes import format_size, parse_size

BASE_DIR = Path(__file__).resolve().parent.parent
CONF_FILE = BASE_DIR / "code-executor.conf"
FORMER_CONF_FILE = BASE_DIR / "config" / "code-executor.conf"
"""Where the file stood before: refused there, because settings that are ignored could open the
service to others.
"""
CONF_FILE_VARIABLE = "CODE_EXECUTOR_CONF"

Values = Mapping[str, Any]

SPARE_UIDS = 32
"""Of SANDBOX_UIDS, for sandboxes that no session gets: those of checks and of builds."""
MAX_SANDBOX_UIDS = 50_000


class ConfigurationError(Exception):
    """Settings can't be what they are; the text has a line for each of them."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting. `parse` turns its text into its value and raises ValueError where it can't.

    A secret's text is in no message, and can be read from the file that `<NAME>_FILE` names. It has
    no default: what everybody knows is no secret.
    """

    name: str
    default: str
    parse: Callable[[str], Any]
    allowed: str
    meaning: str
    secret: bool = False

    @property
    def file_name(self) -> str:
        """The setting that names a file with this one's value."""
        return f"{self.name}_FILE"


class _Kind(NamedTuple):
    """What a setting may be: for the computer, and in words."""

    parse: Callable[[str], Any]
    allowed: str


def _whole(least: int, most: int, unit: str = "") -> _Kind:
    number = f"a whole number of {unit}" if unit else "a whole number"
    return _Kind(within(int, least, most), f"{number} from {least} to {most}")


def _decimal(least: float, most: float, unit: str) -> _Kind:
    return _Kind(within(float, least, most), f"a number of {unit} from {least:g} to {most:g}")


def _size(least: int) -> _Kind:
    def parse(value: str) -> int:
        size = parse_size(value)
        if size < least:
            raise ValueError(value)
        return size

    return _Kind(parse, f"{SIZE_ALLOWED}, {format_size(least)} or more")


def _one_of(*words: str) -> _Kind:
    """In capitals or not."""
    lower = [word.lower() for word in words]
    allowed = f"{', '.join(words[:-1])} or {words[-1]}"
    return _Kind(lambda value: words[lower.index(value.lower())], allowed)


def _flag(value: str) -> bool:
    words = value.lower()
    if words not in ("true", "1", "yes", "on", "false", "0", "no", "off"):
        raise ValueError(value)
    return words in ("true", "1", "yes", "on")


def _matching(pattern: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(value)
        return value

    return parse


def _database_url(value: str) -> str:
    if value and urlsplit(value).scheme not in ("postgres", "postgresql"):
        raise ValueError(value)
    try:
        conninfo_to_dict(value)
    except psycopg.ProgrammingError:
        raise ValueError from None  # its text quotes the password
    return value


def _docker_socket(value: str) -> str:
    if value.startswith("/"):
        return f"unix://{value}"
    parts = urlsplit(value)
    if not (parts.scheme == "unix" and parts.path) and not (parts.scheme == "tcp" and parts.port):
        raise ValueError(value)
    return value


def _list(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _networks(value: str) -> list[str]:
    """Addresses and networks as they were written, each checked."""
    parts = _list(value)
    for part in parts:
        ipaddress.ip_network(part)
    return parts


def _origins(value: str) -> list[str]:
    origins = _list(value)
    for origin in origins:
        parts = urlsplit(origin)
        exact = parts.scheme in ("http", "https") and parts.hostname
        if origin != "*" and not (exact and origin == f"{parts.scheme}://{parts.netloc}"):
            raise ValueError(value)
    return origins


def _runtimes(value: str) -> list[str]:
    names = _list(value)
    if not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name) for name in names):
        raise ValueError(value)
    return names


def _labels(value: str) -> dict[str, str]:
    pairs = [part.split("=", 1) for part in _list(value)]
    if any(len(pair) != 2 or not pair[0] for pair in pairs):
        raise ValueError(value)
    return {pair[0]: pair[1] for pair in pairs}


def _path(value: str) -> Path:
    return Path(value) if value.startswith("/") else BASE_DIR / value


def _numbers(value: str) -> range:
    """From the first to the last, both included."""
    first, _, last = value.partition("-")
    numbers = range(int(first), int(last) + 1)
    if not 1000 <= numbers.start <= numbers.stop <= 2**31 - 1 or len(numbers) > MAX_SANDBOX_UIDS:
        raise ValueError(value)
    return numbers


_MIB = 1024 * 1024
_FLAG = _Kind(_flag, "true or false")
_NAME = r"[a-z0-9]+(?:[._-][a-z0-9]+)*"


def _setting(
    name: str, default: str, kind: _Kind, meaning: str, *, secret: bool = False
) -> Setting:
    return Setting(
        name=name,
        default=default,
        parse=kind.parse,
        allowed=kind.allowed,
        meaning=meaning,
        secret=secret,
    )


SETTINGS = (
    _setting(
        "DATABASE_URL",
        "",
        _Kind(_database_url, "postgresql://user:password@host:port/name"),
        "The PostgreSQL database. If it is empty, the private server that `scripts/server` "
        "keeps in `DATA_DIR` is used.",
        secret=True,
    ),
    _setting(
        "DATABASE_PASSWORD",
        "",
        _Kind(str, "any text"),
        "The password for `DATABASE_URL`, if the URL has none.",
        secret=True,
    ),
    _setting(
        "DATABASE_TIMEOUT",
        "5",
        _decimal(0.5, 600, "seconds"),
        "How long the API waits for the database to answer a statement before it answers 503. "
        "Workers and commands wait as long as it takes.",
    ),
    _setting(
        "DOCKER_SOCKET",
        "unix:///var/run/docker.sock",
        _Kind(_docker_socket, "unix:///path, /path or tcp://host:port"),
        "The Docker Engine of this node. The API needs none.",
    ),
    _setting(
        "DOCKER_IMAGE_PREFIX",
        "code-executor",
        _Kind(
            _matching(_NAME + r"(?:/" + _NAME + r")*"),
            "lower-case letters, digits and single separators",
        ),
        "Images are named `<prefix>-<image of the environment>`.",
    ),
    _setting(
        "CONTAINER_MEMORY_LIMIT",
        "256m",
        _size(16 * _MIB),
        "Memory of a sandbox, including its workspace and /tmp. There is no swap.",
    ),
    _setting(
        "CONTAINER_CPU_LIMIT",
        "0.5",
        _decimal(0.05, 256, "cores"),
        "Processor time of a sandbox; 1 is one core.",
    ),
    _setting(
        "CONTAINER_PIDS_LIMIT",
        "256",
        _whole(4, 100_000),
        "Processes and threads of a sandbox at one time.",
    ),
    _setting(
        "TMPFS_SIZE",
        "64m",
        _size(_MIB),
        "Size of a sandbox's workspace, and of /tmp and /var/tmp, each.",
    ),
    _setting(
        "OUTPUT_LIMIT",
        "1m",
        _size(1024),
        "How much a program may write to stdout, and to stderr, before it is ended.",
    ),
    _setting(
        "EXECUTION_TIMEOUT",
        "30",
        _decimal(0.1, 86_400, "seconds"),
        "How long a program may run, in wall-clock time.",
    ),
    _setting(
        "INTERACTIVE_TIMEOUT",
        "600",
        _decimal(0.1, 86_400, "seconds"),
        "How long a program may run that is typed into while it runs, in wall-clock time. "
        "`EXECUTION_TIMEOUT` is then its processor time.",
    ),
    _setting(
        "NETWORK_DISABLED",
        "true",
        _FLAG,
        "Sandboxes get no network, unless their environment has `network: true`.",
    ),
    _setting(
        "NO_NEW_PRIVILEGES",
        "true",
        _FLAG,
        "Programs can't gain privileges through set-user-ID files.",
    ),
    _setting(
        "SESSION_RUNTIMES",
        "runc,runsc",
        _Kind(_runtimes, "names of OCI runtimes, separated by commas, the weakest first"),
        "The OCI runtimes that a request may choose, if a node has them and they are at least "
        "as strong as the environment's own.",
    ),
    _setting(
        "SANDBOX_UIDS",
        "2000000000-2000019999",
        _Kind(
            _numbers,
            f"two numbers, such as 2000000000-2000019999, {MAX_SANDBOX_UIDS} apart at most",
        ),
        "The user numbers of this node's host that programs run as; each sandbox has a number "
        "of its own. They must belong to no login, and to no other node on the same host.",
    ),
    _setting(
        "CONTAINER_LABELS",
        "",
        _Kind(_labels, "name=value pairs, separated by commas"),
        "Labels on every sandbox's container, besides the service's own.",
    ),
    _setting(
        "SESSION_TTL",
        "3600",
        _whole(1, 30 * 86_400, "seconds"),
        "A session ends this long after its last activity.",
    ),
    _setting(
        "SESSION_TTL_MAX",
        "86400",
        _whole(1, 30 * 86_400, "seconds"),
        "The longest `ttl` that a request may ask for. `SESSION_TTL` may be longer.",
    ),
    _setting(
        "HISTORY_DAYS",
        "0",
        _Kind(within(int, 0, 36_500), "a whole number of days up to 36500, 0 for ever"),
        "Closed sessions and their executions are deleted after this many days. 0 keeps them "
        "for ever.",
    ),
    _setting(
        "ISOLATION_CHECK_HOURS",
        "24",
        _Kind(within(int, 0, 8_760), "a whole number of hours up to 8760, 0 for never"),
        "How often each node checks the isolation of its sandboxes, as `manage.py "
        "check_isolation` does. 0 means never.",
    ),
    _setting(
        "REQUEST_TIMEOUT",
        "300",
        _decimal(1, 3_600, "seconds"),
        "How long a request waits for its result, including queue and start. Keep it above the "
        "longest `timeout`, and a proxy's own timeout above it.",
    ),
    _setting("MAX_REQUEST_SIZE", "10m", _size(1024), "The largest body of a request."),
    _setting(
        "EXECUTION_LEASE",
        "10",
        _whole(3, 600, "seconds"),
        "An executor that has not renewed its claim on an execution for this long counts as dead.",
    ),
    _setting(
        "NODE_NAME",
        socket.gethostname(),
        _Kind(
            _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,94}"),
            "letters, digits, dots, dashes and underscores, 95 at most",
        ),
        "The name of this worker node. No other node may have it. If it is empty, it is the "
        "host's name.",
    ),
    _setting(
        "NODE_CAPACITY", "50", _whole(1, 10_000), "How many sandboxes this node has at one time."
    ),
    _setting(
        "CLIENT_SHARE",
        "80",
        _whole(1, 100, "percent"),
        "The share of all sandboxes that a client without a limit of its own may use, if there "
        "are other clients. It gets less while those use many.",
    ),
    _setting(
        "WORKER_CONCURRENCY",
        "8",
        _whole(1, 256),
        "How many runs this node begins at one time. Others wait until one of them has ended, "
        "sleeps, or has been running for a few seconds; but a client whose programs don't use the "
        "node's processors begins its first one at once.",
    ),
    _setting(
        "COMPILED_PROGRAMS_SIZE",
        "64m",
        _size(0),
        "How much memory the executor may use to keep compiled programs, so that they are not "
        "compiled again while nothing has changed. One program may take an eighth of it, all of a "
        "client's a quarter. 0: every run compiles.",
    ),
    _setting(
        "MAX_QUEUED_PER_SESSION",
        "100",
        _whole(1, 100_000),
        "How many executions may wait in one session, unless its client has a limit of its own."
        " More are refused with 429.",
    ),
    _setting(
        "MAX_QUEUED_PER_CLIENT",
        "1000",
        _whole(1, 1_000_000),
        "How many executions may wait in all sessions of a client, unless it has a limit of its"
        " own. More are refused with 429.",
    ),
    _setting(
        "MAX_STORAGE_PER_SESSION",
        "256m",
        _size(1024),
        "How much may be stored of one session (metadata, code, input, files and output), unless "
        "its client has a limit of its own. More is refused with 409.",
    ),
    _setting(
        "MAX_STORAGE_PER_CLIENT",
        "100g",
        _size(1024),
        "How much may be stored of all sessions of a client, until they are deleted "
        "(`HISTORY_DAYS`), unless it has a limit of its own. More is refused with 409.",
    ),
    _setting(
        "API_HOST",
        "0.0.0.0",  # noqa: S104 -- what existing installations expect; docs/access.md says how to narrow it
        _Kind(str, "an address or host name"),
        "The address that the API listens on; 127.0.0.1 makes it reachable from this machine only.",
    ),
    _setting(
        "API_AUTH",
        "key",
        _one_of("key", "open"),
        "Who may call the API. `key`: callers with a key, which `manage.py create_client` "
        "creates. `open`: everyone who can reach it, with all rights, so only on a loopback "
        "`API_HOST`.",
    ),
    _setting(
        "TOKEN_REQUESTS_PER_MINUTE",
        "600",
        _whole(1, 1_000_000),
        "How many requests one session token may make in a minute, in each API process. If its "
        "client has a limit, a token gets at most half of that.",
    ),
    _setting(
        "CORS_ORIGINS",
        "",
        _Kind(_origins, "origins such as https://app.example.org, separated by commas, or *"),
        "Pages that may call the API from a browser. With `API_AUTH=open`, * is refused.",
    ),
    _setting(
        "API_PORT",
        "8000",
        _Kind(within(int, 1, 65_535), "a port from 1 to 65535"),
        "The port that the API listens on.",
    ),
    _setting(
        "API_DEBUG",
        "false",
        _FLAG,
        "Failures of the service are answered with a traceback. Never use this in production.",
    ),
    _setting(
        "API_THREADS",
        "8",
        _whole(1, 256),
        "How many threads of the API use the database, each with a connection of its own. Runs "
        "use as many connections besides, and notifications one.",
    ),
    _setting(
        "ALLOWED_HOSTS",
        "*",
        _Kind(_list, "host names, separated by commas, or *"),
        "The names under which the API answers; * is any name.",
    ),
    _setting(
        "CSRF_TRUSTED_ORIGINS",
        "",
        _Kind(_list, "origins such as https://code.example.org, separated by commas"),
        "Where browsers reach the console if a proxy handles TLS.",
    ),
    _setting(
        "TRUSTED_PROXIES",
        "",
        _Kind(
            _networks, "addresses and networks such as 10.0.0.5 or 10.0.0.0/29, separated by commas"
        ),
        "Proxies that are believed about a client's address and whether it used https. They "
        "must set X-Forwarded-For and X-Forwarded-Proto themselves.",
    ),
    _setting(
        "HSTS_SECONDS",
        "31536000",
        _whole(0, 63_072_000, "seconds"),
        "Behind TLS: for how long browsers must use only https. 0 means that they may use http.",
    ),
    _setting(
        "SECRET_KEY",
        "",
        _Kind(str, "any text, the longer the better"),
        "Signs console sessions, session tokens and queue messages. If it is empty, one is "
        "created and kept in `DATA_DIR`.",
        secret=True,
    ),
    _setting(
        "DATA_DIR",
        ".data",
        _Kind(_path, "a folder; a relative one is below the project's"),
        "Secret key, private PostgreSQL and logs.",
    ),
    _setting(
        "ENVIRONMENTS_FILE",
        "config/environments.yaml",
        _Kind(_path, "a YAML file; a relative path is below the project's"),
        "The file that `manage.py seed_environments` reads.",
    ),
    _setting(
        "ENVIRONMENTS_DIR",
        "environments",
        _Kind(_path, "a folder; a relative one is below the project's"),
        "A folder with a Dockerfile for each environment, in a folder of its name.",
    ),
    _setting(
        "LOG_LEVEL",
        "INFO",
        _one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        "The least important messages that are logged.",
    ),
    _setting(
        "LOG_FORMAT",
        "text",
        _one_of("text", "json"),
        "How lines are logged: `text` for people, `json` for programs, one object per line.",
    ),
)


def load(environ: Mapping[str, str] = os.environ) -> Values:
    """All settings by name. Raises ConfigurationError, which names each that can't be."""
    values, problems = load_what_can_be(environ)
    if problems:
        raise ConfigurationError("\n".join(["The configuration can't be used:", *problems]))
    return values


def load_what_can_be(environ: Mapping[str, str] = os.environ) -> tuple[Values, list[str]]:
    """All settings, defaults in place of those that can't be; and a line for each of these."""
    conf_file = _conf_file(environ)
    given, problems = _given(conf_file, required=CONF_FILE_VARIABLE in environ)
    problems += _unknown_names(given, conf_file)
    if not environ.get(CONF_FILE_VARIABLE) and FORMER_CONF_FILE.exists():
        problems.append(
            f"{FORMER_CONF_FILE} is not read any more; move your settings to {CONF_FILE} and "
            "delete it"
        )
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        try:
            text = _given_text(setting, environ, given)
            values[setting.name] = setting.parse(text or setting.default)
        except ConfigurationError as error:
            problems.append(str(error))
        except ValueError:
            shown = "its value" if setting.secret else repr(text)
            problems.append(f"{setting.name}: {shown} is wrong; allowed: {setting.allowed}")
    problems += _contradictions(values)
    return _defaults() | values, problems


def _defaults() -> dict[str, Any]:
    """The default values; a default that is wrong, such as a host's name, stays a text."""
    found: dict[str, Any] = {setting.name: setting.default for setting in SETTINGS}
    for setting in SETTINGS:
        with suppress(ValueError):
            found[setting.name] = setting.parse(setting.default)
    return found


def _conf_file(environ: Mapping[str, str]) -> Path:
    return Path(environ.get(CONF_FILE_VARIABLE) or CONF_FILE)


def secret_files(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Files that hold secrets: those that settings name, and the configuration file itself where
    it has some.
    """
    conf_file = _conf_file(environ)
    given, _ = _given(conf_file, required=False)
    secrets = [setting for setting in SETTINGS if setting.secret]
    names = [environ.get(each.file_name) or given.get(each.file_name) for each in secrets]
    found = [Path(name.strip()) for name in names if name and name.strip()]
    return [*found, conf_file] if any(given.get(each.name) for each in secrets) else found


def _given(conf_file: Path, *, required: bool) -> tuple[dict[str, str | None], list[str]]:
    """The configuration file's values by name; none, and the reasons, if it can't be used."""
    try:
        if not conf_file.exists():
            missing = f"{CONF_FILE_VARIABLE}: there is no file {conf_file}"
            return {}, [missing] if required else []
        if conf_file.stat().st_size > CONFIGURATION_BYTES:
            return {}, [f"{conf_file}: more than {CONFIGURATION_BYTES} bytes"]
        text = conf_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        return {}, [f"{conf_file} can't be read: {error}"]
    broken = [each.original for each in parse_stream(io.StringIO(text)) if each.error]
    if broken:
        # Their first words only: the rest may be a secret.
        words = [(each.line, each.string.split()[0]) for each in broken]
        lines = [f"line {line}: {word!r} … is no NAME=value" for line, word in words]
        return {}, [f"{conf_file} can't be used:", *lines]
    return dotenv_values(stream=io.StringIO(text), interpolate=False), []


def _unknown_names(given: Iterable[str], conf_file: Path) -> Iterator[str]:
    names = [setting.name for setting in SETTINGS]
    names += [setting.file_name for setting in SETTINGS if setting.secret]
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name.upper(), names, n=1)
            hint = f"; do you mean {close[0]}?" if close else ""
            yield f"{name}: no such setting (in {conf_file}){hint}"


def _given_text(
    setting: Setting, environ: Mapping[str, str], given: Mapping[str, str | None]
) -> str:
    """The setting's text in the environment or else in the configuration file, or in the secret's
    own file that one of them names; empty if there is none. Raises ConfigurationError.
    """
    names = (setting.name, setting.file_name) if setting.secret else (setting.name,)
    source = environ if any(name in environ for name in names) else given
    text, *path = ((source.get(name) or "").strip() for name in names)
    if not any(path):
        return text
    if text:
        raise ConfigurationError(
            f"{setting.name} and {setting.file_name} are both given; one can be"
        )
    return _read_secret(setting, Path(path[0]))


def _read_secret(setting: Setting, path: Path) -> str:
    """Raises ConfigurationError."""
    try:
        secret = path.read_text().strip()
    except OSError as error:
        reason = f"{path} can't be read: {error.strerror}"
        raise ConfigurationError(f"{setting.file_name}: {reason}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{setting.file_name}: {path} is no text in UTF-8") from None
    if not secret:
        raise ConfigurationError(f"{setting.file_name}: {path} is empty")
    return secret


def _contradictions(values: Values) -> Iterator[str]:
    uids, capacity = values.get("SANDBOX_UIDS"), values.get("NODE_CAPACITY")
    if uids is not None and capacity is not None and len(uids) < capacity + SPARE_UIDS:
        yield (
            f"SANDBOX_UIDS: {len(uids)} numbers are too few for a NODE_CAPACITY of {capacity}; "
            f"name {capacity + SPARE_UIDS} or more"
        )
    if values.get("API_AUTH") != "open":
        return
    host = values.get("API_HOST", "")
    if not is_loopback(host):
        yield (
            "API_AUTH: open serves everyone who reaches it, so API_HOST must be a loopback address,"
            f" and {host!r} is none; set API_HOST=127.0.0.1, or API_AUTH=key and make a key with "
            "`manage.py create_client`"
        )
    if "*" in values.get("CORS_ORIGINS", ()):
        yield (
            "CORS_ORIGINS: with API_AUTH=open, * lets every page that is opened on this machine "
            "run code and read what others ran; name the origins, or set API_AUTH=key"
        )


def is_loopback(host: str) -> bool:
    """Whether an address, or a host's name, is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
