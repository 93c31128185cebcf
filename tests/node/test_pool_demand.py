"""How large a node's warm pools become by the sessions that were opened lately."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from environments_app.models import Environment, EnvironmentRevision
from sessions_app.models import Node, Sandbox, Session, WarmPool
from sessions_app.node import tasks, upkeep
from sessions_app.node.pool_demand import BURST_LASTS, REMEMBERED, follow_demand, largest_burst
from sessions_app.node.sandboxes import reserve_warm_sandbox
from sessions_app.services.executions import RunRequest, submit_single_run
from sessions_app.services.sessions import open_session
from sessions_app.services.warm_sandboxes import with_wanted, with_wanted_of_all_nodes
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.cast import new_session
from tests.support.plans import rows_read

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
LATELY = timedelta(minutes=50)


@pytest.fixture
def both(python: Environment, this: Node, other: Node) -> tuple[Node, Node]:
    """Two nodes that have the image of `python`."""
    revision = python.current_revision
    assert revision is not None
    revision.pk, revision.node, revision.number = None, other.name, 2
    revision.save(force_insert=True)
    return this, other


def give(environment: Environment, **columns: object) -> None:
    Environment.objects.filter(pk=environment.pk).update(**columns)
    environment.refresh_from_db()


def opened(
    environment: Environment,
    count: int,
    *,
    ago: timedelta = LATELY,
    within: timedelta = SECOND,
    **columns: object,
) -> list[Session]:
    """So many sessions were opened, evenly over that time, the first of them so long ago; they have
    ended since.
    """
    first, now = timezone.now() - ago, timezone.now()
    at: list[datetime] = [first + within * number / max(1, count - 1) for number in range(count)]
    ended = {"status": "stopped", "stop_reason": "client", "closed_at": now}
    return [new_session(environment, created_at=each, **ended | columns) for each in at]


def wanted(environment: Environment, node: Node) -> int:
    """After the node's upkeep has looked at the demand."""
    follow_demand(node)
    pools = with_wanted(Environment.objects.filter(pk=environment.pk), node)
    return int(pools.values_list("wanted", flat=True).get())


# ---- a burst


def test_a_pool_becomes_as_large_as_the_largest_burst(python: Environment, this: Node) -> None:
    give(python, warm_pool_size=2)
    opened(python, 3, ago=timedelta(minutes=5))
    opened(python, 6, ago=timedelta(minutes=30))
    opened(python, 4, ago=timedelta(minutes=40))
    assert wanted(python, this) == 6


def test_sessions_one_after_the_other_are_no_burst(python: Environment, this: Node) -> None:
    give(python, warm_pool_size=1)
    opened(python, 7, within=6 * (BURST_LASTS + SECOND / 10))
    assert wanted(python, this) == 1


def test_a_burst_is_what_a_refill_can_not_follow(python: Environment, this: Node) -> None:
    give(python, warm_pool_size=1)
    opened(python, 5, within=BURST_LASTS)
    opened(python, 20, within=19 * BURST_LASTS / 2, ago=LATELY / 2)  # three within any such time
    assert wanted(python, this) == 5


def test_a_burst_is_forgotten_after_an_hour(python: Environment, this: Node) -> None:
    give(python, warm_pool_size=1)
    opened(python, 6, ago=REMEMBERED + 2 * SECOND)
    assert wanted(python, this) == 1
    burst = opened(python, 6, ago=REMEMBERED - 5 * SECOND)
    assert wanted(python, this) == 6
    for each in burst:
        Session.row(each.pk).update(created_at=each.created_at - 10 * SECOND)
    assert wanted(python, this) == 1


def test_other_environments_bursts_are_theirs(
    python: Environment, rust: Environment, this: Node
) -> None:
    for each in (python, rust):
        give(each, warm_pool_size=1)
    opened(rust, 6)
    assert (wanted(python, this), wanted(rust, this)) == (1, 6)


def test_single_runs_count(python: Environment, this: Node) -> None:
    give(python, warm_pool_size=1)
    for _ in range(3):
        submit_single_run("python", RunRequest(code="1"))
    assert wanted(python, this) == 3


def test_sessions_that_no_warm_sandbox_fits_do_not_count(python: Environment, this: Node) -> None:
    give(python, warm_pool_size=1, runtime="")
    opened(python, 6, ttl_seconds=3601)
    opened(python, 6, runtime="runsc")
    assert wanted(python, this) == 1
    opened(python, 4)
    assert wanted(python, this) == 4


# ---- floor and ceiling


@pytest.mark.parametrize(
    ("size", "most", "burst", "expected"),
    [
        (2, None, 1, 2),
        (2, None, 8, 8),
        (2, None, 12, 8),
        (10, None, 12, 10),
        (10, 11, 12, 11),
        (3, 3, 12, 3),
        (0, None, 12, 0),
        (0, 4, 3, 3),
        (0, 4, 12, 4),
        (0, 0, 12, 0),
        (1, 100, 12, 12),
    ],
)
def test_between_the_pools_size_and_its_maximum(
    size: int, most: int | None, burst: int, expected: int, python: Environment, this: Node
) -> None:
    give(python, warm_pool_size=size, warm_pool_max=most)
    opened(python, burst)
    assert wanted(python, this) == expected


