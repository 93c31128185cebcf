"""What the database refuses, what limits come to, and how revisions are counted."""

import threading
from collections.abc import Callable

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.models import ProtectedError

from codeexec.audit.actors import command_actor
from codeexec.errors import UnknownEnvironment
from codeexec.sandbox.types import ImageInfo, SandboxLimits
from environments_app.limits import EnvironmentLimits
from environments_app.models import Environment, EnvironmentRevision
from environments_app.services import (
    find_environment,
    make_default,
    record_definition,
    record_image,
    sandbox_spec,
)
from tests.support.sandboxes import configured_image

pytestmark = pytest.mark.django_db
MIB = 1024 * 1024


def create(name: str = "python", **columns: object) -> Environment:
    given: dict[str, object] = {
        "image": name,
        "default_filename": "main.py",
        "file_extension": ".py",
        "run_command": "python {file_path}",
    }
    return Environment.objects.create(name=name, **(given | columns))


def image(image_id: str = "sha256:1") -> ImageInfo:
    return ImageInfo(
        reference=configured_image("python"),
        image_id=image_id,
        size_bytes=7,
        created_at="2026-01-01",
    )


@pytest.mark.parametrize(
    ("constraint", "columns"),
    [
        ("environment_name", {"name": "Python", "image": "x"}),
        ("environment_name", {"name": "a--b", "image": "x"}),
        ("environment_name", {"name": "a\n", "image": "x"}),
        ("environment_image", {"image": "a b"}),
        ("environment_image", {"image": ""}),
        ("environment_can_run", {"run_command": ""}),
        ("environment_can_run", {"file_extension": ""}),
        ("environment_workspace_dir", {"workspace_dir": "work"}),
        ("environment_workspace_dir", {"workspace_dir": "/"}),
        ("environment_executor_user", {"executor_user": "root"}),
        ("environment_warm_pool_size", {"warm_pool_size": 101}),
        ("environment_warm_pool_max", {"warm_pool_max": 101}),
        ("environment_warm_pool_max", {"warm_pool_size": 3, "warm_pool_max": 2}),
        ("environment_warm_pool_max", {"warm_pool_max": 0}),
        ("environment_memory_bytes", {"memory_bytes": 0}),
        ("environment_memory_bytes", {"max_memory_bytes": -1}),
        ("environment_cpus", {"cpus": 1.5, "max_cpus": 1.0}),
        ("environment_pids", {"pids": 0}),
        ("environment_timeout_seconds", {"timeout_seconds": 31, "max_timeout_seconds": 30}),
        ("environment_tmpfs_bytes", {"tmpfs_bytes": -5}),
        ("environment_output_bytes", {"output_bytes": 2, "max_output_bytes": 1}),
    ],
)
def test_the_database_refuses(constraint: str, columns: dict[str, object]) -> None:
    with pytest.raises(IntegrityError, match=f'"{constraint}"'), transaction.atomic():
        create(**columns)


def test_a_limit_may_equal_its_maximum() -> None:
    create(cpus=2.0, max_cpus=2.0, memory_bytes=1, max_memory_bytes=1)


@pytest.mark.parametrize(
    ("size", "most", "ceiling"),
    [(0, None, 0), (1, None, 8), (8, None, 8), (20, None, 20), (0, 3, 3), (2, 2, 2), (2, 100, 100)],
)
def test_a_pool_has_a_ceiling(size: int, most: int | None, ceiling: int) -> None:
    assert create(warm_pool_size=size, warm_pool_max=most).warm_pool_ceiling == ceiling


def test_only_one_environment_is_the_default() -> None:
    create("a", is_default=True)
    create("b")
    create("c")
    with pytest.raises(IntegrityError, match="environment_one_default"), transaction.atomic():
        create("d", is_default=True)


def test_names_are_unique() -> None:
    create("a")
    with pytest.raises(IntegrityError, match="name"), transaction.atomic():
        create("a")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "Rust"),
        ("image", "a b"),
        ("default_filename", "/etc/passwd"),
        ("default_filename", "../main.py"),
        ("file_extension", "py"),
        ("run_command", "python {path}"),
        ("compile_command", 'sh -c "'),
        ("workspace_dir", "/etc"),
        ("executor_user", "0:1000"),
        ("runtime", "run sc"),
        ("warm_pool_size", 101),
        ("warm_pool_max", 101),
        ("max_memory_bytes", 128 * MIB),
    ],
)
def test_cleaning_names_the_field(column: str, value: object) -> None:
    environment = create()
    setattr(environment, column, value)
    with pytest.raises(ValidationError) as caught:
        environment.full_clean()
    named = {column, "__all__"} if column.startswith("warm_pool") else {column}
    assert set(caught.value.message_dict) <= named


