"""Seeding takes the file's news and keeps what operators changed."""

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from codeexec.audit.actors import command_actor
from codeexec.cli import changing
from codeexec.sandbox.types import ImageInfo
from environments_app.definitions import Definition, Definitions, DefinitionsError
from environments_app.models import Environment
from environments_app.seeding import Outcome, changed_fields, seed
from environments_app.services import make_default, record_image
from sessions_app.models import Node

pytestmark = pytest.mark.django_db


def definition(name: str, **changes: object) -> Definition:
    given: dict[str, object] = {
        "name": name,
        "image": name,
        "default_filename": "main.py",
        "file_extension": ".py",
        "run_command": "python {file_path}",
    }
    return Definition(**(given | changes))


def file(*environments: Definition, default: str | None = "python") -> Definitions:
    return Definitions(environments=environments, default_environment=default)


def outcomes(*args: object, **options: bool) -> dict[str | None, Outcome]:
    return {each.name: each.outcome for each in seed(*args, **options)}


PYTHON, NODE = definition("python"), definition("node", limits={"pids": 80, "cpus": 1.0})


def test_what_is_missing_is_created() -> None:
    assert outcomes(file(PYTHON, NODE)) == {
        "python": Outcome.CREATED,
        "node": Outcome.CREATED,
        None: Outcome.UPDATED,
    }
    node = Environment.objects.get(name="node")
    assert (node.pids, node.cpus, node.memory_bytes) == (80, 1.0, None)
    assert Environment.objects.get(is_default=True).name == "python"


def test_seeding_the_same_again_changes_nothing() -> None:
    seed(file(PYTHON, NODE))
    before = list(Environment.objects.values())
    assert set(outcomes(file(PYTHON, NODE)).values()) == {Outcome.UNCHANGED}
    assert list(Environment.objects.values()) == before


def test_what_nobody_touched_is_updated() -> None:
    seed(file(PYTHON, NODE))
    report = seed(file(definition("python", description="new", limits={"pids": 99}), NODE))
    assert (report[0].outcome, set(report[0].fields)) == (Outcome.UPDATED, {"description", "pids"})
    python = Environment.objects.get(name="python")
    assert (python.description, python.pids) == ("new", 99)
    assert changed_fields(python) == ()


def test_a_limit_that_left_the_file_is_left_to_the_settings() -> None:
    seed(file(PYTHON, NODE))
    seed(file(PYTHON, definition("node")))
    assert Environment.objects.get(name="node").pids is None


def test_what_an_operator_changed_is_kept_whole_and_named() -> None:
    seed(file(PYTHON))
    Environment.objects.update(pids=60, run_command="python3 {file_path}")
    report = seed(file(definition("python", description="news")))
    assert report[0].outcome == Outcome.KEPT
    assert set(report[0].fields) == {"pids", "run_command"}
    python = Environment.objects.get()
    assert (python.pids, python.description) == (60, "")


def test_it_is_kept_also_when_the_file_did_not_change() -> None:
    seed(file(PYTHON))
    Environment.objects.update(enabled=False)
    assert outcomes(file(PYTHON))["python"] == Outcome.KEPT
    assert not Environment.objects.get().enabled


def test_an_operators_change_that_the_file_takes_over_is_no_change_any_more() -> None:
    seed(file(PYTHON))
    Environment.objects.update(pids=60)
    same = definition("python", limits={"pids": 60})
    assert outcomes(file(same))["python"] == Outcome.UNCHANGED
    assert outcomes(file(definition("python", limits={"pids": 70})))["python"] == Outcome.UPDATED


def test_an_environment_made_in_the_admin_is_kept() -> None:
    columns = PYTHON.columns() | {"description": "mine"}
    Environment.objects.create(name="python", **columns)
    report = seed(file(PYTHON))
    assert (report[0].outcome, report[0].fields) == (Outcome.KEPT, ("description",))
    assert Environment.objects.get().description == "mine"


def test_force_takes_the_files_word() -> None:
    seed(file(PYTHON, NODE))
    Environment.objects.update(pids=60, enabled=True)
    make_default(Environment.objects.get(name="node"), by=command_actor("tests"))
    assert outcomes(file(PYTHON, NODE), force=True) == {
        "python": Outcome.UPDATED,
        "node": Outcome.UPDATED,
        None: Outcome.UPDATED,
    }
    assert list(Environment.objects.values_list("name", "pids", "is_default")) == [
        ("node", 80, False),
        ("python", None, True),
    ]


def test_what_is_not_in_the_file_stays_and_is_reported() -> None:
    seed(file(PYTHON, NODE))
    assert outcomes(file(PYTHON))["node"] == Outcome.NOT_IN_FILE
    assert Environment.objects.filter(name="node", enabled=True).exists()


def test_what_was_deleted_is_created_again() -> None:
    seed(file(PYTHON, NODE))
    Environment.objects.filter(name="node").delete()
    assert outcomes(file(PYTHON, NODE))["node"] == Outcome.CREATED


