"""What all management commands have in common: `--help` teaches, `--json` is one value, `--dry-run`
changes nothing, and exit codes tell what became of it.
"""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import (
    CommandError,
    call_command,
    get_commands,
    load_command_class,
)
from django.db import connection, transaction
from django.utils import timezone

from codeexec.audit.models import AuditEntry
from codeexec.cli import EXIT_CODES, TeachingCommand
from codeexec.http.json_answer import render_json
from environments_app.models import Environment
from sessions_app.access.clients import create_client, create_key
from sessions_app.api.answers import SessionSerializer, TimelineSerializer
from sessions_app.models import Execution, FailedLogin, Node, Session
from sessions_app.models.client import BOUNDS
from tests.support.console_fixtures import UNSTARTED, execution, sandbox, session
from tests.support.fake_driver import FakeDriver
from tests.support.working import working

APPS = ("environments_app", "sessions_app")
NAMES = sorted(name for name, app in get_commands().items() if app in APPS)
WITHOUT_JSON = {"run_api", "run_worker"}
"""They run until they are told to end. `benchmark` and `check_isolation` have it among others."""
WITHOUT_DRY_RUN = {
    "benchmark": "runs programs in sessions of its own",
    "check_isolation": "attacks sandboxes of its own",
    "check_node": "looks only",
    "check_stack": "looks only",
    "clients": "looks only",
    "executions": "looks only",
    "export_environments": "writes a copy",
    "run_api": "serves",
    "run_code": "runs a program",
    "run_worker": "serves",
    "sessions": "looks only",
}
SAMPLED = sorted({*NAMES} - {"benchmark", "check_isolation", "run_api", "run_code", "run_worker"})


@pytest.fixture
def cast(this: Node, python: Environment) -> dict[str, Any]:
    """Something for each command to show, or to change."""
    now, old = timezone.now(), timezone.now() - timedelta(days=100)
    live = session(python, this, container_id="a" * 64)
    client = create_client("acme")
    ended = {"status": "stopped", "stop_reason": "client"}
    session(python, this, created_at=old, closed_at=old, **ended)
    FailedLogin.objects.create(username="ada", address="192.0.2.7")
    sandbox(python, this)
    return {
        "live": live,
        "expired": session(python, this, container_id="b" * 64, expires_at=now),
        "run": execution(live, code="print('x')", stdout=b"x\n", stdin=b"in"),
        "key": create_key(client).row,
    }


def samples(cast: dict[str, Any]) -> dict[str, list[str]]:
    """Arguments with which each command that has `--json` or `--dry-run` does its work."""
    waiting = execution(cast["live"], **UNSTARTED)
    return {
        "cancel_execution": [str(waiting.pk), "--yes"],
        "build_environments": ["python"],
        "check_node": [],
        "check_stack": ["--only", "migrations"],
        "cleanup_sessions": [],
        "clients": [],
        "create_admin": [],
        "create_client": ["another"],
        "create_key": ["acme"],
        "drain_node": ["this"],
        "executions": [],
        "export_environments": [],
        "prune_history": ["--older-than", "90d"],
        "revoke_key": [cast["key"].prefix],
        "seed_environments": ["--force"],
        "sessions": [],
        "stop_session": [str(cast["live"].pk)[:8], "--yes"],
        "unlock_login": ["ada"],
    }


def command(name: str) -> Any:
    return load_command_class(get_commands()[name], name)


