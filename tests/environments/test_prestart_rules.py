"""Which environments can be pre-started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from codeexec.sandbox import policy
from codeexec.sandbox.types import PrestartKind, Primed
from environments_app.definitions import Definition, DefinitionsError, read_definitions
from environments_app.models import Environment
from environments_app.rules import check_prestart
from environments_app.services import add_revision, record_prestart, sandbox_spec


@pytest.mark.parametrize(
    ("prestart", "preload", "run_command"),
    [
        ("", "", "sh -c 'python {file_path}'"),
        ("python", "", "python {file_path}"),
        ("python", "numpy, pandas.core", "/usr/bin/python3.13 -u -X dev -W error {file_path} x"),
        ("node", "", "node --max-old-space-size={heap_mb} {file_path}"),
        ("node", "", "nodejs {file_path}"),
    ],
)
def test_an_interpreter_that_reads_its_variables_can_be(
    prestart: str, preload: str, run_command: str
) -> None:
    check_prestart(prestart, preload, run_command)


@pytest.mark.parametrize(
    ("prestart", "run_command"),
    [
        ("python", "python -I {file_path}"),
        ("python", "python -uE {file_path}"),
        ("python", "python -S {file_path}"),
        ("python", "python -m pytest {file_path}"),
        ("python", "python -c 1 {file_path}"),
        ("python", "sh -c 'python {file_path}'"),
        ("python", "env A=1 python {file_path}"),
        ("python", "node {file_path}"),
        ("node", "node --test {file_path}"),
        ("node", "node -e 1 {file_path}"),
        ("node", "python {file_path}"),
    ],
)
def test_what_would_run_the_file_at_once_or_is_no_interpreter_is_refused(
    prestart: str, run_command: str
) -> None:
    with pytest.raises(ValueError, match="run_command can't be started ahead; allowed:"):
        check_prestart(prestart, "", run_command)


def test_modules_are_loaded_by_python_alone() -> None:
    with pytest.raises(ValueError, match="modules can be preloaded where prestart is python"):
        check_prestart("node", "numpy", "node {file_path}")


def test_the_console_refuses_the_same() -> None:
    row = Environment(
        name="x",
        image="x",
        default_filename="main.py",
        file_extension=".py",
        run_command="python -I {file_path}",
        prestart="python",
    )
    with pytest.raises(ValidationError) as refused:
        row.clean()
    assert "can't be started ahead" in refused.value.message_dict["prestart"][0]


def in_a_file(tmp_path: Path, keys: str) -> Definition:
    path = tmp_path / "environments.yaml"
    path.write_text(
        "environments:\n  x:\n    default_filename: main.py\n"
        f"    run_command: python {{file_path}}\n{keys}"
    )
    (definition,) = read_definitions(path).environments
    return definition


def test_the_file_has_modules_as_a_list(tmp_path: Path) -> None:
    definition = in_a_file(tmp_path, "    prestart: python\n    preload: [numpy, pandas.core]\n")
    assert (definition.prestart, definition.preload) == ("python", "numpy, pandas.core")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("    preload: numpy\n", "allowed: a list such as [numpy, pandas]"),
        ("    preload: [[numpy]]\n", "allowed: a list such as [numpy, pandas]"),
        ("    preload: [a b]\n", "allowed: names of Python modules"),
        ("    prestart: ruby\n", "allowed: python, node"),
    ],
)
def test_what_is_no_list_of_modules_is_refused(tmp_path: Path, keys: str, message: str) -> None:
    with pytest.raises(DefinitionsError) as refused:
        in_a_file(tmp_path, keys)
    assert message in str(refused.value)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("image_id", "changes", "measured"),
    [
        ("sha256:a", {"pids": 99}, 7_000_000),
        ("sha256:b", {"pids": 99}, None),
        ("sha256:a", {"preload": "numpy, scipy"}, None),
        ("sha256:a", {"prestart": "", "preload": ""}, None),
        ("sha256:a", {"run_command": "python -O {file_path}"}, None),
        ("sha256:a", {"runtime": "runsc"}, None),
    ],
)
def test_a_new_revision_takes_over_what_its_interpreter_was_measured_with(
    image_id: str, changes: dict[str, Any], measured: int | None
) -> None:
    row = Environment(name="x", image="x", prestart="python", preload="numpy")
    row.default_filename, row.file_extension, row.run_command = (
        "main.py",
        ".py",
        "python {file_path}",
    )
    row.save()
    first = add_revision(row, "node", "sha256:a", 1)
    record_prestart(first, Primed(memory_bytes=7_000_000))
    for name, value in changes.items():
        setattr(row, name, value)
    assert add_revision(row, "node", image_id, 1).prestart_bytes == measured


@pytest.mark.django_db
def test_what_the_revision_was_measured_with_comes_on_top_of_the_limits() -> None:
    row = Environment(name="x", image="x", prestart="python", preload="numpy,pandas, scipy")
    row.default_filename, row.run_command = "main.py", "python {file_path}"
    spec = sandbox_spec(row, sandbox_id="a", node="n", max_idle_seconds=9, prestart_bytes=7)
    assert spec.prestart is not None
    assert spec.prestart.kind == PrestartKind.FORK
    assert spec.prestart.argv == ("python", "/workspace/main.py")
    assert spec.prestart.preload == ("numpy", "pandas", "scipy")
    limits = policy.outer_limits(spec)
    assert limits.memory_bytes == spec.limits.memory_bytes + 7
    assert limits.pids == spec.limits.pids + 1


@pytest.mark.django_db
def test_why_nothing_is_prestarted_is_kept_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    row = Environment(name="x", image="x", prestart="python", preload="numpyy")
    row.default_filename, row.file_extension = "main.py", ".py"
    row.run_command = "python {file_path}"
    row.save()
    revision = add_revision(row, "node", "sha256:a", 1)
    assert revision.prestart_state == "not tried yet"
    for _ in range(3):
        record_prestart(revision, Primed(problem="preload: numpyy can't be imported"))
    (record,) = caplog.records
    assert record.getMessage() == (
        "environment x, revision 1: its programs are not pre-started, so they begin later: "
        "preload: numpyy can't be imported"
    )
    revision.refresh_from_db()
    assert revision.prestart_state == "no: preload: numpyy can't be imported"
    record_prestart(revision, Primed(memory_bytes=8_000_000))
    record_prestart(revision, Primed(problem="y" * 1000))
    revision.refresh_from_db()
    assert (revision.prestart_bytes, len(revision.prestart_problem)) == (8_000_000, 300)
    record_prestart(revision, Primed(memory_bytes=8_000_001))
    revision.refresh_from_db()
    assert revision.prestart_state == "yes, 8 MB"
