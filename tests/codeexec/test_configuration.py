"""The configuration: what is refused and how, and where values come from."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeexec import configuration
from codeexec.configuration import BASE_DIR, CONF_FILE_VARIABLE, SETTINGS, ConfigurationError, load
from codeexec.sizes import format_size, parse_size
from tests.support.patience import LONG

MIB = 1024 * 1024
EVERYWHERE = "0.0.0.0"  # noqa: S104 -- compared, not listened on
SHIPPED = BASE_DIR / "code-executor.conf"
ORIGINS = ["https://a.example", "http://localhost:3000"]
FREE_TEXT = {
    "API_HOST",
    "ALLOWED_HOSTS",
    "CSRF_TRUSTED_ORIGINS",
    "DATABASE_PASSWORD",
    "SECRET_KEY",
    "DATA_DIR",
    "ENVIRONMENTS_FILE",
    "ENVIRONMENTS_DIR",
}
IMPOSSIBLE = {
    "DATABASE_URL": [
        "mysql://localhost/db",
        "localhost",
        "sqlite:///db",
        "postgresql://[x/db",
        "postgresql://u:hunter%2@db/x",
    ],
    "TOKEN_REQUESTS_PER_MINUTE": ["0", "-1", "1000001", "many"],
    "DOCKER_SOCKET": ["docker.sock", "unix://", "tcp://host", "tcp://host:99999", "http://h:1"],
    "DOCKER_IMAGE_PREFIX": ["Code-Executor", "a b", "-a", "a/", "a//b", "a--b"],
    "CONTAINER_MEMORY_LIMIT": ["12x", "15m", "-256m", "256mm", "9" * 400, "many"],
    "CONTAINER_CPU_LIMIT": ["0", "0.01", "257", "nan", "inf", "half", "0,5"],
    "CONTAINER_PIDS_LIMIT": ["0", "3", "100001", "5.5", "-1"],
    "TMPFS_SIZE": ["0", "512k", "64 megabytes"],
    "OUTPUT_LIMIT": ["1000", "0", "1q"],
    "INTERACTIVE_TIMEOUT": ["0", "0.05", "86401", "30s", "nan"],
    "EXECUTION_TIMEOUT": ["0", "0.05", "86401", "30s", "nan"],
    "NETWORK_DISABLED": ["maybe", "2", "disabled"],
    "NO_NEW_PRIVILEGES": ["never"],
    "SESSION_RUNTIMES": ["run c", "-x", "a,b/c"],
    "SANDBOX_UIDS": [
        "0-99",
        "999-2000",
        "5000",
        "6000-5000",
        "5000-2147483648",
        "1000-51000",
        "a-b",
    ],
    "CONTAINER_LABELS": ["team", "=x", "a=1,b"],
    "SESSION_TTL": ["0", "2592001", "1h"],
    "SESSION_TTL_MAX": ["0", "2592001", "1h"],
    "CLIENT_SHARE": ["0", "101", "80%"],
    "HISTORY_DAYS": ["-1", "36501", "90d", "0.5"],
    "ISOLATION_CHECK_HOURS": ["-1", "8761", "24h", "0.5"],
    "REQUEST_TIMEOUT": ["0.5", "3601", "x"],
    "MAX_REQUEST_SIZE": ["100", "big"],
    "EXECUTION_LEASE": ["2", "601", "2.5"],
    "NODE_NAME": ["a b", "-a", "a" * 101, "a/b"],
    "NODE_CAPACITY": ["0", "10001"],
    "WORKER_CONCURRENCY": ["0", "257", "four"],
    "COMPILED_PROGRAMS_SIZE": ["-1", "much"],
    "MAX_QUEUED_PER_SESSION": ["0", "100001", "x"],
    "MAX_QUEUED_PER_CLIENT": ["0", "1000001", "x"],
    "MAX_STORAGE_PER_SESSION": ["0", "1023", "much"],
    "MAX_STORAGE_PER_CLIENT": ["0", "1023", "-1g"],
    "API_PORT": ["0", "65536", "http"],
    "API_AUTH": ["none", "keys"],
    "API_DEBUG": ["debug"],
    "API_THREADS": ["0", "257"],
    "DATABASE_TIMEOUT": ["0.4", "601", "soon"],
    "TRUSTED_PROXIES": ["proxy", "10.0.0.0/33", "10.0.0.1/8"],
    "HSTS_SECONDS": ["-1", "63072001", "1y"],
    "CORS_ORIGINS": ["app.example.org", "https://a.example/", "ftp://a.example", "https://"],
    "LOG_LEVEL": ["LOUD", "10"],
    "LOG_FORMAT": ["xml", "json,text"],
}


@pytest.fixture
def conf(tmp_path: Path):
    """Loads the settings from a file's text and, winning over it, environment variables."""

    def load_from(text: str = "", **variables: str):
        path = tmp_path / "test.conf"
        path.write_text(text)
        return load({CONF_FILE_VARIABLE: str(path), **variables})

    return load_from


