"""Where the time of an answer went, as its header tells."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

import pytest

from sessions_app.api.timing import server_timing
from sessions_app.models import Execution
from sessions_app.services.executions import RequestArrival
from sessions_app.services.sessions import stop_session
from tests.conftest import Configure, Work
from tests.support.api_client import Api

STAGES = ["accept", "queue", "prepare", "run", "answer", "total"]
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def spent(header: str) -> dict[str, float]:
    parts = [re.fullmatch(r"([a-z]+);dur=(\d+\.\d\d)", part) for part in header.split(", ")]
    assert all(parts), header
    return {part[1]: float(part[2]) for part in parts if part}


def execution(**milliseconds: float) -> Execution:
    """One with these times, counted from when it was received."""
    times = {f"{name}_at": BEGIN + timedelta(milliseconds=ms) for name, ms in milliseconds.items()}
    return Execution(**({"received_at": BEGIN} | times))


def test_each_stage_is_the_time_between_two_of_the_row() -> None:
    timed = execution(queued=2, claimed=5, started=9, finished=14.5)
    told = spent(server_timing(timed, RequestArrival(at=time.monotonic() - 0.02)))
    assert list(told) == STAGES
    assert [told[stage] for stage in STAGES[:4]] == [2, 3, 4, 5.5]
    assert 20 <= told["total"] < 1000
    assert told["answer"] == pytest.approx(told["total"] - 14.5, abs=0.02)


def test_stages_that_it_did_not_come_to_are_left_out() -> None:
    cancelled = execution(queued=2, finished=10)
    told = spent(server_timing(cancelled, RequestArrival(at=time.monotonic() - 0.02)))
    assert list(told) == ["accept", "answer", "total"]


def test_one_of_the_time_before_the_stages_were_kept_has_a_total() -> None:
    old = Execution(queued_at=BEGIN, started_at=BEGIN, finished_at=BEGIN)
    assert "total" in spent(server_timing(old, RequestArrival()))


def test_clocks_that_differ_make_no_negative_times() -> None:
    timed = execution(queued=2, claimed=2, started=2, finished=50)
    told = spent(server_timing(timed, RequestArrival(at=time.monotonic())))
    assert told["answer"] == 0


# ---- over HTTP


@pytest.fixture
def path(api: Api, work: Work) -> str:
    session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    work()
    return f"/sessions/{session_id}/execute"


@pytest.mark.django_db(transaction=True)
def test_an_awaited_run_tells_where_its_time_went(api: Api, path: str, work: Work) -> None:
    begun = time.monotonic()
    answer = api.post_while(path, {"code": "import time; time.sleep(0.2)"}, work)
    seconds = time.monotonic() - begun
    told = spent(answer.headers["Server-Timing"])
    assert list(told) == STAGES
    assert told["run"] >= 200
    assert told["run"] >= 1000 * answer.json()["execution_time"]
    assert told["total"] <= 1000 * seconds
    assert sum(told.values()) - told["total"] == pytest.approx(told["total"], abs=0.1)


@pytest.mark.django_db(transaction=True)
def test_a_single_run_tells_it_too(api: Api, work: Work) -> None:
    answer = api.post_while("/execute", {"environment": "python", "code": "1"}, work)
    assert list(spent(answer.headers["Server-Timing"])) == STAGES


@pytest.mark.django_db(transaction=True)
def test_a_run_that_never_began_tells_what_it_had(api: Api, path: str) -> None:
    session_id = path.split("/")[2]
    answer = api.post_while(path, {"code": "1"}, lambda: stop_session(session_id))
    assert list(spent(answer.headers["Server-Timing"])) == ["accept", "answer", "total"]


@pytest.mark.django_db(transaction=True)
def test_answers_without_a_result_have_no_timing(api: Api, path: str, configure: Configure) -> None:
    assert "Server-Timing" not in api.post(f"{path}?wait=false", {"code": "1"}).headers
    configure(REQUEST_TIMEOUT=0.05)
    pending = api.post(path, {"code": "1"})
    assert (pending.status_code, "Server-Timing" in pending.headers) == (504, False)