def test_a_size_that_an_operator_raises_counts_at_once(python: Environment, this: Node) -> None:
    give(python, warm_pool_size=1)
    opened(python, 3)
    assert wanted(python, this) == 3
    give(python, warm_pool_size=5)
    assert with_wanted(Environment.objects.filter(pk=python.pk), this).get().wanted == 5


def test_a_disabled_environment_wants_none(python: Environment, this: Node) -> None:
    give(python, warm_pool_size=0, warm_pool_max=8)
    opened(python, 6)
    assert wanted(python, this) == 6
    give(python, enabled=False)
    assert wanted(python, this) == 0


# ---- room


def in_use(environment: Environment, node: Node, count: int) -> None:
    for _ in range(count):
        Sandbox.objects.create(node=node, environment=environment, status="in_use")


@pytest.mark.parametrize(("used", "expected"), [(0, 8), (1, 8), (5, 5), (8, 2), (9, 1), (10, 1)])
def test_a_pool_has_the_room_that_sessions_leave(
    used: int, expected: int, python: Environment, this: Node
) -> None:
    give(python, warm_pool_size=1)
    Node.objects.update(capacity=10)
    in_use(python, this, used)
    opened(python, 8)
    assert wanted(python, this) == expected


def test_warm_sandboxes_take_no_room_from_themselves(
    python: Environment, this: Node, work: Work
) -> None:
    give(python, warm_pool_size=1)
    Node.objects.update(capacity=10)
    opened(python, 8)
    for _ in range(2):
        assert wanted(python, this) == 8
        upkeep.tend_pool()
        work()
    assert Sandbox.objects.idle().count() == 8


def test_a_burst_takes_no_other_environments_pool(
    python: Environment, rust: Environment, this: Node, work: Work
) -> None:
    give(python, warm_pool_size=1)
    give(rust, warm_pool_size=2)
    Node.objects.update(capacity=6)
    opened(python, 8)
    assert (wanted(python, this), wanted(rust, this)) == (4, 2)
    upkeep.tend_pool()
    work()
    assert Sandbox.objects.idle().filter(environment=rust).count() == 2


def test_a_pool_that_has_grown_gives_way_to_a_size_that_is_raised(
    python: Environment, rust: Environment, this: Node, work: Work
) -> None:
    give(python, warm_pool_size=1)
    Node.objects.update(capacity=8)
    opened(python, 8)
    follow_demand(this)
    upkeep.tend_pool()
    work()
    give(rust, warm_pool_size=3)
    for _ in range(2):
        follow_demand(this)
        upkeep.tend_pool()
        work()
    idle = Sandbox.objects.idle()
    assert idle.filter(environment=python).count() == 5
    assert idle.filter(environment=rust).count() == 3


def test_the_last_place_is_for_a_pool_below_its_size(
    python: Environment, rust: Environment, this: Node
) -> None:
    give(python, warm_pool_size=1)
    give(rust, warm_pool_size=2)
    WarmPool.objects.create(node=this, environment=python, wanted=8)
    Node.objects.update(capacity=3)
    for each in (python, rust):
        Sandbox.objects.create(
            node=this, environment=each, status="idle", container_id="c", token="t"
        )
    last = reserve_warm_sandbox(this)
    assert last is not None
    assert last.environment == rust


def test_bursts_of_several_environments_share_what_is_left(
    python: Environment, rust: Environment, this: Node
) -> None:
    for each in (python, rust):
        give(each, warm_pool_size=1)
        opened(each, 8)
    Node.objects.update(capacity=9)
    assert sorted([wanted(python, this), wanted(rust, this)]) == [4, 5]


def test_where_one_client_opens_many_others_still_find_room(
    python: Environment, rust: Environment, this: Node, work: Work
) -> None:
    give(python, warm_pool_size=1, warm_pool_max=100)
    Node.objects.update(capacity=6)
    opened(python, 50)
    follow_demand(this)
    upkeep.tend_pool()
    work()
    assert Sandbox.objects.idle().count() == 6
    others = [open_session(environment_name="rust") for _ in range(6)]
    work()
    assert {Session.objects.get(pk=each.pk).status for each in others} == {"ready"}