def test_a_file_at_its_former_place_is_refused_with_where_to_move_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former, current = tmp_path / "config" / "code-executor.conf", tmp_path / "code-executor.conf"
    monkeypatch.setattr(configuration, "FORMER_CONF_FILE", former)
    monkeypatch.setattr(configuration, "CONF_FILE", current)
    assert load({})["API_AUTH"] == "key"
    former.parent.mkdir()
    former.write_text("API_PORT=9000\n")
    with pytest.raises(ConfigurationError, match=f"{former} is not read .* move .* to {current}"):
        load({})
    former.rename(current)
    assert load({})["API_PORT"] == 9000


def test_the_former_place_is_no_matter_where_the_file_is_named(
    conf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "FORMER_CONF_FILE", tmp_path / "test.conf")
    assert conf("API_PORT=9000\n")["API_PORT"] == 9000


def test_a_folder_in_the_files_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path} can't be read: .*Is a directory"):
        load({CONF_FILE_VARIABLE: str(tmp_path)})


def test_the_settings_file_stands_at_the_top() -> None:
    assert configuration.CONF_FILE == SHIPPED
    assert SHIPPED.is_file() and not configuration.FORMER_CONF_FILE.exists()


def test_a_node_has_a_user_for_each_of_its_sandboxes(conf) -> None:
    with pytest.raises(ConfigurationError, match="SANDBOX_UIDS: 100 numbers are too few"):
        conf("SANDBOX_UIDS=5000-5099\nNODE_CAPACITY=69\n")
    values = conf("SANDBOX_UIDS=5000-5099\nNODE_CAPACITY=68\n")
    assert values["SANDBOX_UIDS"] == range(5000, 5100)


def test_every_setting_has_its_impossible_values_here() -> None:
    assert {setting.name for setting in SETTINGS} == FREE_TEXT | set(IMPOSSIBLE)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in IMPOSSIBLE.items() for value in values]
)
def test_a_refusal_names_the_setting_the_value_and_what_is_allowed(
    conf, name: str, value: str
) -> None:
    (setting,) = (setting for setting in SETTINGS if setting.name == name)
    shown = "its value" if setting.secret else repr(value)
    with pytest.raises(ConfigurationError) as caught:
        conf(**{name: value})
    assert str(caught.value).splitlines() == [
        "The configuration can't be used:",
        f"{name}: {shown} is wrong; allowed: {setting.allowed}",
    ]


def test_a_value_of_the_file_is_refused_like_one_of_the_environment(conf) -> None:
    with pytest.raises(ConfigurationError, match=r"API_PORT: '80000' is wrong; allowed: a port"):
        conf("API_PORT=80000\n")