def test_the_default_cannot_be_disabled() -> None:
    environment = create(is_default=True, enabled=False)
    with pytest.raises(ValidationError, match="must be enabled"):
        environment.full_clean()


def test_limits_are_its_own_or_those_of_the_settings() -> None:
    assert create(pids=80, cpus=2.0).limits() == EnvironmentLimits(
        memory_bytes=256 * MIB,
        cpus=2.0,
        pids=80,
        timeout_seconds=30.0,
        interactive_seconds=600.0,
        tmpfs_bytes=64 * MIB,
        output_bytes=MIB,
    )


def test_maxima_are_its_own_or_the_limits() -> None:
    environment = create(pids=80, max_memory_bytes=1024 * MIB, max_timeout_seconds=60)
    assert environment.maxima() == EnvironmentLimits(
        memory_bytes=1024 * MIB,
        cpus=0.5,
        pids=80,
        timeout_seconds=60,
        interactive_seconds=600.0,
        tmpfs_bytes=64 * MIB,
        output_bytes=MIB,
    )


def test_a_maximum_is_never_less_than_the_limit(settings) -> None:
    environment = create(max_timeout_seconds=60)
    settings.CODE_EXECUTOR = settings.CODE_EXECUTOR | {"EXECUTION_TIMEOUT": 90.0}
    assert environment.maxima().timeout_seconds == 90.0


def test_the_image_carries_the_prefix(settings) -> None:
    settings.CODE_EXECUTOR = settings.CODE_EXECUTOR | {"DOCKER_IMAGE_PREFIX": "acme/run"}
    assert create(image="py:3").image_reference == "acme/run-py:3"


def test_an_environment_is_found_by_name_or_as_the_default() -> None:
    python, node = create("python", is_default=True), create("node")
    assert find_environment("node") == node
    assert find_environment(None) == python


def test_an_unknown_environment_names_those_there_are() -> None:
    create("python")
    create("node")
    create("off", enabled=False)
    for name in ("off", "perl", ""):
        with pytest.raises(UnknownEnvironment) as caught:
            find_environment(name)
        assert caught.value.body() == {
            "detail": f"There is no environment {name!r}; there are: node, python.",
            "code": "unknown_environment",
            "environments": ["node", "python"],
            "field": "environment",
            "errors": {"environment": [caught.value.detail]},
        }


def test_without_a_default_one_has_to_be_named() -> None:
    with pytest.raises(UnknownEnvironment, match="no default environment; no environment is"):
        find_environment(None)


def test_there_is_one_default_after_choosing_another() -> None:
    create("python", is_default=True)
    node = create("node", enabled=False)
    make_default(node, by=command_actor("tests"))
    assert list(Environment.objects.default().values_list("name", "enabled")) == [("node", True)]


def test_a_sandbox_gets_what_the_environment_and_the_settings_say(settings) -> None:
    settings.CODE_EXECUTOR = settings.CODE_EXECUTOR | {
        "NO_NEW_PRIVILEGES": False,
        "CONTAINER_LABELS": {"team": "hiring"},
    }
    environment = create(runtime="runsc", memory_bytes=512 * MIB, executor_user="nobody")
    spec = sandbox_spec(environment, sandbox_id="5b", node="n1", max_idle_seconds=9)
    assert (spec.sandbox_id, spec.node, spec.max_idle_seconds) == ("5b", "n1", 9)
    assert (spec.environment, spec.image) == ("python", configured_image("python"))
    assert (spec.user, spec.workspace_dir, spec.runtime) == ("nobody", "/workspace", "runsc")
    assert (spec.no_new_privileges, dict(spec.labels)) == (False, {"team": "hiring"})
    assert spec.limits == SandboxLimits(
        memory_bytes=512 * MIB, cpus=0.5, pids=256, tmpfs_bytes=64 * MIB
    )
    other = sandbox_spec(
        environment, sandbox_id="5c", node="n1", max_idle_seconds=9, runtime="runc"
    )
    assert other.runtime == "runc"


@pytest.mark.parametrize(
    ("own", "disabled", "expected"),
    [(None, True, False), (None, False, True), (True, True, True), (False, False, False)],
)
def test_the_network_is_its_own_word_or_the_setting(
    settings, own: bool | None, disabled: bool, expected: bool
) -> None:
    settings.CODE_EXECUTOR = settings.CODE_EXECUTOR | {"NETWORK_DISABLED": disabled}
    spec = sandbox_spec(create(network=own), sandbox_id="x", node="n", max_idle_seconds=1)
    assert spec.network is expected