def shown(name: str, *arguments: str) -> str:
    out = io.StringIO()
    call_command(name, *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def contents() -> dict[str, str]:
    """Of every table there is."""
    found = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT string_agg(t::text, chr(10) ORDER BY t::text) FROM "{table}" t')  # noqa: S608
            found[table] = cursor.fetchone()[0]
    return found


# ---- help


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches(name: str) -> None:
    it = command(name)
    assert isinstance(it, TeachingCommand)
    text = it.create_parser("manage.py", name).format_help()
    words = " ".join(text.split())
    assert " ".join(str(it.help).split()) in words
    examples = re.findall(r"^  (.*manage\.py .*)$", text.partition("\nexamples:\n")[2], re.M)
    assert examples and all(f"manage.py {name}" in each for each in examples)
    codes = text.partition("\nexit codes:\n")[2]
    assert [line for line in codes.splitlines() if line.startswith("  0 ")]
    assert [line for line in codes.splitlines() if line.startswith("  2 ")]
    assert ("--json" in text) is (name not in WITHOUT_JSON)
    assert ("--dry-run" in text) is (name not in WITHOUT_DRY_RUN)


@pytest.mark.parametrize("name", NAMES)
def test_what_help_gives_as_an_example_can_be_typed(name: str) -> None:
    parser = command(name).create_parser("manage.py", name)
    for example in command(name).examples:
        words = shlex.split(example.rpartition("manage.py ")[2])
        assert words.pop(0) == name
        if ">" in words:
            words = words[: words.index(">")]
        parser.parse_args(words)


def test_help_shows_paragraphs_and_tables_as_they_were_written() -> None:
    text = command("check_stack").create_parser("manage.py", "check_stack").format_help()
    assert "\n  runner         starts a sandbox as a session would get it" in text


# ---- JSON


def test_each_command_that_has_json_is_tried(cast: dict[str, Any]) -> None:
    with_json = {name for name in NAMES if command(name).has_json}
    assert with_json - {"run_code"} == set(samples(cast)) == set(SAMPLED)


@pytest.mark.parametrize("name", SAMPLED)
def test_json_is_one_value_and_nothing_else(name: str, cast: dict[str, Any]) -> None:
    assert json.loads(shown(name, *samples(cast)[name], "--json")) is not None


# ---- dry runs


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_DRY_RUN])
def test_a_dry_run_changes_nothing_and_says_what_would_be(
    name: str, cast: dict[str, Any], driver: FakeDriver
) -> None:
    arguments = samples(cast)[name]
    before = contents()
    assert shown(name, *arguments, "--dry-run").strip()
    assert contents() == before
    shown(name, *arguments)
    assert contents() != before


# ---- the audit log


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("cancel_execution", ["execution.cancel"]),
        ("build_environments", ["environment.build"]),
        ("create_admin", ["user.create"]),
        ("create_client", ["client.create", "key.create"]),
        ("create_key", ["key.create"]),
        ("drain_node", ["node.drain"]),
        ("prune_history", ["history.prune"]),
        ("revoke_key", ["key.revoke"]),
        ("seed_environments", 4 * ["environment.seed"]),  # the tests' have no warm pools
        ("stop_session", ["session.stop"]),
        ("unlock_login", ["login.unlock"]),
    ],
)
def test_what_a_command_changes_is_in_the_audit_log(
    name: str, actions: list[str], cast: dict[str, Any]
) -> None:
    shown(name, *samples(cast)[name])
    entries = AuditEntry.objects.order_by("id")
    assert [entry.action for entry in entries] == actions
    assert {(entry.actor_kind, entry.actor_name) for entry in entries} == {("command", name)}


def test_no_key_is_in_the_audit_log(cast: dict[str, Any]) -> None:
    key = json.loads(shown("create_key", "acme", "--json"))["key"]
    assert key.rpartition("_")[2] not in str(list(AuditEntry.objects.values()))