def test_all_refusals_come_at_once(conf) -> None:
    with pytest.raises(ConfigurationError) as caught:
        conf("API_PORT=x\nTMPFS_SIZE=y\nAPI_HOTS=z\n", LOG_LEVEL="w")
    named = [line.split(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert sorted(named) == ["API_HOTS", "API_PORT", "LOG_LEVEL", "TMPFS_SIZE"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("CONTAINER_MEMORY", "do you mean CONTAINER_MEMORY_LIMIT?"),
        ("EXECUTION_TIMOUT", "do you mean EXECUTION_TIMEOUT?"),
        ("api_port", "API_PORT"),
    ],
)
def test_an_unknown_name_in_the_file_gets_a_hint(conf, name: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}: no such setting.*{re.escape(hint)}"):
        conf(f"{name}=1\n")


def test_a_name_that_resembles_nothing_gets_no_hint(conf) -> None:
    with pytest.raises(ConfigurationError) as caught:
        conf("QQQQ=1\n")
    assert "mean" not in str(caught.value)


def test_a_line_that_is_no_setting_is_refused(conf) -> None:
    with pytest.raises(ConfigurationError, match=r"line 2: 'EXECUTION_TIMEOUT' … is"):
        conf("API_PORT=8001\nEXECUTION_TIMEOUT 5\n")


def test_other_environment_variables_are_nobodys_business(conf) -> None:
    assert conf(API_HOTS="x", HOME="/root")["API_PORT"] == 8000


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(conf) -> None:
    values = conf("API_PORT=8001\nAPI_THREADS=9\n", API_PORT="8002")
    assert (values["API_PORT"], values["API_THREADS"], values["NODE_CAPACITY"]) == (8002, 9, 50)


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"CODE_EXECUTOR_CONF: there is no file .*none"):
        load({CONF_FILE_VARIABLE: str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("CONTAINER_MEMORY_LIMIT", "1.5g", 1536 * MIB),
        ("CONTAINER_MEMORY_LIMIT", "268435456", 256 * MIB),
        ("TMPFS_SIZE", " 128M ", 128 * MIB),
        ("CONTAINER_CPU_LIMIT", "2", 2.0),
        ("NETWORK_DISABLED", "No", False),
        ("NO_NEW_PRIVILEGES", "on", True),
        ("DOCKER_SOCKET", "/run/docker.sock", "unix:///run/docker.sock"),
        ("DOCKER_SOCKET", "tcp://10.0.0.5:2375", "tcp://10.0.0.5:2375"),
        ("CONTAINER_LABELS", "a=1, b=x=y", {"a": "1", "b": "x=y"}),
        ("ALLOWED_HOSTS", "a.example, b.example", ["a.example", "b.example"]),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("API_AUTH", "Key", "key"),
        ("CORS_ORIGINS", "https://a.example, http://localhost:3000", ORIGINS),
        ("CORS_ORIGINS", "*", ["*"]),
        ("DATA_DIR", "state", BASE_DIR / "state"),
        ("DATA_DIR", "/var/lib/x", Path("/var/lib/x")),
        ("DATABASE_URL", "postgres://u:p@db:5432/x", "postgres://u:p@db:5432/x"),
    ],
)
def test_texts_become_values(conf, name: str, text: str, value: object) -> None:
    assert conf(**{name: text})[name] == value


def test_quotes_and_comments_of_the_file_are_understood(conf) -> None:
    values = conf("# a comment\nNODE_NAME=\"node-1\"  # another\nSECRET_KEY='a$b#c'\n")
    assert (values["NODE_NAME"], values["SECRET_KEY"]) == ("node-1", "a$b#c")


def test_the_shipped_file_shows_every_setting_with_its_default() -> None:
    text = SHIPPED.read_text()
    shown = re.findall(r"^#([A-Z_]+)=(.*)$", text, re.MULTILINE)
    defaults = {setting.name: setting.default for setting in SETTINGS}
    defaults["NODE_NAME"] = ""  # the host's name, which no file can know
    assert sorted(shown) == sorted(defaults.items())