def test_the_file_moves_the_default_that_nobody_touched() -> None:
    seed(file(PYTHON, NODE))
    assert outcomes(file(PYTHON, NODE, default="node"))[None] == Outcome.UPDATED
    assert Environment.objects.get(is_default=True).name == "node"


def test_a_default_that_an_operator_chose_is_kept() -> None:
    seed(file(PYTHON, NODE, definition("rust")))
    make_default(Environment.objects.get(name="node"), by=command_actor("tests"))
    report = seed(file(PYTHON, NODE, definition("rust"), default="rust"))
    assert (report[-1].outcome, report[-1].default) == (Outcome.KEPT, "node")
    assert Environment.objects.get(is_default=True).name == "node"


def test_a_file_without_a_default_leaves_it_alone() -> None:
    seed(file(PYTHON))
    assert None not in outcomes(file(PYTHON, default=None))
    assert Environment.objects.get().is_default


def test_choosing_the_default_is_no_change_of_the_environment() -> None:
    seed(file(PYTHON, NODE))
    make_default(Environment.objects.get(name="node"), by=command_actor("tests"))
    news = definition("python", description="news")
    assert outcomes(file(news, NODE))["python"] == Outcome.UPDATED


def test_a_dry_run_reports_and_changes_nothing() -> None:
    with changing({"dry_run": True}):
        assert outcomes(file(PYTHON))["python"] == Outcome.CREATED
    assert not Environment.objects.exists()
    seed(file(PYTHON))
    news = file(definition("python", description="news"))
    with changing({"dry_run": True}):
        assert outcomes(news)["python"] == Outcome.UPDATED
    assert Environment.objects.get().description == ""


def test_a_new_command_makes_a_revision() -> None:
    seed(file(PYTHON))
    image = ImageInfo(reference="x", image_id="sha256:1", size_bytes=1, created_at="2026")
    record_image(Environment.objects.get(), image)
    seed(file(definition("python", run_command="python -X dev {file_path}")))
    revision = Environment.objects.get().current_revision
    assert revision is not None
    assert revision.number == 2
    assert revision.definition["run_command"] == "python -X dev {file_path}"


def seed_environments(path: Path, *options: str) -> str:
    out = StringIO()
    call_command("seed_environments", "--file", str(path), *options, stdout=out)
    return out.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "environments.yaml"
    path.write_text(
        "environments:\n"
        "  a: {default_filename: main.a, run_command: 'a {file_path}', description: one}\n"
        "  b: {default_filename: main.b, run_command: 'b {file_path}', limits: {memory: 1g}}\n"
        "defaults: {default_environment: a}\n"
    )
    return path


def test_the_command_prints_a_row_for_each_environment(path: Path) -> None:
    assert seed_environments(path).splitlines() == [
        "a                    created",
        "b                    created",
        "default environment  updated: a",
    ]
    Environment.objects.filter(name="b").update(memory_bytes=1, run_command="c")
    make_default(Environment.objects.get(name="b"), by=command_actor("tests"))
    Environment.objects.create(
        name="c", image="c", default_filename="c.c", file_extension=".c", run_command="c"
    )
    path.write_text(path.read_text().replace("one", "two"))
    assert seed_environments(path).splitlines() == [
        "a                    updated (description)",
        "b                    kept (changed in the admin: run command, memory); "
        "--force takes the file's word",
        "c                    not in the file",
        "default environment  kept: b (chosen in the admin); --force takes the file's word",
    ]
    assert seed_environments(path, "--force").splitlines() == [
        "a                    unchanged",
        "b                    updated (run command, memory)",
        "c                    not in the file",
        "default environment  updated: a",
    ]


def test_the_commands_dry_run_says_so(path: Path) -> None:
    assert "Nothing was changed" in seed_environments(path, "--dry-run")
    assert not Environment.objects.exists()


def test_the_command_refuses_a_broken_file_whole(path: Path) -> None:
    path.write_text(path.read_text().replace("1g", "1x"))
    with pytest.raises(CommandError, match=r"(?s)Nothing was seeded.*line 3, .*limits\.memory"):
        seed_environments(path)
    assert not Environment.objects.exists()


def test_the_shipped_file_is_what_the_command_reads() -> None:
    call_command("seed_environments", stdout=StringIO())
    names = Environment.objects.enabled().values_list("name", flat=True)
    assert list(names) == ["node", "python", "python-ml", "rust"]


def test_a_runtime_that_no_node_has_is_refused_with_a_sentence(this: Node) -> None:
    Node.objects.update(runtimes=["runc", "runsc"])
    seed(file(PYTHON, definition("other", runtime="runsc")))
    with pytest.raises(
        DefinitionsError, match=r"environments\.node\.runtime: 'kata' can't be used: no"
    ):
        seed(file(PYTHON, definition("node", runtime="kata")))
    assert not Environment.objects.filter(name="node").exists()
    Node.objects.update(runtimes=["runc"])
    seed(file(PYTHON, definition("other", runtime="runsc")))  # it has it already
