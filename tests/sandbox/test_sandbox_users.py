"""Each sandbox of a node has a user of its own."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, transaction

from codeexec.configuration import SPARE_UIDS
from environments_app.models import Environment
from environments_app.sandbox_users import spare_uid, uids_of_rows
from environments_app.services import sandbox_spec
from sessions_app.models import Node, Sandbox
from sessions_app.node.sandboxes import reserve_warm_sandbox, start_sandbox
from tests.conftest import Configure
from tests.support.fake_driver import FakeDriver

FIRST = 5000


@pytest.fixture
def few(configure: Configure) -> range:
    """Three users for sandboxes that have a row."""
    configure(SANDBOX_UIDS=range(FIRST, FIRST + SPARE_UIDS + 3))
    return uids_of_rows()


def reserved(node: Node, environment: Environment) -> Sandbox | None:
    return Sandbox.objects.reserve(node, environment, status=Sandbox.Status.IN_USE)


def test_no_two_sandboxes_of_a_node_have_the_same(
    python: Environment, this: Node, few: range
) -> None:
    sandboxes = [reserved(this, python) for _ in few]
    assert {each.uid for each in sandboxes if each} == set(few)
    assert reserved(this, python) is None


def test_one_that_has_become_free_is_given_again(
    python: Environment, this: Node, few: range
) -> None:
    gone, *_ = [reserved(this, python) for _ in few]
    assert gone is not None
    Sandbox.objects.filter(pk=gone.pk).delete()
    again = reserved(this, python)
    assert again is not None
    assert again.uid == gone.uid


def test_the_database_keeps_it_so(python: Environment, this: Node) -> None:
    first = reserved(this, python)
    assert first is not None
    with pytest.raises(IntegrityError), transaction.atomic():
        Sandbox.objects.create(node=this, environment=python, status="in_use", uid=first.uid)


def test_another_node_has_its_own_engine_and_the_same_numbers(
    python: Environment, this: Node, few: range
) -> None:
    other = Node.objects.create(name="other", capacity=5, concurrency=1)
    assert {each.uid for _ in few if (each := reserved(this, python))} == set(few)
    assert {each.uid for _ in few if (each := reserved(other, python))} == set(few)


def test_a_sandbox_is_started_with_the_number_of_its_row(
    python: Environment, this: Node, driver: FakeDriver
) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=5)
    sandbox = reserve_warm_sandbox(this)
    assert sandbox is not None
    start_sandbox(sandbox)
    assert driver.started[-1].uid == sandbox.uid
    assert sandbox.uid in uids_of_rows()


def test_without_a_number_none_is_started_until_one_is_free(
    python: Environment, this: Node, few: range
) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=9)
    assert all(reserve_warm_sandbox(this) for _ in few)
    assert reserve_warm_sandbox(this) is None


def test_those_without_a_row_have_others_in_turn(python: Environment, few: range) -> None:
    spec = sandbox_spec(python, sandbox_id="x", node="n", max_idle_seconds=9)
    assert spec.uid in range(FIRST, FIRST + SPARE_UIDS)
    assert len({spare_uid() for _ in range(SPARE_UIDS)}) == SPARE_UIDS
    assert spare_uid() not in few