# ---- errors and exit codes


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["sessions", "zz"], 2, "'zz' is not an id"),
        (["sessions", "12345678"], 2, "There is no session 12345678"),
        (["sessions", "--environment", "moon"], 2, "There is no environment 'moon'; there are: "),
        (["executions", "12345678"], 2, "There is no execution 12345678"),
        (["executions", "--session", "zz"], 2, "'zz' is not an id"),
        (["cancel_execution", "12345678", "--yes"], 2, "There is no execution 12345678"),
        (["cancel_execution", "zz"], 2, "'zz' is not an id"),
        (["stop_session"], 2, "Give ids of sessions, or else --all"),
        (["stop_session", "12345678", "--all"], 2, "Give ids of sessions, or else --all"),
        (["stop_session", "12345678", "--yes"], 2, "There is no session 12345678"),
        (["stop_session", "--all"], 2, "confirm with --yes"),
        (["drain_node", "moon"], 2, "There is no node 'moon'; there are: this."),
        (["drain_node", "this", "--resume", "--wait"], 2, "--wait goes with draining"),
        (["drain_node", "this", "--wait", "--timeout", "0"], 1, "this still has 2 sessions"),
        (["revoke_key", "12345678"], 2, "`manage.py clients` lists them"),
        (["create_client", "acme"], 1, "`manage.py create_key acme` makes it another"),
        (["create_key", "nobody"], 2, "There is no client 'nobody'; there are: acme."),
        (["build_environments", "moon"], 2, "There is no environment 'moon'; there are: "),
        (["check_isolation", "--environment", "moon"], 2, "There is no enabled environment moon"),
        (["check_isolation", "--attack", "moon"], 2, "There is no attack moon; --list shows all."),
        (["run_code", "/nowhere.py"], 2, "/nowhere.py can't be read: No such file"),
        (["run_code", "-", "--stdin", "-"], 2, "can't both come from stdin"),
        (["run_code", "README.md"], 2, "No environment runs files like README.md (they run .js"),
        (
            ["run_code", __file__, "--timeout", "1000000"],
            2,
            "timeout must be at most 86400 seconds.",
        ),
        (["run_code", __file__, "--timeout", "0"], 2, "timeout must be at least 0.1 seconds."),
        (["run_code", __file__, "--environment", "moon"], 2, "There is no environment 'moon'; th"),
        (
            ["run_code", __file__, "--runtime", "kata"],
            2,
            "runtime must be left out in environment 'python', not 'kata'.",
        ),
        (["drain_node", "this", "--timeout", "5"], 2, "--timeout is for --wait"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_says_what_to_do(
    cast: dict[str, Any], arguments: list[str], code: int, said: str
) -> None:
    before = contents() if "--wait" not in arguments else None
    with pytest.raises(CommandError) as caught:
        shown(*arguments)
    assert caught.value.returncode == code
    assert said in str(caught.value)
    assert before is None or contents() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["sessions", ""],
        ["sessions", "--environment", ""],
        ["executions", "--session", ""],
        ["stop_session", "--all", "--yes", "--environment", ""],
        ["stop_session", "--all", "--yes", "--node", " "],
        ["cancel_execution", "", "--yes"],
        ["create_client", ""],
        ["create_key", "acme", "--expires-in", ""],
        ["revoke_key", ""],
        ["unlock_login", ""],
        ["run_code", ""],
        ["run_code", __file__, "--environment", ""],
        ["seed_environments", "--file", ""],
        ["prune_history", "--older-than", ""],
    ],
)
def test_an_empty_value_is_refused_and_not_taken_for_none(
    cast: dict[str, Any], arguments: list[str]
) -> None:
    before = contents()
    with pytest.raises(CommandError, match="it is empty; give a value") as caught:
        shown(*arguments)
    assert caught.value.returncode in (1, 2)
    assert contents() == before


def test_an_empty_argument_of_a_program_is_an_argument(cast: dict[str, Any]) -> None:
    parser = command("run_code").create_parser("manage.py", "run_code")
    parsed = parser.parse_args(["x.py", "--args", "", "b"])
    assert parsed.arguments == ["", "b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sessions", "--limit", "0"], "'0' is wrong; give a whole number from 1 to 100000"),
        (["sessions", "--older-than", "5x"], "'5x' is wrong; give 90d, 12h, 30m, 4w, or a date"),
        (["sessions", "--older-than", "9999-01-01"], "must be at least a minute in the past"),
        (["create_client", "b", "--expires-in", "0"], "'0' is wrong; give a number of days, more"),
        (["create_client", "b", "--max-live-sessions", "1.5"], "a whole number from 1 to 21474836"),
        (["create_client", "b", "--max-storage-per-client", "12q"], "'12q' is wrong; give a size"),
        (["prune_history", "--older-than", "1d", "--batch-size", "x"], "'x' is wrong; give a whol"),
        (["prune_history", "--older-than", "1d", "--pause", "99"], "'99' is wrong; give a number"),
        (["run_code", __file__, "--timeout", "soon"], "'soon' is wrong; give a number of seconds"),
        (["benchmark", "--runs", "1"], "'1' is wrong; give a whole number from 2 to"),
        (["benchmark", "--sessions", "0"], "'0' is wrong; give numbers from 1 to 256"),
    ],
)
def test_a_value_that_is_wrong_is_answered_with_what_is_allowed(
    arguments: list[str], said: str
) -> None:
    with pytest.raises(CommandError, match=re.escape(said)):
        shown(*arguments)


def test_each_limit_of_a_client_is_an_option_and_a_field(cast: dict[str, Any]) -> None:
    limits = {name: 7 + number for number, name in enumerate(BOUNDS)}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in limits.items()]
    shown("create_client", "bounded", *given)
    listed = {client["name"]: client for client in json.loads(shown("clients", "--json"))}
    assert {name: listed["bounded"][name] for name in BOUNDS} == limits


