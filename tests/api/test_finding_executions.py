"""`GET /executions`, a timeline's order, and what runs can be found by."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from environments_app.models import Environment
from sessions_app.api import execution_search
from sessions_app.models import Execution, Node, Session
from sessions_app.models.execution import FINISHED
from tests.api.test_every_call import error
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.cast import execution_in, new_execution, session_in
from tests.support.platforms import Platform, bearer, platform

pytestmark = pytest.mark.django_db(transaction=True)
BEGAN = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


@pytest.fixture(params=["few", "many"])
def plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which pages are read."""
    if request.param == "many":
        monkeypatch.setattr(execution_search, "FEW", -1)
    return str(request.param)


def made(session: Session, number: int, **columns: Any) -> Execution:
    """An execution of that minute."""
    at = BEGAN + timedelta(minutes=number)
    status = columns.get("status", "completed")
    ended: dict[str, Any] = {}
    if status in FINISHED:
        ended = {"verdict": "ok", "exit_code": 0, "finished_at": at}
    return new_execution(session, **{"queued_at": at, "status": status, **ended, **columns})


def listed(api: Api, query: str = "", **options: Any) -> list[str]:
    return list(_pages(api, f"/executions?{query}", **options))


def _pages(api: Api, address: str, **options: Any) -> Iterator[str]:
    for _ in range(1000):
        answer = api.get(address, **options)
        assert answer.status_code == 200, answer.text
        yield from (row["execution_id"] for row in answer.json()["results"])
        address = answer.json()["next"]
        if address is None:
            return
    raise AssertionError("the pages have no end")


def ids(*executions: Execution) -> list[str]:
    return [str(each.pk) for each in executions]


# ---- across sessions


def test_the_newest_comes_first_whatever_its_session(
    api: Api, python: Environment, rust: Environment, this: Node, plan: str
) -> None:
    first, second = (session_in("ready", each, this) for each in (python, rust))
    runs = [made((first, second)[number % 2], number) for number in range(7)]
    assert listed(api) == ids(*reversed(runs))
    assert listed(api, "page_size=2") == ids(*reversed(runs))
    assert listed(api, "environment=rust") == ids(runs[5], runs[3], runs[1])
    assert listed(api, "environment=rust&page_size=1") == ids(runs[5], runs[3], runs[1])
    assert listed(api, "environment=cobol") == []
    page = api.get("/executions?page_size=2&environment=python").json()
    later = api.get(page["next"]).json()
    assert api.get(later["previous"]).json()["results"] == page["results"]
    assert page["results"][0]["code"] == "print(1)"
    assert page["results"][0]["omitted"] == []


def test_it_can_be_filtered(api: Api, python: Environment, this: Node, plan: str) -> None:
    session = session_in("ready", python, this)
    failed = {"verdict": "runtime_error", "exit_code": 1}
    one = made(session, 1)
    two = made(session, 2, **failed)
    three = made(session, 3, status="error", verdict="internal_error", error_reason="It is gone.",
                 exit_code=None)  # fmt: skip
    four = made(session, 4, status="cancelled", verdict="cancelled")
    five = made(session, 5, status="queued")
    found = {
        "status=completed": [two, one],
        "status=error": [three],
        "status=cancelled": [four],
        "status=queued": [five],
        "status=running": [],
        "verdict=ok": [one],
        "verdict=runtime_error": [two],
        "verdict=runtime_error&status=completed": [two],
        "verdict=runtime_error&status=error": [],
        "verdict=&status=": [five, four, three, two, one],
        "since=2026-01-05T09:34:00Z": [five, four],
        "until=2026-01-05T09:32:00Z": [one],
        "since=2026-01-05T10:32:00%2B01:00&until=2026-01-05T09:33": [two],
        "since=2026-01-05T10:34:00+01:00": [five, four],  # a plus that was not encoded
        "since=2026-01-05T09:34:00Z&until=2026-01-05T09:33:00Z": [],
        "since=2026-01-06": [],
        "since=2026-01-05": [five, four, three, two, one],
        "since=&until=": [five, four, three, two, one],
        "since=0001-01-01T00:00:00%2B14:00&until=9999-12-31T23:59:59-14:00": [
            *(five, four, three, two, one)
        ],
    }
    assert {query: listed(api, query) for query in found} == {
        query: ids(*rows) for query, rows in found.items()
    }


