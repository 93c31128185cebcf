"""What one client may have of the sandboxes, and for how long."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from codeexec.errors import NoCapacity, TooManySessions
from environments_app.models import Environment
from sessions_app.access.clients import create_client
from sessions_app.access.key_cache import key_cache
from sessions_app.callers import Caller, Scope
from sessions_app.models import Client, Node, Session
from sessions_app.node.sandboxes import fill_pools
from sessions_app.services.executions import RunRequest, submit_single_run
from sessions_app.services.sessions import open_session
from tests.api.test_every_call import error
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.cast import known
from tests.support.platforms import platform, read_notifications
from tests.support.racing import together

pytestmark = pytest.mark.django_db(transaction=True)
CAPACITY = 10


@pytest.fixture
def room(python: Environment, this: Node) -> Node:
    Node.objects.update(capacity=CAPACITY)
    return this


def taken_by(client: Client, open_one: Callable[[Caller], object]) -> int:
    """How many more sessions it gets, until it is refused another."""
    caller, count = Caller(client=known(client)), 0
    while count <= 2 * CAPACITY:
        try:
            open_one(caller)
        except (TooManySessions, NoCapacity):
            break
        count += 1
    return count


def open_one(caller: Caller) -> object:
    return open_session(caller=caller)


def run_one(caller: Caller) -> object:
    return submit_single_run(None, RunRequest(code="1"), caller=caller)


def test_a_client_alone_may_have_all(room: Node) -> None:
    assert taken_by(create_client("a"), open_one) == CAPACITY


@pytest.mark.parametrize("take", [open_one, run_one])
def test_where_there_are_others_each_finds_some(
    take: Callable[[Caller], object], room: Node
) -> None:
    clients = [create_client(name) for name in "abc"]
    assert [taken_by(client, take) for client in clients] == [8, 1, 1]
    assert Session.objects.live().count() == CAPACITY


def test_warm_sandboxes_are_kept_for_others_as_well(
    room: Node, python: Environment, work: Work
) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=CAPACITY)
    fill_pools(room)
    work()
    clients = [create_client(name) for name in "ab"]
    assert [taken_by(client, open_one) for client in clients] == [8, 1]
    assert not Session.objects.filter(warm=False).exists()


def test_a_limit_of_its_own_is_what_counts(room: Node) -> None:
    bounded, trusted = create_client("a", max_live_sessions=2), create_client("b")
    Client.objects.filter(pk=trusted.pk).update(max_live_sessions=CAPACITY)
    assert taken_by(bounded, open_one) == 2
    assert taken_by(trusted, open_one) == CAPACITY - 2


def test_who_can_have_no_sessions_needs_none_kept(room: Node) -> None:
    create_client("prometheus", scopes=[Scope.METRICS])
    Client.objects.filter(pk=create_client("gone").pk).update(enabled=False)
    assert taken_by(create_client("a"), open_one) == CAPACITY


def test_sessions_of_nodes_that_take_none_are_no_part_of_it(room: Node, other: Node) -> None:
    first, second = create_client("a"), create_client("b")
    Node.objects.update(capacity=CAPACITY)
    assert taken_by(first, open_one) == 0.8 * 2 * CAPACITY
    Session.objects.update(node=other, status=Session.Status.READY)
    Node.objects.filter(pk=other.pk).update(status=Node.Status.DRAINING)
    assert taken_by(second, open_one) == 0.8 * CAPACITY


def test_a_share_is_exact_under_concurrency(room: Node) -> None:
    greedy = create_client("a")
    create_client("b")
    taken = together(*[lambda: taken_by(greedy, open_one)] * 4)
    assert sum(taken) == 8


def test_the_whole_can_be_let_go_and_costs_nothing_then(room: Node, configure: Configure) -> None:
    configure(CLIENT_SHARE=100)
    caller = Caller(client=known(create_client("a")))
    create_client("b")
    with CaptureQueriesContext(connection) as unbound:
        open_session(caller=caller)
    with CaptureQueriesContext(connection) as operators:
        open_session()
    assert len(unbound) == len(operators)
    assert taken_by(Client.objects.get(name="a"), open_one) == CAPACITY - 2


def test_what_is_known_of_clients_says_whether_there_are_others(
    api: Api, configure: Configure
) -> None:
    configure(API_AUTH="key")
    own = platform(api, "own")
    Node.objects.update(capacity=CAPACITY)
    read_notifications(api)
    first = [own.call("POST", "/sessions", {}).status_code for _ in range(9)]
    assert first == [201] * 9
    platform(api, "another")
    key_cache.forget()
    body = error(own.call("POST", "/sessions", {}), 429, "too_many_sessions")
    assert body["maximum"] == 9
    assert "kept for other clients" in body["detail"]
    refused = own.call("POST", "/execute", {"code": "1"})
    assert int(refused.headers["retry-after"]) > 0


# ---- for how long


def test_a_ttl_has_a_bound_that_is_a_setting(api: Api, configure: Configure) -> None:
    session_id = api.post("/sessions", {"ttl": 86_400}).json()["session_id"]

    def change(ttl: int) -> httpx.Response:
        return api.request("PATCH", f"/sessions/{session_id}", json={"ttl": ttl})

    for answer in (
        api.post("/sessions", {"ttl": 86_401}),
        api.post("/sessions", {"ttl": 30 * 86_400}),
        change(86_401),
    ):
        body = error(answer, 400, "invalid_request")
        assert (body["field"], body["maximum"]) == ("ttl", 86_400)
    configure(SESSION_TTL_MAX=100)
    assert change(3600).status_code == 200  # the default
    assert change(3601).status_code == 400
    configure(SESSION_TTL=60)
    assert api.post("/sessions", {"ttl": 101}).status_code == 400