def test_what_the_compiler_said_is_shown_once(cast: dict[str, Any]) -> None:
    broken = execution(
        cast["live"], sequence=9, verdict="compile_error", compile_stderr=b"no\n", stderr=b"no\n"
    )
    assert shown("executions", str(broken.pk)).count("no\n") == 1


def test_a_database_that_lacks_tables_is_explained(cast: dict[str, Any]) -> None:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("ALTER TABLE sessions_app_session RENAME TO gone")
        with pytest.raises(CommandError, match=r"Run `manage\.py migrate`"):
            shown("sessions")
        transaction.set_rollback(True)


def test_usual_exit_codes_are_those_of_the_tables() -> None:
    assert list(EXIT_CODES) == [0, 1, 2]


# ---- lists


def test_sessions_are_listed_by_what_is_asked_for(cast: dict[str, Any], other: Node) -> None:
    def listed(*arguments: str) -> list[str]:
        return [each["session_id"] for each in json.loads(shown("sessions", *arguments, "--json"))]

    live = str(cast["live"].pk)
    assert set(listed()) == {live, str(cast["expired"].pk)}
    assert len(listed("--all")) == 3
    assert len(listed("--all", "--limit", "1")) == 1
    assert len(listed("--status", "stopped")) == 1
    assert listed("--node", "other") == []
    assert listed("--client", "acme") == []
    assert listed("--environment", "python", "--older-than", "1h") == []
    assert len(listed("--all", "--older-than", "90d")) == 1
    assert live[:8] in shown("sessions")


def test_a_session_is_shown_with_its_runs(cast: dict[str, Any]) -> None:
    text = shown("sessions", str(cast["live"].pk)[:8])
    assert str(cast["live"].pk) in text
    assert re.search(rf"1 +{str(cast['run'].pk)[:8]} +completed +ok +0", text)
    whole = json.loads(shown("sessions", str(cast["live"].pk), "--json"))
    assert whole["executions"][0]["execution_id"] == str(cast["run"].pk)


def test_executions_are_listed_by_what_is_asked_for(cast: dict[str, Any]) -> None:
    def listed(*arguments: str) -> int:
        return len(json.loads(shown("executions", *arguments, "--json")))

    session_id = str(cast["live"].pk)
    assert listed() == listed("--status", "completed") == listed("--session", session_id) == 1
    assert listed("--verdict", "ok", "--environment", "python", "--node", "this") == 1
    assert listed("--status", "error") == listed("--older-than", "1h") == 0
    assert listed("--client", "acme") == 0
    assert str(cast["run"].pk)[:8] in shown("executions")


def test_an_execution_is_shown_with_code_input_and_output(cast: dict[str, Any]) -> None:
    text = shown("executions", str(cast["run"].pk)[:13])
    assert "--- code\nprint('x')\n--- input\nin\n--- output\nx\n" in text
    whole = json.loads(shown("executions", str(cast["run"].pk), "--json"))
    assert (whole["code"], whole["stdout"]) == ("print('x')", "x\n")


# ---- actions


def test_sessions_of_an_environment_are_stopped(
    cast: dict[str, Any], rust: Environment, this: Node
) -> None:
    session(rust, this, container_id="d" * 64)
    text = shown("stop_session", "--environment", "rust", "--yes")
    assert text.endswith("1 session in all\n")
    assert Session.objects.open().count() == 2


def test_one_that_has_ended_is_told_and_no_failure(cast: dict[str, Any]) -> None:
    shown("stop_session", str(cast["live"].pk), "--yes")
    assert "had ended already" in shown("stop_session", str(cast["live"].pk), "--yes")
    assert AuditEntry.objects.filter(action="session.stop").count() == 1


def test_a_node_is_drained_resumed_and_recycled(cast: dict[str, Any], this: Node) -> None:
    def status() -> str:
        return Node.objects.get(pk=this.pk).status

    assert "takes no new sessions; 2 sessions live there" in shown("drain_node", "this")
    assert status() == "draining"
    assert "was not changed: it is draining" in shown("drain_node", "this")
    assert "takes new sessions" in shown("drain_node", "this", "--resume")
    assert status() == "active"
    assert json.loads(shown("drain_node", "this", "--recycle", "--json"))["recycled"] == 1
    assert status() == "active"


