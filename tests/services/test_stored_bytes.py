"""How many bytes may be kept of what is run: of a session, and of a client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client as Browser
from django.urls import reverse
from django.utils import timezone

from codeexec.errors import StorageFull
from environments_app.models import Environment
from sessions_app.access.clients import create_client
from sessions_app.callers import Caller
from sessions_app.models import Client, ClientStorage, Execution, Node, Sandbox, Session
from sessions_app.models.run_queries import EventRow, write_events
from sessions_app.monitoring.diagnosis.checks import find_problems
from sessions_app.monitoring.diagnosis.findings import Severity
from sessions_app.monitoring.figures import Load
from sessions_app.node.pruning import prune
from sessions_app.node.sandboxes import fill_pools
from sessions_app.services.executions import RunRequest, cancel_execution, submit_execution
from sessions_app.services.sessions import change_session, open_session
from sessions_app.services.stored_bytes import count_storage
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.cast import claim, finish, known, outcome, session_in
from tests.support.racing import together

pytestmark = pytest.mark.django_db(transaction=True)
S = Session.Status
KIB = 1024


@contextmanager
def refused(storage: str, *, used: int, maximum: int) -> Iterator[StorageFull]:
    with pytest.raises(StorageFull) as caught:
        yield caught  # type: ignore[misc]
    assert caught.value.fields == {"storage": storage, "used": used, "maximum": maximum}
    assert f"This {storage} may store at most {maximum} bytes" in caught.value.detail
    assert f"it has {used}" in caught.value.detail


def session_of(client: Client | None, python: Environment, this: Node) -> Session:
    session = session_in(S.READY, python, this)
    Session.row(session.pk).update(client=client)
    return session


def submit(session: Session, client: Client | None = None, size: int = 1000) -> Execution:
    """With inputs of so many bytes."""
    caller = Caller(sees_everything=client is None, client=client and known(client))
    code = "#" * (size - len("[]{}{}"))
    return submit_execution(session.pk, RunRequest(code=code), caller=caller)


def stored(session: Session) -> int:
    return Session.objects.get(pk=session.pk).stored_bytes


def kept_in_rows(session: Session) -> int:
    """What the database itself has of its metadata and executions."""
    columns = ("code", "stdin", "stdout", "stderr", "compile_stdout", "compile_stderr")
    sizes = [f"octet_length({name})" for name in columns]
    sizes += [f"octet_length({name}::text)" for name in ("args", "env", "files")]
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT COALESCE(sum({' + '.join(sizes)}), 0) FROM sessions_app_execution"  # noqa: S608
            " WHERE session_id = %s",
            [session.pk],
        )
        executions = int(cursor.fetchone()[0])
    metadata = json.dumps(Session.objects.get(pk=session.pk).metadata, ensure_ascii=False)
    return executions + len(metadata.encode()) - len("{}")


def used(client: Client) -> int:
    return ClientStorage.objects.get(pk=client.pk).used_bytes


# ---- what counts


def test_all_that_is_kept_of_a_run_counts(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    request = RunRequest(
        code="print('ж')", stdin="ж" * 10, args=["a", "b"], env={"A": "1"}, files={"f": "x" * 99}
    )
    execution = submit_execution(session.pk, request)
    assert stored(session) == kept_in_rows(session) > 120
    assert claim(execution)
    assert finish(execution, outcome(stdout=b"o" * 5000, stderr=b"\xff" * 300))
    assert stored(session) == kept_in_rows(session) > 5400


def test_what_a_run_wrote_before_it_was_lost_counts(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    execution = submit(session)
    assert claim(execution)
    row = EventRow(
        execution_id=execution.pk, number=1, stage="run", stream="stdout", start=0, data=b"x" * 700
    )
    write_events([row], [session.pk])
    assert execution.fail("Its worker has died.")
    assert stored(session) == kept_in_rows(session) == 1700


def test_a_run_that_ends_while_its_session_stops_counts(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    execution = submit(session)
    assert claim(execution)
    assert session.request_stop(Session.StopReason.CLIENT)
    assert finish(execution, outcome(stdout=b"o" * 500))
    assert stored(session) == kept_in_rows(session) == 1500


def test_whoever_runs_at_the_same_time_is_counted_too(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    together(*[lambda: submit(session)] * 8)
    assert stored(session) == kept_in_rows(session) == 8000


@pytest.fixture
def warm(python: Environment, this: Node, work: Work) -> Sandbox:
    """An idle sandbox: the first session of `python` has it, later ones have to wait for theirs."""
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    fill_pools(this)
    work()
    return Sandbox.objects.idle().get()


def opened(client: Client | None, metadata: dict[str, Any] | None = None) -> Session:
    caller = Caller(sees_everything=client is None, client=client and known(client))
    return open_session(environment_name="python", metadata=metadata, caller=caller)


def describe(session: Session, metadata: dict[str, Any], client: Client | None = None) -> None:
    caller = Caller(sees_everything=client is None, client=client and known(client))
    change_session(session.pk, metadata=metadata, caller=caller, by=caller.actor)


def test_metadata_counts_from_the_opening_on(warm: Sandbox) -> None:
    for metadata, bytes_ in [({"who": "ж" * 100}, 209), ({"a": [1, 2.5]}, 13), ({}, 0)]:
        session = opened(None, metadata)
        assert session.warm == (session.pk == warm.pk)
        assert stored(session) == session.stored_bytes == kept_in_rows(session) == bytes_


def test_changed_metadata_counts_by_its_difference(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    submit(session, size=700)
    for metadata, bytes_ in [({"a": "x" * 992}, 999), ({"a": 1e300}, 306), ({"a": 1}, 6), ({}, 0)]:
        describe(session, metadata)
        assert stored(session) == 700 + bytes_
        describe(session, metadata)
        assert stored(session) == 700 + bytes_


def test_metadata_is_part_of_its_clients_sum_and_given_back(warm: Sandbox) -> None:
    client = create_client("a")
    session = opened(client, {"a": "x" * 993})
    count_storage()
    assert used(client) == 1000
    assert session.request_stop(Session.StopReason.CLIENT)
    assert session.mark_stopped()
    count_storage()
    assert used(client) == 1000
    list(prune(timezone.now() + timedelta(days=1)))
    assert used(client) == 0


# ---- bounds


def test_metadata_that_a_client_may_not_store_opens_no_session(
    warm: Sandbox, configure: Configure
) -> None:
    configure(MAX_STORAGE_PER_CLIENT=2 * KIB)
    client, other = create_client("greedy"), create_client("other")
    session = opened(client, {"a": "x" * (KIB - 7)})
    assert session.warm
    count_storage()
    for _ in range(2):
        with refused("client", used=KIB, maximum=2 * KIB) as caught:
            opened(client, {"a": "x" * (KIB - 6)})
        assert "this metadata doesn't fit" in caught.value.detail  # type: ignore[attr-defined]
    assert Session.objects.count() == 1
    opened(client, {"a": "x" * (KIB - 7)})
    count_storage()
    opened(client)  # no metadata, no bytes
    opened(other, {"a": "x" * KIB})
    opened(None, {"a": "x" * KIB})


def test_a_full_client_leaves_the_warm_sandbox_to_others(
    warm: Sandbox, configure: Configure
) -> None:
    configure(MAX_STORAGE_PER_CLIENT=KIB)
    with refused("client", used=0, maximum=KIB):
        opened(create_client("a"), {"a": "x" * KIB})
    assert opened(create_client("b"), {"a": "b"}).pk == warm.pk


def test_metadata_counts_against_its_sessions_bound_too(
    warm: Sandbox, configure: Configure
) -> None:
    configure(MAX_STORAGE_PER_SESSION=2 * KIB)
    with refused("session", used=0, maximum=2 * KIB):
        opened(None, {"a": "x" * 2 * KIB})
    session = opened(None, {"a": "x" * (KIB - 7)})
    submit(session, size=KIB - 100)
    with refused("session", used=2 * KIB - 100, maximum=2 * KIB):
        describe(session, {"a": "x" * (KIB + 94)})
    describe(session, {"a": "x" * (KIB + 93)})
    with refused("session", used=2 * KIB, maximum=2 * KIB):
        submit(session, size=10)
    configure(MAX_STORAGE_PER_SESSION=KIB)
    describe(session, {"a": "x" * KIB})  # it gets less
    assert stored(session) == kept_in_rows(session) == 2 * KIB - 100 + 7


def test_changed_metadata_counts_against_its_clients_bound(
    python: Environment, this: Node, configure: Configure
) -> None:
    configure(MAX_STORAGE_PER_CLIENT=2 * KIB)
    client = create_client("a")
    session = session_of(client, python, this)
    submit(session, client, size=KIB)
    count_storage()
    with refused("client", used=KIB, maximum=2 * KIB):
        describe(session, {"a": "x" * (KIB - 6)}, client)
    assert (stored(session), Session.objects.get(pk=session.pk).metadata) == (KIB, {})
    describe(session, {"a": "x" * (KIB - 7)}, client)
    count_storage()
    assert used(client) == 2 * KIB
    describe(session, {"b": "x" * (KIB - 7)}, client)  # as many bytes


def test_who_changes_metadata_at_the_same_time_is_counted_right(
    python: Environment, this: Node
) -> None:
    session = session_in(S.READY, python, this)
    changes = [{"a": "x" * size} for size in range(100, 900, 100)]
    together(
        *[lambda change=change: describe(session, change) for change in changes],
        *[lambda: submit(session)] * 4,
    )
    assert stored(session) == kept_in_rows(session)


def test_callers_are_told_that_metadata_is_too_much(
    api: Api, python: Environment, configure: Configure
) -> None:
    configure(MAX_STORAGE_PER_SESSION=2 * KIB)
    answer = api.post("/sessions", {"environment": "python", "metadata": {"a": "x" * 2 * KIB}})
    assert (answer.status_code, answer.json()["code"]) == (409, "storage_full")
    assert answer.json()["maximum"] == 2 * KIB
    session_id = api.post("/sessions", {"environment": "python", "metadata": {"a": "b"}}).json()[
        "session_id"
    ]
    path = f"/sessions/{session_id}"
    assert api.get(path).json()["stored_bytes"] == 8
    answer = api.request("PATCH", path, json={"metadata": {"a": "x" * 2 * KIB}, "ttl": 7})
    assert (answer.status_code, answer.json()["code"]) == (409, "storage_full")
    shown = api.get(path).json()
    assert (shown["metadata"], shown["ttl"]) == ({"a": "b"}, 3600)
    assert api.request("PATCH", path, json={"metadata": {}}).json()["stored_bytes"] == 0


def test_a_session_stores_no_more_than_it_may(
    python: Environment, this: Node, configure: Configure
) -> None:
    configure(MAX_STORAGE_PER_SESSION=10 * KIB)
    session = session_in(S.READY, python, this)
    submit(session, size=4 * KIB)
    submit(session, size=6 * KIB)
    with refused("session", used=10 * KIB, maximum=10 * KIB):
        submit(session, size=100)
    assert Execution.objects.count() == 2
    assert stored(session) == 10 * KIB
    submit(session_in(S.READY, python, this))  # another session has its own


def test_what_programs_write_fills_a_session_as_well(
    api: Api, work: Work, python: Environment, configure: Configure
) -> None:
    configure(MAX_STORAGE_PER_SESSION=100 * KIB)
    session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    work()
    path = f"/sessions/{session_id}/execute"
    assert api.post_while(path, {"code": "print('x' * 110_000)"}, work).status_code == 200
    answer = api.post(path, {"code": "1"})
    assert (answer.status_code, answer.json()["code"]) == (409, "storage_full")
    assert answer.json()["storage"] == "session"
    assert answer.json()["maximum"] == 100 * KIB < answer.json()["used"] < 120 * KIB
    assert "Open another session" in answer.json()["detail"]
    assert api.get(f"/sessions/{session_id}").json()["stored_bytes"] == answer.json()["used"]


def test_a_client_stores_no_more_than_it_may(
    python: Environment, this: Node, configure: Configure
) -> None:
    configure(MAX_STORAGE_PER_CLIENT=10 * KIB)
    client, other = create_client("greedy"), create_client("other")
    first, second = (session_of(client, python, this) for _ in range(2))
    submit(first, client, size=5 * KIB)
    submit(second, client, size=5 * KIB)
    count_storage()
    with refused("client", used=10 * KIB, maximum=10 * KIB) as caught:
        submit(second, client, size=100)
    assert "manage.py prune_history" in caught.value.detail  # type: ignore[attr-defined]
    submit(session_of(other, python, this), other)
    submit(second, None, size=100)  # an operator, who runs it again
    configure(HISTORY_DAYS=30)
    with refused("client", used=10 * KIB, maximum=10 * KIB) as caught:
        submit(second, client, size=100)
    assert "30 days after their end" in caught.value.detail  # type: ignore[attr-defined]


def test_a_client_has_bounds_of_its_own(
    python: Environment, this: Node, configure: Configure
) -> None:
    configure(MAX_STORAGE_PER_SESSION=KIB, MAX_STORAGE_PER_CLIENT=KIB)
    client = create_client("a", max_storage_per_session=3 * KIB, max_storage_per_client=5 * KIB)
    first, second = (session_of(client, python, this) for _ in range(2))
    submit(first, client, size=3 * KIB)
    with refused("session", used=3 * KIB, maximum=3 * KIB):
        submit(first, client)
    count_storage()
    submit(second, client, size=2 * KIB)
    count_storage()
    with refused("client", used=5 * KIB, maximum=5 * KIB):
        submit(second, client)


def test_no_run_waits_for_its_clients_sum(python: Environment, this: Node) -> None:
    client = create_client("a")
    session = session_of(client, python, this)
    submit(session, client)
    count_storage()
    with transaction.atomic():
        ClientStorage.objects.select_for_update().get(pk=client.pk)
        (execution,) = together(lambda: _impatiently(session, client))
    assert execution.sequence == 2


def _impatiently(session: Session, client: Client) -> Execution:
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '2s'")
    return submit(session, client)


# ---- sums


def test_a_clients_sum_is_that_of_its_sessions_open_or_ended(
    python: Environment, this: Node
) -> None:
    client = create_client("a")
    stays, ends = (session_of(client, python, this) for _ in range(2))
    submit(stays, client, size=700)
    submit(ends, client, size=300)
    count_storage()
    assert used(client) == 1000
    assert ends.request_stop(Session.StopReason.CLIENT)
    assert ends.mark_stopped()
    for _ in range(3):  # counted once, however often
        count_storage()
        assert used(client) == 1000
    submit(stays, client, size=500)
    count_storage()
    assert used(client) == 1500
    assert ClientStorage.objects.get(pk=client.pk).closed_bytes == 300


def test_what_was_kept_before_bytes_were_counted_is_counted_when_it_has_ended(
    python: Environment, this: Node
) -> None:
    client = create_client("a")
    session = session_of(client, python, this)
    submit(session, client, size=400)
    Session.row(session.pk).update(stored_bytes=0, status=S.STOPPED, closed_at=timezone.now(),
                                   stop_reason="client")  # fmt: skip
    count_storage()
    assert (stored(session), used(client)) == (400, 400)


def test_what_is_deleted_is_given_back(python: Environment, this: Node) -> None:
    client = create_client("a")
    old, young = (session_of(client, python, this) for _ in range(2))
    for session in (old, young):
        cancel_execution(submit(session, client, size=600).pk, by=Caller().actor)
        assert session.request_stop(Session.StopReason.CLIENT)
        assert session.mark_stopped()
    count_storage()
    assert used(client) == 1200
    long_ago = timezone.now() - timedelta(days=40)
    Session.row(old.pk).update(created_at=long_ago, closed_at=long_ago)
    Execution.objects.filter(session=old).update(finished_at=long_ago)
    assert sum(each.sessions for each in prune(timezone.now() - timedelta(days=30))) == 1
    assert used(client) == 600
    count_storage()
    assert used(client) == 600


def test_a_deleted_session_that_was_not_counted_yet_is_not_given_back(
    python: Environment, this: Node
) -> None:
    client = create_client("a")
    session = session_of(client, python, this)
    cancel_execution(submit(session, client, size=600).pk, by=Caller().actor)
    session.request_stop(Session.StopReason.CLIENT)
    session.mark_stopped()
    list(prune(timezone.now() + timedelta(days=1)))
    count_storage()
    assert used(client) == 0


# ---- who sees it


def test_operators_see_and_change_it(
    admin_client: Browser, python: Environment, this: Node, capsys: Any
) -> None:
    client = create_client("a", max_storage_per_client=4 * KIB)
    session = session_of(client, python, this)
    submit(session, client, size=3 * KIB)
    count_storage()
    page = admin_client.get(reverse("admin:sessions_app_client_change", args=[client.pk]))
    assert "3.0 KiB of 4.0 KiB" in page.content.decode()
    assert 'value="4k"' in page.content.decode()
    page = admin_client.get(reverse("admin:sessions_app_session_change", args=[session.pk]))
    assert "stored <b>3.0 KiB</b> of 256 MiB" in page.content.decode()
    assert (
        "3.0 KiB of 4.0 KiB"
        in admin_client.get(reverse("admin:sessions_app_client_changelist")).content.decode()
    )
    call_command("clients", "--json")
    assert '"stored_bytes": 3072' in capsys.readouterr().out


def test_a_command_makes_a_client_with_bounds(capsys: Any) -> None:
    call_command("create_client", "a", "--max-storage-per-session", "2m",
                 "--max-storage-per-client", "1.5g")  # fmt: skip
    client = Client.objects.get(name="a")
    assert client.max_storage_per_session == 2 * 1024**2
    assert client.max_storage_per_client == 3 * 1024**3 // 2


def test_the_console_takes_sizes_as_settings_have_them(admin_client: Browser) -> None:
    address = reverse("admin:sessions_app_client_add")
    fields = {"name": "a", "enabled": "on", "scopes": ["read"], "keys-TOTAL_FORMS": "0",
              "keys-INITIAL_FORMS": "0", "max_storage_per_session": "much"}  # fmt: skip
    assert "It must be a size such as 64m" in admin_client.post(address, fields).content.decode()
    fields["max_storage_per_session"] = "64m"
    assert admin_client.post(address, fields).status_code == 302
    assert Client.objects.get(name="a").max_storage_per_session == 64 * 1024**2


@pytest.mark.parametrize(("size", "told", "severe"), [(800, False, False), (950, True, False),
                                                      (1000, True, True)])  # fmt: skip
def test_an_operator_is_told_before_a_client_can_run_nothing_more(
    size: int, told: bool, severe: bool, python: Environment, this: Node
) -> None:
    client = create_client("a", max_storage_per_client=1000)
    submit(session_of(client, python, this), client, size=size)
    count_storage()
    problems = find_problems(lambda rows: rows is Client, Load())
    assert [found.severity is Severity.FAILURE for _, found in problems] == (
        [severe] if told else []
    )