def test_the_shipped_file_serves_this_machine_without_keys_and_changes_nothing_else(conf) -> None:
    defaults = {setting.name: setting.default for setting in SETTINGS}
    changed = {
        name: value for name, value in conf(SHIPPED.read_text()).items() if value != conf()[name]
    }
    assert changed == {"API_AUTH": "open", "API_HOST": "127.0.0.1"}
    assert (defaults["API_AUTH"], defaults["API_HOST"]) == ("key", EVERYWHERE)


def test_the_shipped_file_explains_each_setting() -> None:
    lines = SHIPPED.read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"#[A-Z_]+=", line):
            assert before.startswith("# "), f"{line} has no explanation"


def test_the_shipped_file_can_be_used_with_every_setting_uncommented(conf) -> None:
    text = re.sub(r"^[A-Z_]+=.*\n", "", SHIPPED.read_text(), flags=re.MULTILINE)
    assert conf(re.sub(r"^#([A-Z_]+=)", r"\1", text, flags=re.MULTILINE)) == conf()


SECRETS = [setting.name for setting in SETTINGS if setting.secret]
SECRET = "postgresql://u:hunter2@db/x"  # a text that each of them can be


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_read_from_its_file(conf, tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    assert conf(**{f"{name}_FILE": str(path)})[name] == SECRET
    assert conf(f"{name}_FILE={path}\n")[name] == SECRET


@pytest.mark.parametrize("name", SECRETS)
def test_the_environment_wins_over_the_file_with_secrets_too(
    conf, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    assert conf(f"{name}=postgresql:///other\n", **{f"{name}_FILE": str(path)})[name] == SECRET
    assert conf(f"{name}_FILE=/nowhere\n", **{name: SECRET})[name] == SECRET


def test_what_is_no_secret_has_no_file(conf) -> None:
    assert conf(API_PORT_FILE="/nowhere")["API_PORT"] == 8000
    with pytest.raises(ConfigurationError, match="API_PORT_FILE: no such setting"):
        conf("API_PORT_FILE=/nowhere\n")


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_given_twice_is_refused(conf, tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    with pytest.raises(ConfigurationError) as caught:
        conf(**{f"{name}_FILE": str(path), name: SECRET})
    assert str(caught.value).splitlines()[1:] == [
        f"{name} and {name}_FILE are both given; one can be"
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "can't be read: No such file"), (b"\n", "is empty"), (b"\xff\xfe", "is no text")],
)
def test_a_file_without_a_secret_is_refused(
    conf, tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"SECRET_KEY_FILE: {path} {why}"):
        conf(SECRET_KEY_FILE=str(path))


def test_no_refusal_shows_a_secret(conf) -> None:
    with pytest.raises(ConfigurationError) as caught:
        conf(DATABASE_URL="mysql://u:hunter2@db/x")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        conf("SECRET_KEY hunter2\n")
    assert "hunter2" not in str(caught.value)


# ---- who may call


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_an_open_service_may_listen_on_loopback(conf, host: str) -> None:
    assert conf(API_AUTH="open", API_HOST=host)["API_AUTH"] == "open"


@pytest.mark.parametrize(
    "host", [EVERYWHERE, "::", "10.0.0.5", "code.example.org", "127.0.0.1.nip.io"]
)
def test_an_open_service_may_listen_nowhere_else(conf, host: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        conf(API_AUTH="open", API_HOST=host)
    _title, problem = str(caught.value).splitlines()
    assert problem.startswith("API_AUTH: open serves everyone who reaches it")
    for told in (repr(host), "API_HOST=127.0.0.1", "API_AUTH=key", "manage.py create_client"):
        assert told in problem
    assert conf(API_AUTH="key", API_HOST=host)["API_AUTH"] == "key"


def test_an_open_service_may_not_be_open_to_every_page(conf) -> None:
    with pytest.raises(ConfigurationError, match="lets every page"):
        conf(API_AUTH="open", API_HOST="127.0.0.1", CORS_ORIGINS="*")
    conf(API_AUTH="open", API_HOST="127.0.0.1", CORS_ORIGINS="http://localhost:3000")


def test_the_service_does_not_start_open_to_others() -> None:
    done = manage("run_api", API_AUTH="open", API_HOST=EVERYWHERE)
    assert done.returncode == 1
    assert "API_HOST must be a loopback address" in done.stderr
    assert "Traceback" not in done.stderr


@given(st.integers(min_value=1, max_value=2**62))
def test_a_size_is_read_as_it_was_written(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


def manage(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *args],
        cwd=BASE_DIR,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


def test_the_service_does_not_start_with_an_impossible_setting() -> None:
    done = manage("check", API_PORT="80000", TMPFS_SIZE="1k")
    assert done.returncode == 1
    assert "API_PORT: '80000' is wrong" in done.stderr
    assert "TMPFS_SIZE: '1k' is wrong" in done.stderr
    assert "Traceback" not in done.stderr


def process(code: str, **variables: str) -> subprocess.Popen[str]:
    """Python that has the settings, and nothing else of the service: that starts in a third of the
    time.
    """
    environ = os.environ | {"DJANGO_SETTINGS_MODULE": "codeexec.settings"} | variables
    command = [sys.executable, "-c", f"from django.conf import settings; {code}"]
    return subprocess.Popen(
        command,
        cwd=BASE_DIR,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def printed(code: str, **variables: str) -> str:
    return process(code, **variables).communicate(timeout=LONG)[0].strip()


def test_the_secret_key_is_made_once_and_is_for_the_service_alone(tmp_path: Path) -> None:
    given = {"DATA_DIR": str(tmp_path), "SECRET_KEY": ""}
    started = [process("print(settings.SECRET_KEY)", **given) for _ in range(4)]
    keys = {each.communicate(timeout=LONG)[0].strip() for each in started}
    assert {each.returncode for each in started} == {0}
    assert len(keys) == 1
    assert len(keys.pop()) >= 50
    assert [path.name for path in tmp_path.glob("secret*")] == ["secret_key"]
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600


def test_a_given_secret_key_is_taken(tmp_path: Path) -> None:
    given = {"DATA_DIR": str(tmp_path), "SECRET_KEY": "given"}
    assert printed("print(settings.SECRET_KEY)", **given) == "given"
    assert not (tmp_path / "secret_key").exists()


def test_the_databases_password_comes_from_its_own_setting() -> None:
    show = "print(settings.DATABASES['default']['PASSWORD'])"
    url = "postgresql://u@127.0.0.1:1/x"
    assert printed(show, DATABASE_URL=url, DATABASE_PASSWORD="p@:/w") == "p@:/w"
    twice = manage("check", DATABASE_URL="postgresql://u:hunter2@h/x", DATABASE_PASSWORD="other")
    assert twice.returncode == 1
    assert "one can be" in twice.stderr and "hunter2" not in twice.stderr


def test_a_database_that_refuses_is_reported_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://u:hunter2@127.0.0.1:1/x"
    done = manage("migrate", DATABASE_URL=url, DATA_DIR=str(tmp_path))
    assert done.returncode != 0
    assert "hunter2" not in done.stdout + done.stderr


def test_the_settings_that_pages_could_show_have_no_secret() -> None:
    show = (
        "from django.views.debug import SafeExceptionReporterFilter as Filter; "
        "print(Filter().get_safe_settings())"
    )
    secrets = {"DATABASE_URL": "postgresql://u:hunter2@h/x", "SECRET_KEY": "correct-horse" * 5}
    done = manage("shell", "--verbosity=0", "-c", show, **secrets)
    assert "CODE_EXECUTOR" in done.stdout
    assert "hunter2" not in done.stdout and "correct-horse" not in done.stdout
