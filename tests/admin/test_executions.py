"""The operators' pages of executions; and lists read no more than they show."""

from __future__ import annotations

import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from environments_app.models import Environment
from sessions_app.admin.display import SHOWN_CHARACTERS
from sessions_app.models import InputPiece, Node
from tests.support.console_fixtures import (
    EXECUTION,
    HISTORY,
    HOSTILE,
    HOSTILE_ESCAPED,
    NODE,
    SANDBOX,
    SESSION,
    execution,
    failed_task,
    list_page,
    page,
    sandbox,
    session,
    shown,
    text_of,
)


def test_an_execution_list_shows_figures_in_units_that_people_read(
    admin_client: Client, this: Node, python: Environment
) -> None:
    execution(session(python, this), wall_seconds=1.25, cpu_seconds=0.0123)
    text = text_of(admin_client, list_page(EXECUTION))
    for expected in ("1.25 s", "12 ms", "9.0 MiB", "20 ms", "completed", "ok"):
        assert f">{expected}<" in text.replace("\n", ""), expected


@pytest.mark.parametrize(
    "query",
    [
        {"status__exact": "error"},
        {"verdict__exact": "internal_error"},
        {"session__environment__id__exact": "rust"},
        {"queued_at_from": "2026-01-15", "queued_at_to": "2026-01-15"},
    ],
    ids=["status", "verdict", "environment", "date"],
)
def test_executions_are_filtered(
    admin_client: Client,
    this: Node,
    python: Environment,
    rust: Environment,
    query: dict[str, str],
) -> None:
    execution(session(python, this))
    wanted = execution(
        session(rust, this),
        status="error",
        verdict="internal_error",
        error_reason="its worker died",
        queued_at=timezone.now().replace(year=2026, month=1, day=15),
    )
    given = {name: str(rust.pk) if value == "rust" else value for name, value in query.items()}
    assert shown(admin_client, EXECUTION, **given) == {str(wanted.pk)}


def test_executions_are_found_by_id_session_and_code(
    admin_client: Client, this: Node, python: Environment
) -> None:
    execution(session(python, this, id="bbbbbbbb-0000-4000-8000-000000000000"))
    wanted = execution(
        session(python, this, id="abcdef01-2345-4789-8abc-def012345678"),
        id="12345678-2345-4789-8abc-def012345678",
        code="from fractions import Fraction",
    )
    for term in (str(wanted.pk), "12345678", "abcdef01", str(wanted.session_id), "fractions"):
        assert shown(admin_client, EXECUTION, q=term) == {str(wanted.pk)}, term


def test_an_execution_page_shows_what_was_run_and_what_came_of_it(
    admin_client: Client, this: Node, rust: Environment
) -> None:
    shown_row = execution(
        session(rust, this),
        code="fn main() {}",
        stdin=b"a line of input",
        args=["--fast"],
        env={"LEVEL": "3"},
        files={"data/table.csv": "a,b"},
        stdout=b"before \xff after",
        stderr=b"a complaint",
        stderr_truncated=True,
        compile_exit_code=0,
        compile_stdout=b"compiled",
        compile_stderr=b"unused variable",
        compile_wall_seconds=0.4,
    )
    text = text_of(admin_client, page(shown_row))
    for expected in (
        "fn main() {}",
        "a line of input",
        "--fast",
        "LEVEL",
        "data/table.csv",
        "before \N{REPLACEMENT CHARACTER} after",
        "a complaint",
        "The rest was cut off",
        "compiled",
        "unused variable",
        "400 ms",
        str(shown_row.session_id),
    ):
        assert expected in text, expected


def test_a_page_reads_no_more_of_what_is_large_than_it_shows(
    admin_client: Client, this: Node, python: Environment
) -> None:
    """A row may have 8 MB of files and 2 MB of output, and several may look at it."""
    large = execution(
        session(python, this),
        code="ж" * (SHOWN_CHARACTERS - 1),
        stdin=b"i" * 1_000_000,
        files={"big.txt": "x" * 3_000_000, "little.txt": "y"},
        env={"LEVEL": "3"},
        stdout=b"\0" * 1_000_000,
        stderr=b"e" * SHOWN_CHARACTERS,
    )
    with CaptureQueriesContext(connection) as statements:
        text = text_of(admin_client, page(large))
    reading = [
        each["sql"] for each in statements if '"sessions_app_execution"."queued_at"' in each["sql"]
    ]
    assert len(reading) == 1
    assert f'"{EXECUTION}"."stdout",' not in reading[0]
    assert text.count("This is the beginning of 977 KiB") == 2
    assert text.count("This is the beginning of 2.9 MiB") == 1
    assert text.count("This is the beginning of") == 3, "what is whole is called cut"
    assert "ж" * (SHOWN_CHARACTERS - 1) in text
    assert "&quot;LEVEL&quot;: &quot;3&quot;" in text
    assert len(text) < 6 * SHOWN_CHARACTERS


def test_pages_tell_what_was_prestarted(
    admin_client: Client, this: Node, python: Environment
) -> None:
    own = session(python, this)
    ahead, anew = execution(own, prestarted=True), execution(own, sequence=2, prestarted=False)
    for row, word in ((ahead, "yes"), (anew, "no")):
        assert re.search(f"Pre-started.{{,400}}>{word}<", text_of(admin_client, page(row)), re.S)
    found = shown(admin_client, EXECUTION, prestarted__exact="1")
    assert found == {str(ahead.pk)}
    assert text_of(admin_client, page(own)).count("began <b>pre-started</b>") == 1