def test_what_is_asked_of_a_lost_node_is_refused_with_what_to_do(
    cast: dict[str, Any], this: Node
) -> None:
    silent = timezone.now() - timedelta(minutes=3)
    Node.objects.filter(pk=this.pk).update(status="lost", heartbeat_at=silent)
    for option, then in (("--resume", "takes new sessions again"), ("--wait", "can be drained")):
        with pytest.raises(CommandError) as caught:
            shown("drain_node", "this", option)
        assert caught.value.returncode == 1
        assert re.fullmatch(
            r"Nothing was changed: node this is lost: no sign of life for 3 min 0\d s\. "
            rf".*start it again.* It {then} as soon as its worker runs\.",
            str(caught.value),
        )
    assert Node.objects.get(pk=this.pk).status == "lost"


def test_where_no_row_has_a_name_yet_it_is_told_how_to_make_one(transactional_db: None) -> None:
    for arguments, how in (
        (["drain_node", "moon"], "start one with `manage.py run_worker`."),
        (["create_key", "moon"], "`manage.py create_client NAME` makes one."),
        (["sessions", "--environment", "moon"], "`manage.py seed_environments` makes those of the"),
    ):
        with pytest.raises(CommandError, match=re.escape(f"there is none yet: {how}")):
            shown(*arguments)


def test_what_is_cancelled_is_told_once_and_what_has_ended_is_no_failure(
    cast: dict[str, Any],
) -> None:
    waiting = execution(cast["live"], **UNSTARTED)
    arguments = [str(waiting.pk), str(waiting.pk), str(cast["run"].pk), "--yes"]
    text = shown("cancel_execution", *arguments)
    assert f"{waiting.pk} cancelled\n{cast['run'].pk} had ended already\n1 execution in" in text
    assert Execution.objects.get(pk=cast["run"].pk).status == "completed"


# ---- run_code


@pytest.fixture
def running(transactional_db: None, python: Environment, this: Node) -> Callable[..., Any]:
    """`run_code` with somebody who does the work; its exit code and what it printed."""

    def run(*arguments: str) -> Any:
        out, err = io.StringIO(), io.StringIO()
        with working(), pytest.raises(SystemExit) as ended:
            call_command("run_code", *arguments, stdout=out, stderr=err)
        return ended.value.code, out.getvalue(), err.getvalue()

    return run


PROGRAM = """
import sys
print(sys.argv[1:], sys.stdin.read())
print("oh", file=sys.stderr)
sys.exit(7)
"""


def test_a_file_is_run_and_its_exit_code_passed_on(running: Any, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(PROGRAM)
    (tmp_path / "in.txt").write_text("given")
    program, given = str(tmp_path / "a.py"), str(tmp_path / "in.txt")
    assert running(program, "--stdin", given, "--args", "-x", "1") == (
        7,
        "['-x', '1'] given\n",
        "oh\n",
    )
    assert Execution.objects.get().session.one_shot


def test_the_whole_answer_is_given_as_json(running: Any, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(PROGRAM)
    code, out, err = running(str(tmp_path / "a.py"), "--json")
    answer = json.loads(out)
    assert (code, err) == (7, "")
    assert (answer["exit_code"], answer["stderr"]) == (7, "oh\n")


def test_what_comes_to_stdin_is_the_programs(
    running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text("print(input() + '!')\n")
    for given in ("é\n".encode(), b"another\n"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        assert running(str(tmp_path / "a.py"))[:2] == (0, f"{given.decode().strip()}!\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(CommandError, match="not text in UTF-8"):
        call_command("run_code", str(tmp_path / "a.py"))


def test_a_limit_that_ended_the_program_is_told(running: Any, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print(1, flush=True)\nwhile True: pass\n")
    code, out, err = running(str(tmp_path / "a.py"), "--timeout", "0.5")
    assert (code, out) == (124, "1\n")
    assert err.endswith("The time limit of 0.5 s ended the program.\n")


@pytest.mark.parametrize("name", ["a\0b", "x" * 1000])
def test_a_client_without_a_name_is_refused_with_a_sentence(name: str, db: None) -> None:
    with pytest.raises(CommandError) as refused:
        call_command("create_client", name)
    assert str(refused.value).startswith("A client's name must have 1 to ")
    assert "constraint" not in str(refused.value)


def test_commands_and_the_api_have_the_same_names(
    cast: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("sessions", str(cast["live"].pk), "--json")
    told = json.loads(capsys.readouterr().out)
    answered = json.loads(render_json(SessionSerializer(cast["live"]).data))
    assert answered.items() <= told.items()
    call_command("executions", str(cast["run"].pk), "--json")
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(render_json(TimelineSerializer(cast["run"]).data))