WRONG = [
    ("verdict=passed", "verdict"),
    ("status=stopped", "status"),
    ("since=yesterday", "since"),
    ("until=2026-13-01T00:00:00Z", "until"),
    ("since=" + "1" * 5000, "since"),
    ("since=2026-01-05T09:34:00Z&since=2026-01-05T09:34:00Z", "since"),
    ("verdict=ok&verdict=ok", "verdict"),
    ("environment=" + "e" * 101, "environment"),
    ("metadata.a=%00", "metadata.a"),
    ("metadata.a=1&metadata.a=2", "metadata.a"),
    ("&".join(f"metadata.{n}=1" for n in range(17)), "metadata"),
    ("cursor=x", "cursor"),
]


def test_a_filter_that_can_not_be_is_a_400(api: Api) -> None:
    for query, field in WRONG:
        body = error(api.get(f"/executions?{query}"), 400, "invalid_request")
        assert body["field"] == field, query


def test_a_page_searches_a_part_of_the_history_and_says_where_to_go_on(
    api: Api, python: Environment, rust: Environment, this: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution_search, "FEW", -1)
    monkeypatch.setattr(execution_search, "SEARCHED", 5)
    many, rare = (session_in("ready", each, this) for each in (python, rust))
    runs = [made(rare if number in (0, 1, 30) else many, number) for number in range(40)]
    Session.objects.update(created_at=BEGAN)
    page, sizes, found = "/executions?environment=rust", [], []
    backwards: list[str] = []
    while page:
        body = api.get(page).json()
        sizes.append(len(body["results"]))
        found += [row["execution_id"] for row in body["results"]]
        page, last = body["next"], body["previous"]
    assert found == ids(runs[30], runs[1], runs[0])
    assert sizes.count(0) >= 4
    assert len(sizes) <= 9
    while last:
        body = api.get(last).json()
        backwards = [row["execution_id"] for row in body["results"]] + backwards
        last = body["previous"]
    assert set(backwards) <= set(found)
    assert backwards[0] == found[0]


def test_a_page_without_any_continues_where_there_may_be_one(
    api: Api, python: Environment, rust: Environment, this: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution_search, "FEW", -1)
    monkeypatch.setattr(execution_search, "SEARCHED", 5)
    many, rare, unused = (session_in("ready", each, this) for each in (python, rust, rust))
    runs = [made(rare if number == 3 else many, number) for number in range(100)]
    Session.objects.update(created_at=BEGAN)
    used_at = BEGAN + timedelta(minutes=3)
    Session.objects.filter(pk=rare.pk).update(last_activity_at=used_at)
    Session.objects.filter(pk=unused.pk).update(last_activity_at=BEGAN)
    first = api.get("/executions?environment=rust").json()
    second = api.get(first["next"]).json()
    assert (first["results"], second["next"]) == ([], None)
    assert [row["execution_id"] for row in second["results"]] == ids(runs[3])
    Session.objects.filter(environment=rust).update(created_at=BEGAN + timedelta(days=1))
    assert api.get("/executions?environment=rust").json()["next"] is None