def test_a_page_says_why_we_failed_and_is_silent_about_what_there_was_not(
    admin_client: Client, this: Node, python: Environment
) -> None:
    failed = execution(
        session(python, this),
        status="error",
        verdict="internal_error",
        error_reason="The worker that ran it has died.",
        exit_code=None,
        wall_seconds=None,
        cpu_seconds=None,
        memory_peak_bytes=None,
    )
    text = text_of(admin_client, page(failed))
    assert "The worker that ran it has died." in text
    for absent in ("Compilation", "Standard input", "Arguments", "The rest was cut off"):
        assert absent not in text


def test_long_output_is_folded_away_and_its_page_stays_small(
    admin_client: Client, this: Node, python: Environment
) -> None:
    loud = execution(session(python, this), stdout=b"0123456789\n" * 200_000)
    text = text_of(admin_client, page(loud))
    assert "9091 lines, 100000 characters of 2.1 MiB" in text
    assert "<details" in text
    assert "This is the beginning of 2.1 MiB" in text
    assert len(text) < 400_000


def test_nothing_that_a_program_or_a_client_wrote_becomes_markup(
    admin_client: Client, this: Node, python: Environment
) -> None:
    hostile = HOSTILE.encode()
    ran = session(
        python,
        this,
        status="error",
        metadata={"candidate": HOSTILE},
        error_reason=HOSTILE,
    )
    row = execution(
        ran,
        code=HOSTILE,
        filename=HOSTILE,
        stdin=hostile,
        args=[HOSTILE],
        env={HOSTILE: HOSTILE},
        files={HOSTILE: HOSTILE},
        stdout=hostile,
        stderr=hostile,
        compile_exit_code=0,
        compile_stdout=hostile,
        compile_stderr=hostile,
        worker=HOSTILE,
    )
    Node.objects.filter(pk=this.pk).update(engine_error=HOSTILE)
    task = failed_task()
    pages = [page(ran), page(row), page(this), page(task), reverse("admin:index")]
    lists = [list_page(model) for model in HISTORY]
    escaped = 0
    for url in pages + lists:
        text = text_of(admin_client, url)
        assert HOSTILE not in text, url
        escaped += text.count(HOSTILE_ESCAPED)
    assert escaped >= 15


# Reading no more than is shown


@pytest.mark.parametrize("model", [SESSION, EXECUTION, NODE, SANDBOX])
def test_a_list_takes_as_many_queries_for_many_rows_as_for_one(
    admin_client: Client, this: Node, python: Environment, rust: Environment, model: str
) -> None:
    def fill(environment: Environment, node: Node) -> None:
        ran = session(environment, node)
        execution(ran)
        execution(ran)
        sandbox(environment, node)

    fill(python, this)
    fill(rust, Node.objects.create(name="second", capacity=1, concurrency=1))
    admin_client.get(list_page(model))  # fills the cache of content types
    few = _queries(admin_client, list_page(model))
    for number in range(10):
        fill(python, Node.objects.create(name=f"more-{number}", capacity=1, concurrency=1))
    assert _queries(admin_client, list_page(model)) == few


def test_a_timeline_takes_as_many_queries_for_many_runs_as_for_one(
    admin_client: Client, this: Node, python: Environment
) -> None:
    ran = session(python, this)
    execution(ran)
    admin_client.get(page(ran))
    few = _queries(admin_client, page(ran))
    for _ in range(10):
        execution(ran)
    assert _queries(admin_client, page(ran)) == few


def _queries(client: Client, url: str) -> int:
    with CaptureQueriesContext(connection) as queries:
        assert client.get(url).status_code == 200
    return len(queries)


def test_the_list_does_not_read_programs_and_their_output(
    admin_client: Client, this: Node, python: Environment
) -> None:
    ran = session(python, this)
    execution(ran)
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(list_page(EXECUTION))
    read = [query["sql"] for query in queries if 'FROM "sessions_app_execution"' in query["sql"]]
    assert read
    for column in ("code", "stdin", "files", "stdout", "stderr", "compile_stderr"):
        assert not [sql for sql in read if f'"sessions_app_execution"."{column}"' in sql], column


def test_an_execution_page_reads_its_row_at_once(
    admin_client: Client, this: Node, python: Environment
) -> None:
    row = execution(session(python, this))
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(page(row))
    read = [query["sql"] for query in queries if 'FROM "sessions_app_execution"' in query["sql"]]
    assert not [sql for sql in read if '"sessions_app_execution"."code"' in sql], "all of it"
    assert sum("substring(sessions_app_execution.code " in sql for sql in read) == 1
    assert len(read) == 2  # and whether it can still be cancelled


def test_what_was_typed_into_a_run_is_shown_with_it(
    admin_client: Client, python: Environment, this: Node
) -> None:
    asked = execution(session(python, this), interactive=True)
    InputPiece.objects.create(execution=asked, start=0, data=b"forty-")
    InputPiece.objects.create(execution=asked, start=6, data=b"two\n")
    assert "forty-two" in text_of(admin_client, page(asked))
    assert "forty-two" in text_of(admin_client, page(asked.session))
