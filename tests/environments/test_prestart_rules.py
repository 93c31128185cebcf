"""Which environments can be pre-started."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from environments_app.models import Environment
from environments_app.rules import check_prestart


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