@pytest.mark.django_db(transaction=True)
def test_calls_that_are_refused_make_no_pool_grow(
    python: Environment, this: Node, api: Api, configure: Configure
) -> None:
    give(python, warm_pool_size=1)
    Node.objects.update(capacity=3)
    answers = [api.post("/sessions", {"environment": "python"}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [201] * 3 + [503] * 3
    configure(API_AUTH="key")
    for _ in range(6):
        assert api.post("/sessions", {"environment": "python"}).status_code == 401
    Session.objects.update(status="stopped", stop_reason="client", closed_at=timezone.now())
    Node.objects.update(capacity=50)
    assert wanted(python, this) == 3


# ---- several nodes


def test_nodes_share_a_burst(python: Environment, both: tuple[Node, Node]) -> None:
    give(python, warm_pool_size=1)
    opened(python, 7)
    assert [wanted(python, node) for node in both] == [4, 4]
    assert with_wanted_of_all_nodes(Environment.objects.filter(pk=python.pk)).get().wanted == 8


def test_a_node_makes_up_for_one_that_has_no_room(
    python: Environment, both: tuple[Node, Node]
) -> None:
    give(python, warm_pool_size=1)
    _, other = both
    Node.objects.filter(pk=other.pk).update(capacity=4)
    in_use(python, other, 2)
    opened(python, 8)
    assert [wanted(python, node) for node in both] == [6, 2]
    in_use(python, other, 2)
    assert [wanted(python, node) for node in both] == [8, 1]


def test_each_node_keeps_the_maximum_at_most(python: Environment, both: tuple[Node, Node]) -> None:
    give(python, warm_pool_size=1, warm_pool_max=3)
    opened(python, 8)
    assert [wanted(python, node) for node in both] == [3, 3]


@pytest.mark.parametrize("why", ["draining", "engine", "image", "silent", "runtime"])
def test_a_node_that_can_not_start_it_has_no_share(
    why: str, python: Environment, both: tuple[Node, Node]
) -> None:
    give(python, warm_pool_size=1)
    this, other = both
    if why == "image":
        EnvironmentRevision.objects.filter(node=other.name).delete()
    elif why == "runtime":
        give(python, runtime="runsc")
        Node.objects.filter(pk=this.pk).update(runtimes=["runc", "runsc"])
    else:
        columns: dict[str, object] = {
            "draining": {"status": "draining"},
            "engine": {"engine_error": "It is down."},
            "silent": {"heartbeat_at": timezone.now() - timedelta(minutes=1)},
        }[why]
        Node.objects.filter(pk=other.pk).update(**columns)
    opened(python, 6)
    assert wanted(python, this) == 6
    follow_demand(other)
    assert not WarmPool.objects.filter(node=other, wanted__gt=0).exists()


# ---- upkeep


def test_a_pool_grows_and_shrinks_again(python: Environment, this: Node, work: Work) -> None:
    give(python, warm_pool_size=2)
    burst = opened(python, 5)
    sizes = []
    for _ in range(2):
        follow_demand(this)
        upkeep.tend_pool()
        work()
        sizes.append(Sandbox.objects.idle().count())
        for each in burst:
            Session.row(each.pk).update(created_at=each.created_at - REMEMBERED)
    assert sizes == [5, 2]


def test_all_sessions_of_a_burst_like_the_last_are_ready(
    python: Environment, this: Node, work: Work
) -> None:
    give(python, warm_pool_size=1)
    first = [open_session(environment_name="python").status for _ in range(8)]
    assert first == ["pending"] * 8
    work()
    follow_demand(this)
    upkeep.tend_pool()
    work()
    assert [open_session(environment_name="python").status for _ in range(8)] == ["ready"] * 8


def test_a_refill_after_a_claim_follows_the_demand(
    python: Environment, this: Node, work: Work
) -> None:
    give(python, warm_pool_size=1)
    opened(python, 3)
    follow_demand(this)
    upkeep.tend_pool()
    work()
    for _ in range(3):
        open_session(environment_name="python")
    tasks.refill_pool()
    assert Sandbox.objects.idle().count() == 3


def test_nothing_is_written_while_nothing_changes(python: Environment, this: Node) -> None:
    give(python, warm_pool_size=1)
    opened(python, 3)
    follow_demand(this)
    with CaptureQueriesContext(connection) as queries:
        follow_demand(this)
    assert all(query["sql"].startswith("SELECT") for query in queries.captured_queries)
    assert WarmPool.objects.get().wanted == 3


# ---- what it costs


def rows_of_burst(environment: Environment, most: int) -> int:
    with CaptureQueriesContext(connection) as queries:
        assert largest_burst(environment, most=most) == most
    (sent,) = queries.captured_queries
    return rows_read(sent["sql"])


def fill(environment: Environment, count: int, at: Callable[[int], datetime]) -> None:
    now = timezone.now()
    Session.objects.bulk_create(
        Session(
            environment=environment,
            ttl_seconds=3600,
            created_at=at(number),
            expires_at=now,
            closed_at=now,
            status="stopped",
            stop_reason="client",
        )
        for number in range(count)
    )


def test_the_newest_rows_are_enough_to_find_a_burst_of_so_many(python: Environment) -> None:
    """With three sessions in an hour's every five seconds, no burst of three can be missed."""
    bursts = REMEMBERED // BURST_LASTS
    now = timezone.now()
    fill(python, 4 * bursts, lambda number: now - number * REMEMBERED / (4 * bursts))
    fill(python, 2000, lambda number: now - timedelta(days=1) - number * SECOND)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE sessions_app_session")
    assert rows_of_burst(python, 3) == 3 * bursts
    assert rows_of_burst(python, 2) == 2 * bursts