def test_executions_of_one_moment_are_all_shown(
    api: Api, python: Environment, this: Node, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution_search, "SEARCHED", 3 if plan == "many" else 1000)
    session = session_in("ready", python, this)
    Session.objects.update(created_at=BEGAN)
    runs = [made(session, number // 4) for number in range(12)]
    found = listed(api, "environment=python&page_size=2")
    assert (len(found), set(found)) == (12, set(ids(*runs)))


# ---- whose


def test_a_client_finds_its_own(api: Api, work: Work, configure: Configure, plan: str) -> None:
    configure(API_AUTH="key")
    own, other = platform(api, "own"), platform(api, "other")
    mine = [own.run(own.open(), work) for _ in range(2)]
    theirs = other.run(other.open(), work)

    def found(owner: Platform, query: str = "") -> list[str]:
        rows = owner.call("GET", f"/executions?{query}").json()["results"]
        return [row["execution_id"] for row in rows]

    assert (found(own), found(other)) == (mine[::-1], [theirs])
    for query in (
        "environment=python",
        "verdict=ok",
        "status=completed",
        "since=2020-01-01",
    ):
        assert found(own, query) == mine[::-1]
    page = other.call("GET", "/executions?page_size=1").json()
    assert page["next"] is None
    session_id = Execution.objects.get(pk=mine[0]).session_id
    for role in ("candidate", "interviewer", "viewer"):
        token = own.token(str(session_id), role)
        error(api.get("/executions", headers=bearer(token)), 403, "forbidden_for_role")


# ---- metadata


def test_a_run_keeps_its_metadata_and_is_found_by_it(
    api: Api, session_id: str, work: Work, plan: str
) -> None:
    path = f"/sessions/{session_id}/execute?wait=false"
    metadata = {"task": 7, "by": {"name": "Ann"}, "enviroment": "x"}
    with_it = api.post(path, {"code": "1", "metadata": metadata}).json()["execution_id"]
    single = api.post("/execute?wait=false", {"code": "1", "metadata": {"task": "7"}}).json()
    without = [
        api.post(path, {"code": "1", **fields}).json()["execution_id"]
        for fields in ({}, {"metadata": None}, {"metadata": {}}, {"metadata": {"task": 8}})
    ]
    assert api.get(f"/executions/{with_it}").json()["metadata"] == metadata
    assert api.get(f"/executions/{without[0]}").json()["metadata"] == {}
    assert Execution.objects.filter(metadata__isnull=True).count() == 3
    work()
    assert listed(api, "metadata.task=7") == [single["execution_id"], with_it]
    assert listed(api, "metadata.task=7&metadata.enviroment=x") == [with_it]
    assert listed(api, "metadata.by=%7B%22name%22:%20%22Ann%22%7D&verdict=ok") == [with_it]
    assert listed(api, "metadata.task=9") == []
    (first, *_others) = api.get(f"/sessions/{session_id}/executions").json()["results"]
    assert first["metadata"] == metadata


def test_metadata_of_a_run_is_bounded_and_counted(api: Api, session_id: str) -> None:
    path = f"/sessions/{session_id}/execute?wait=false"
    before = Session.objects.get(pk=session_id).stored_bytes
    assert api.post(path, {"code": "1"}).status_code == 202
    plain = Session.objects.get(pk=session_id).stored_bytes - before
    fits = {"a": "x" * (4096 - len('{"a": ""}'))}
    assert api.post(path, {"code": "1", "metadata": fits}).status_code == 202
    assert Session.objects.get(pk=session_id).stored_bytes == before + 2 * plain + 4096
    for wrong in ([], "x", 7, {"a": "\0"}, {"a": "\ud800"}):
        error(api.post(path, {"code": "1", "metadata": wrong}), 400, "invalid_request")
    body = error(api.post(path, {"code": "1", "metadata": {"a": fits["a"] + "x"}}), 400,
                 "invalid_request")  # fmt: skip
    assert (body["field"], body["maximum"]) == ("metadata", 4096)


# ---- a timeline's order


def test_a_timeline_can_begin_with_the_last_run(api: Api, python: Environment, this: Node) -> None:
    session = session_in("ready", python, this)
    runs = [execution_in("completed", session) for _ in range(5)]
    path = f"/sessions/{session.pk}/executions"
    assert list(_pages(api, f"{path}?order=desc&page_size=2")) == ids(*reversed(runs))
    for same in ("", "?order=asc", "?order=", "?order=asc&page_size=2"):
        assert list(_pages(api, path + same)) == ids(*runs)
    for wrong in ("newest", "DESC", "-sequence"):
        assert error(api.get(f"{path}?order={wrong}"), 400, "invalid_request")["field"] == "order"
    error(api.get(f"{path}?order=asc&order=desc"), 400, "invalid_request")