def test_a_revision_is_made_when_the_image_or_the_definition_changes() -> None:
    environment = create()
    assert environment.current_revision is None
    first = record_image(environment, image("sha256:1"))
    again = record_image(environment, image("sha256:1"))
    other_image = record_image(environment, image("sha256:2"))
    Environment.objects.update(run_command="python3 {file_path}")
    other_command = record_image(environment, image("sha256:2"))
    assert again == first
    assert [each.number for each in (first, other_image, other_command)] == [1, 2, 3]
    assert environment.current_revision == other_command
    assert first.definition["run_command"] == "python {file_path}"
    assert first.definition["limits"]["memory_bytes"] == 256 * MIB
    assert (first.image_id, first.size_bytes) == ("sha256:1", 7)


def test_a_changed_definition_makes_a_revision_with_the_same_image() -> None:
    environment = create()
    assert record_definition(environment) is None
    first = record_image(environment, image())
    assert record_definition(environment) == first
    Environment.objects.update(pids=60)
    second = record_definition(environment)
    assert second is not None
    assert (second.number, second.image_id) == (2, first.image_id)
    assert second.definition["limits"]["pids"] == 60


def test_a_revision_tells_how_it_differs_from_the_one_before() -> None:
    environment = create()
    first = record_image(environment, image("sha256:1"))
    Environment.objects.update(memory_bytes=512 * MIB, cpus=1.0, compile_command="make")
    second = record_image(environment, image("sha256:1"))
    third = record_image(environment, image("sha256:2"))
    assert first.changes() == []
    assert second.changes() == [
        "compile_command:  → make",
        "limits.cpus: 0.5 → 1",
        "limits.memory: 256m → 512m",
        "maxima.cpus: 0.5 → 1",
        "maxima.memory: 256m → 512m",
    ]
    assert third.changes() == ["image built anew"]


def test_a_description_is_no_part_of_the_definition() -> None:
    environment = create()
    first = record_image(environment, image())
    Environment.objects.update(description="new words", warm_pool_size=5)
    assert record_definition(environment) == first


def test_numbers_are_counted_for_each_environment() -> None:
    assert record_image(create("a"), image()).number == 1
    assert record_image(create("b"), image()).number == 1


def test_history_protects_its_environment() -> None:
    environment = create()
    record_image(environment, image())
    with pytest.raises(ProtectedError):
        environment.delete()


def test_a_number_exists_once_for_each_environment() -> None:
    revision = record_image(create(), image())
    with pytest.raises(IntegrityError, match="environment_revision_number"), transaction.atomic():
        EnvironmentRevision.objects.create(
            environment=revision.environment,
            number=1,
            image_id="sha256:9",
            size_bytes=1,
            definition={},
        )


@pytest.mark.django_db(transaction=True)
def test_two_nodes_that_record_at_once_get_numbers_of_their_own() -> None:
    environment = create()
    barrier = threading.Barrier(4)

    def in_thread(image_id: str) -> Callable[[], None]:
        def record() -> None:
            barrier.wait(5)
            record_image(environment, image(image_id))
            connection.close()

        return record

    threads = [threading.Thread(target=in_thread(f"sha256:{number}")) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    numbers = environment.revisions.order_by("number").values_list("number", flat=True)
    assert list(numbers) == [1, 2, 3, 4]


def test_the_list_knows_current_revisions_in_one_query(django_assert_num_queries) -> None:
    record_image(create("a"), image("sha256:1"))
    record_image(Environment.objects.get(name="a"), image("sha256:2"))
    create("b")
    with django_assert_num_queries(1):
        rows = list(Environment.objects.with_current_revision())
    assert [(row.name, row.current_revision_number) for row in rows] == [("a", 2), ("b", None)]


def test_nodes_with_images_of_their_own_have_revisions_of_their_own(
    configure: Callable[..., None],
) -> None:
    environment = create()
    first: dict[str, EnvironmentRevision] = {}
    for node in ("a", "b"):
        configure(NODE_NAME=node)
        first[node] = record_image(environment, image(f"sha256:{node}"))
    assert first["a"] != first["b"]
    for node in ("a", "b", "a", "b"):
        configure(NODE_NAME=node)
        assert record_image(environment, image(f"sha256:{node}")) == first[node]
    assert EnvironmentRevision.objects.count() == 2


def test_a_new_definition_is_a_revision_on_every_node(configure: Callable[..., None]) -> None:
    environment = create()
    for node in ("a", "b"):
        configure(NODE_NAME=node)
        record_image(environment, image(f"sha256:{node}"))
    Environment.objects.update(pids=9)
    record_definition(Environment.objects.get())
    latest = EnvironmentRevision.objects.latest_of_nodes()
    assert [(each.node, each.image_id) for each in latest] == [("a", "sha256:a"), ("b", "sha256:b")]
    assert {each.definition["limits"]["pids"] for each in latest} == {9}
