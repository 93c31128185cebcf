"""What session tokens, keys and the end of sessions may take of a client's rate, and what callers
are told of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest

from codeexec.errors import RateLimited
from sessions_app.access import rate_limits as module
from sessions_app.access.clients import create_client
from sessions_app.access.rate_limits import RateLimits, Share, TokenRateLimits, token_rate_limits
from sessions_app.models import Client, Execution, Session
from tests.api.test_every_call import error
from tests.conftest import Configure
from tests.support.api_client import Api
from tests.support.cast import known
from tests.support.platforms import Platform, api_key, bearer, platform, read_notifications

pytestmark = pytest.mark.django_db(transaction=True)

APP = "https://app.example.org"


@pytest.fixture
def own(api: Api, configure: Configure) -> Iterator[Platform]:
    configure(API_AUTH="key")
    yield platform(api, "own")
    token_rate_limits._buckets.clear()


def limited(own: Platform, requests_per_minute: int) -> None:
    Client.objects.filter(pk=own.client.pk).update(requests_per_minute=requests_per_minute)
    read_notifications(own.api)


def statuses(own: Platform, path: str, headers: dict[str, str], count: int) -> list[int]:
    return [own.api.get(path, headers=headers).status_code for _ in range(count)]


def come_back(begun: float, requests_per_minute: int) -> float:
    """How many permits there may be again since then."""
    return 1 + (time.monotonic() - begun) * requests_per_minute / 60


# ---- who takes what


def test_one_token_uses_up_neither_its_clients_rate_nor_another_tokens(own: Platform) -> None:
    session_id = own.open()
    viewer, candidate = own.token(session_id, "viewer"), own.token(session_id, "candidate")
    limited(own, 30)
    path = f"/sessions/{session_id}"
    begun = time.monotonic()
    told = statuses(own, path, bearer(viewer), 29)
    assert told[:15] == [200] * 15
    assert told.count(200) <= 15 + come_back(begun, 15)
    assert statuses(own, path, bearer(candidate), 1) == [200]
    assert own.call("GET", path).status_code == 200
    answer = own.call("DELETE", path)
    assert (answer.status_code, answer.json()["status"]) == (200, "stopping")


def test_all_tokens_together_leave_a_quarter_to_the_key(own: Platform) -> None:
    session_id = own.open()
    roles = ("viewer", "candidate", "interviewer")
    tokens = [own.token(session_id, role, expires_in=3600 + n) for n, role in enumerate(roles)]
    limited(own, 40)
    path = f"/sessions/{session_id}"
    begun = time.monotonic()
    through = sum(statuses(own, path, bearer(each), 20).count(200) for each in tokens)
    assert 30 <= through <= 30 + come_back(begun, 40)
    assert statuses(own, path, api_key(own.key), 10) == [200] * 10


def test_a_key_that_has_used_up_its_rate_still_ends_its_sessions(own: Platform) -> None:
    sessions = [own.open() for _ in range(4)]
    limited(own, 5)
    assert statuses(own, "/sessions", api_key(own.key), 7).count(429) >= 1
    for each in sessions:
        assert own.call("DELETE", f"/sessions/{each}").status_code == 200
    assert not Session.objects.live().exists()
    assert statuses(own, "/sessions", api_key(own.key), 1) == [429]


def test_the_reserve_is_a_bound_too(own: Platform) -> None:
    session_id = own.open()
    limited(own, 5)
    statuses(own, "/sessions", api_key(own.key), 6)
    ended = [own.call("DELETE", f"/sessions/{session_id}").status_code for _ in range(9)]
    assert ended[:5].count(429) == 0
    assert 429 in ended


def test_a_token_that_ends_its_session_has_no_part_in_the_reserve(own: Platform) -> None:
    session_id = own.open()
    interviewer = bearer(own.token(session_id, "interviewer"))
    limited(own, 4)
    statuses(own, f"/sessions/{session_id}", interviewer, 3)
    answer = own.api.request("DELETE", f"/sessions/{session_id}", headers=interviewer)
    error(answer, 429, "rate_limited")


def test_a_token_of_a_client_without_a_limit_has_one(own: Platform, configure: Configure) -> None:
    configure(TOKEN_REQUESTS_PER_MINUTE=3)
    session_id = own.open()
    viewer = bearer(own.token(session_id, "viewer"))
    read_notifications(own.api)
    path = f"/sessions/{session_id}"
    assert statuses(own, path, viewer, 5) == [200] * 3 + [429] * 2
    answer = own.api.get(path, headers=viewer)
    assert "token may make 3 requests a minute" in error(answer, 429, "rate_limited")["detail"]
    assert statuses(own, "/sessions", api_key(own.key), 5) == [200] * 5


def test_what_its_client_was_refused_is_not_taken_from_a_token(db: None) -> None:
    client = known(create_client("a", requests_per_minute=4))
    limits = RateLimits()
    for _ in range(4):
        limits.take(client)
    with pytest.raises(RateLimited):
        limits.take(client, Share.TOKEN)
    limits.take(client, Share.END)


def test_what_is_known_of_tokens_stays_small(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FULL_SECONDS", 0.0)
    buckets = TokenRateLimits()
    for number in range(5000):
        buckets.take(str(number), None)
    assert len(buckets) <= 1001


# ---- what callers are told


def fields(answer: httpx.Response) -> list[str]:
    names = ("limit", "remaining", "reset", "policy")
    return [answer.headers.get(f"ratelimit-{name}", "") for name in names]


@pytest.mark.parametrize("path", ["/sessions", "/environments"])
def test_each_answer_says_how_much_is_left(own: Platform, path: str) -> None:
    assert fields(own.call("GET", path)) == [""] * 4
    limited(own, 6)
    told = [fields(own.call("GET", path)) for _ in range(8)]
    assert [each[0] for each in told] == ["6"] * 8
    assert [each[3] for each in told] == ["6;w=60"] * 8
    left = [int(each[1]) for each in told]
    assert left[0] == 5
    assert all(before - after in (0, 1) for before, after in pairwise(left))
    assert left[-1] == 0
    for remaining, reset in zip(left, (int(each[2]) for each in told), strict=True):
        missing = 6 - remaining if remaining else 1
        assert math.isclose(reset, missing * 10, abs_tol=10)


def test_a_refusal_says_when_the_next_one_gets_through(own: Platform) -> None:
    limited(own, 2)
    statuses(own, "/sessions", api_key(own.key), 2)
    answer = own.call("POST", "/execute", {"code": "1", "environment": "python"})
    error(answer, 429, "rate_limited")
    assert fields(answer) == ["2", "0", answer.headers["retry-after"], "2;w=60"]
    assert not Execution.objects.exists()


def test_a_token_is_told_of_what_ends_first_for_it(own: Platform) -> None:
    session_id = own.open()
    viewer = bearer(own.token(session_id, "viewer"))
    limited(own, 4)
    path = f"/sessions/{session_id}"
    assert fields(own.api.get(path, headers=viewer))[:2] == ["2", "1"]
    assert fields(own.call("GET", path))[:2] == ["4", "2"]


def test_asynchronous_answers_say_it_as_well(own: Platform) -> None:
    session_id = own.open()
    limited(own, 30)
    run = own.call("POST", f"/sessions/{session_id}/execute?wait=false", {"code": "1"})
    assert (run.status_code, fields(run)[:2]) == (202, ["30", "29"])


def test_pages_of_other_origins_can_read_it(own: Platform, settings: object) -> None:
    settings.CORS_ALLOWED_ORIGINS = [APP]  # type: ignore[attr-defined]
    answer = own.api.get("/sessions", headers={**api_key(own.key), "origin": APP})
    exposed = set(answer.headers["access-control-expose-headers"].lower().split(", "))
    names = {f"ratelimit-{name}" for name in ("limit", "remaining", "reset", "policy")}
    assert names | {"retry-after", "x-workspace-truncated", "content-disposition"} <= exposed


# ---- credentials in addresses


def test_no_link_repeats_a_token(own: Platform) -> None:
    session_id = own.open()
    token = own.token(session_id, "viewer")
    for _ in range(3):
        own.call("POST", f"/sessions/{session_id}/execute?wait=false", {"code": "1"})
    read_notifications(own.api)
    page = own.api.get(f"/sessions/{session_id}/executions?page_size=1&token={token}").json()
    assert "page_size=1" in page["next"]
    assert "token" not in page["next"]
    following = own.api.get(page["next"], headers=bearer(token)).json()
    assert "token" not in following["previous"] + following["next"]
