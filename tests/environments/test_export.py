"""What is exported is seeded back as the same."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from environments_app.definitions import Definitions, read_definitions
from environments_app.models import Environment, EnvironmentBuild
from environments_app.seeding import Outcome, seed

pytestmark = pytest.mark.django_db
CHANGES = {
    "pids": 77,
    "memory_bytes": 300 * 1024**2,
    "max_memory_bytes": 1024**3,
    "cpus": 0.25,
    "network": True,
    "warm_pool_max": 12,
    "runtime": "runsc",
    "smoke_stdout": "null\n  yes: 'é'\n",
    "title": "Python: «3.13»",
    "version": "3.13",
    "editor_mode": "text/x-python",
    "sample": "if True:\n    print('é')\n\n",
    "description": "3.13: «new» # no comment",
    "compile_command": 'sh -c "true && true"',
}


@pytest.fixture(autouse=True)
def rows(db: None, definitions: Definitions) -> None:
    seed(definitions)
    Environment.objects.filter(name="python").update(**CHANGES)


def export(*arguments: str) -> str:
    out = StringIO()
    call_command("export_environments", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def test_an_export_is_seeded_back_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "environments.yaml"
    path.write_text(export())
    before = [row.defining_columns() for row in Environment.objects.all()]
    report = seed(read_definitions(path), force=True)
    assert {each.outcome for each in report} == {Outcome.UNCHANGED}
    assert [row.defining_columns() for row in Environment.objects.all()] == before
    Environment.objects.all().delete()
    seed(read_definitions(path))
    assert [row.defining_columns() for row in Environment.objects.all()] == before
    python = Environment.objects.get(name="python")
    assert (python.smoke_stdout, python.is_default) == (CHANGES["smoke_stdout"], True)
    assert (python.warm_pool_size, python.warm_pool_max) == (2, 12)
    for name in ("title", "version", "editor_mode", "sample"):
        assert getattr(python, name) == CHANGES[name]


def test_promoted_dockerfiles_go_into_a_folder(tmp_path: Path) -> None:
    python = Environment.objects.get(name="python")
    build = EnvironmentBuild.objects.create(environment=python, dockerfile="FROM debian\n")
    Environment.objects.filter(pk=python.pk).update(build=build)
    answer = json.loads(export("--json", "--dockerfiles", str(tmp_path)))
    path = tmp_path / "python" / "Dockerfile"
    assert answer["dockerfiles"] == [str(path)]
    assert path.read_text() == "FROM debian\n"
    assert answer["yaml"] == export()


def test_what_a_file_cannot_say_is_refused() -> None:
    Environment.objects.filter(name="node").update(workspace_dir="/srv/work")
    with pytest.raises(CommandError, match="differ in workspace_dir"):
        export()
