"""Nobody uses what isn't theirs. The schema is walked, so that no call can be forgotten: one that
is new fails here until it has a recipe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from io import StringIO
from typing import Any

import httpx
import pytest
import yaml
from django.core.management import call_command
from django.utils import timezone
from django_q.models import OrmQ

from sessions_app.access.clients import create_key
from sessions_app.api.authorization import PUBLIC as PUBLIC_ACCESS
from sessions_app.api.authorization import Access
from sessions_app.api.feeds import feeds
from sessions_app.api.urls import urlpatterns
from sessions_app.callers import Role
from sessions_app.models import ApiKey, Client, Execution, Sandbox, Session
from tests.api.test_every_call import NOBODY, error
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.platforms import Platform, api_key, bearer, call, platform, read_notifications
from tests.support.working import working

pytestmark = pytest.mark.django_db(transaction=True)

PREFIX = "/api/v1"
PUBLIC = {("get", "/health"), ("get", "/health/live"), ("get", "/health/ready")}
"""Calls that anybody may make."""

NOT_OWNED = {"name", "path"}
"""Path parameters that name what is nobody's: environments, files of a session."""

RUN = {"code": "print(1)"}
BODIES: dict[tuple[str, str], Any] = {
    ("get", "/health"): None,
    ("get", "/health/live"): None,
    ("get", "/health/ready"): None,
    ("get", "/environments"): None,
    ("get", "/environments/{name}"): None,
    ("post", "/execute"): RUN,
    ("get", "/executions"): None,
    ("get", "/executions/{execution_id}"): None,
    ("post", "/executions/{execution_id}/cancel"): None,
    ("post", "/executions/{execution_id}/stdin"): {"data": ""},
    ("get", "/executions/{execution_id}/events"): None,
    ("get", "/sessions"): None,
    ("post", "/sessions"): {"environment": "python"},
    ("get", "/sessions/{session_id}"): None,
    ("patch", "/sessions/{session_id}"): {"ttl": 60},
    ("delete", "/sessions/{session_id}"): None,
    ("post", "/sessions/{session_id}/reset"): None,
    ("get", "/sessions/{session_id}/files"): None,
    ("get", "/sessions/{session_id}/files/{path}"): None,
    ("get", "/sessions/{session_id}/archive"): None,
    ("post", "/sessions/{session_id}/execute"): RUN,
    ("get", "/sessions/{session_id}/events"): None,
    ("get", "/sessions/{session_id}/executions"): None,
    ("post", "/sessions/{session_id}/tokens"): {"role": "candidate"},
}
"""The recipe of each call: a body with which it would be done, were it allowed."""

_ASKING = {
    ("get", "/sessions/{session_id}/files"),
    ("get", "/sessions/{session_id}/files/{path}"),
    ("get", "/sessions/{session_id}/archive"),
}
"""The session's node answers them."""
_LOOKING = {
    *_ASKING,
    ("get", "/environments"),
    ("get", "/environments/{name}"),
    ("get", "/executions/{execution_id}"),
    ("get", "/executions/{execution_id}/events"),
    ("get", "/sessions/{session_id}"),
    ("get", "/sessions/{session_id}/events"),
    ("get", "/sessions/{session_id}/executions"),
}
_STOPPING = {
    ("patch", "/sessions/{session_id}"),
    ("post", "/sessions/{session_id}/reset"),
    ("delete", "/sessions/{session_id}"),
}
_RUNNING = {
    ("post", "/sessions/{session_id}/execute"),
    ("post", "/executions/{execution_id}/cancel"),
    ("post", "/executions/{execution_id}/stdin"),
}
ALLOWED: dict[Role, set[tuple[str, str]]] = {
    Role.VIEWER: _LOOKING,
    Role.CANDIDATE: _LOOKING | _RUNNING,
    Role.INTERVIEWER: _LOOKING | _RUNNING | _STOPPING,
}
"""What a token of each role may do, in its own session."""


@dataclass(frozen=True, kw_only=True)
class Call:
    method: str
    path: str
    """With its parameters in braces."""

    @property
    def name(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def body(self) -> Any:
        return BODIES[self.name]

    def address(self, ids: dict[str, str]) -> str:
        address = self.path.format(**ids)
        return f"{address}?wait=false" if address.endswith("/execute") else address

    @property
    def harm(self) -> int:
        """What makes others impossible comes after them."""
        return 2 if self.method == "delete" else int(self.path.endswith("/reset"))

    def is_of_somebodys(self) -> bool:
        return any("{" + name + "}" in self.path for name in OWNED)


OWNED = ("session_id", "execution_id")


def calls() -> list[Call]:
    """All of the schema's."""
    out = StringIO()
    call_command("spectacular", stdout=out)
    paths = yaml.safe_load(out.getvalue())["paths"]
    return [
        Call(method=method, path=path.removeprefix(PREFIX))
        for path, methods in paths.items()
        for method in methods
    ]


@pytest.fixture(scope="module")
def every_call() -> list[Call]:
    found = calls()
    missing = [each.name for each in found if each.name not in BODIES]
    assert not missing, (
        f"{missing} have no recipe in {__name__}: add to BODIES a body with which the call would "
        "be done, to ALLOWED the roles whose tokens may make it, and to OWNED or NOT_OWNED its "
        "path parameters that are new"
    )
    return found


@dataclass(frozen=True, kw_only=True)
class Cast:
    """`own` and `other`: two platforms, with the ids of what is theirs."""

    api: Api
    own: Platform
    other: Platform
    ids: dict[str, str]
    """The own platform's."""
    others_ids: dict[str, str]


@pytest.fixture(autouse=True)
def streams_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that is stopping: so the calls that stream have a whole answer too."""
    monkeypatch.setattr(feeds, "are_closed", True)


@pytest.fixture
def cast(api: Api, work: Work, configure: Configure) -> Cast:
    configure(API_AUTH="key")
    own, other = platform(api, "own"), platform(api, "other")
    return Cast(
        api=api, own=own, other=other, ids=ids_of(own, work), others_ids=ids_of(other, work)
    )


def ids_of(owner: Platform, work: Work) -> dict[str, str]:
    session_id = owner.open(metadata={"interview": owner.client.name})
    work()
    execution_id = owner.run(session_id, work)
    return {
        "session_id": session_id,
        "execution_id": execution_id,
        "name": "python",
        "path": "main.py",
    }


def rows() -> dict[str, Any]:
    """All that a call could change."""
    return {
        model.__name__: list(model.objects.order_by("pk").values())
        for model in (Session, Execution, Sandbox, OrmQ)
    }


def _call(cast: Cast, one: Call, headers: dict[str, Any]) -> httpx.Response:
    """With a node that answers, where one is asked."""
    with working() if one.name in _ASKING else nullcontext():
        return call(cast.api, one.method, one.address(cast.ids), one.body, headers)


def _denied(cast: Cast, one: Call, headers: dict[str, Any], status: int, code: str) -> None:
    answer = call(cast.api, one.method, one.address(cast.ids), one.body, headers)
    body = error(answer, status, code)
    if status == 401:
        assert answer.headers["www-authenticate"].startswith(("Api-Key ", "Bearer ")), body


# ---- nothing is forgotten


def test_every_call_has_a_recipe(every_call: list[Call]) -> None:
    assert {each.name for each in every_call} == BODIES.keys()
    parameters = {
        part.strip("{}") for each in every_call for part in each.path.split("/") if "{" in part
    }
    assert parameters == {*OWNED, *NOT_OWNED}


def test_every_action_declares_who_may_call_it() -> None:
    checked = 0
    for pattern in urlpatterns:
        view = getattr(pattern.callback, "__wrapped__", pattern.callback)
        for method, action in view.actions.items():
            declared = getattr(getattr(view.cls, action), "access", None)
            assert declared is PUBLIC_ACCESS or isinstance(declared, Access), (pattern, method)
            checked += 1
    assert checked >= len(BODIES)


def test_only_what_is_listed_here_is_public(cast: Cast, every_call: list[Call]) -> None:
    for each in every_call:
        answer = call(cast.api, each.method, each.address(cast.ids), each.body, {})
        assert (answer.status_code != 401) == (each.name in PUBLIC), each.name


# ---- who has no valid key


def _wrong_credentials(owner: Client) -> Iterator[tuple[str, str, dict[str, Any]]]:
    good = create_key(owner).key
    yield "no header", "not_authenticated", {}
    yield "another scheme", "not_authenticated", {"authorization": f"Basic {good}"}
    yield "no scheme", "not_authenticated", {"authorization": good}
    yield "an empty key", "not_authenticated", api_key("")
    yield "malformed", "invalid_key", api_key("cex_1")
    yield "not ASCII", "invalid_key", {"authorization": "Api-Key cex_\xe4".encode("latin-1")}
    yield "too long", "invalid_key", api_key(good * 50)
    yield "wrong", "invalid_key", api_key(good[:-1] + ("0" if good[-1] != "0" else "1"))
    yield "its prefix alone", "invalid_key", api_key(good[: len("cex_12345678")])
    yield "its digest", "invalid_key", api_key(hashlib.sha256(good.encode()).hexdigest())
    yield "no token", "invalid_token", bearer("x")
    yield "a key as a token", "invalid_token", bearer(good)
    revoked = create_key(owner)
    revoked.row.revoke()
    yield "revoked", "invalid_key", api_key(revoked.key)
    expired = create_key(owner, expires_in=timedelta(hours=1))
    ApiKey.objects.filter(pk=expired.row.pk).update(expires_at=timezone.now())
    yield "expired", "invalid_key", api_key(expired.key)
    disabled = Client.objects.create(name="disabled", enabled=False)
    yield "disabled", "invalid_key", api_key(create_key(disabled).key)


def test_without_a_valid_key_nothing_is_answered_and_nothing_done(
    cast: Cast, every_call: list[Call]
) -> None:
    tried = list(_wrong_credentials(cast.own.client))
    read_notifications(cast.api)
    before = rows()
    for each in every_call:
        for _name, code, headers in tried:
            if each.name not in PUBLIC:
                _denied(cast, each, headers, 401, code)
    assert rows() == before
    assert len(tried) == 15


def test_only_who_has_the_whole_key_is_told_what_is_wrong_with_it(cast: Cast) -> None:
    tried = list(_wrong_credentials(cast.own.client))
    read_notifications(cast.api)
    said = {
        name: error(cast.api.get("/sessions", headers=headers), 401, code)["detail"]
        for name, code, headers in tried
    }
    assert "has been revoked" in said["revoked"]
    assert "has expired" in said["expired"]
    assert "is disabled" in said["disabled"]
    assert said["wrong"] == said["malformed"] == said["its digest"]
    assert said["wrong"].startswith("This key is not known")


# ---- another client's


def test_what_is_anothers_is_not_there_and_stays_as_it_is(
    cast: Cast, every_call: list[Call]
) -> None:
    before, tried = rows(), 0
    for each in every_call:
        if not each.is_of_somebodys():
            continue
        # Its own ids but for one, in turn: no parameter may be looked at less than another.
        for name in OWNED:
            if "{" + name + "}" not in each.path:
                continue
            theirs = cast.own.call(
                each.method, each.address({**cast.ids, name: cast.others_ids[name]}), each.body
            )
            nobodys = cast.own.call(
                each.method, each.address({**cast.ids, name: NOBODY}), each.body
            )
            body = error(theirs, 404, "not_found")
            text = theirs.text.replace(cast.others_ids[name], NOBODY)
            assert text == nobodys.text, each.name
            assert set(body) == {"detail", "code"}
            tried += 1
    assert tried >= 6
    assert rows() == before


@pytest.mark.parametrize("body", [{}, {"code": "1", "timeout": 3600}, {"code": "x" * 10**6}])
def test_a_run_that_is_refused_says_no_more_of_anothers_session_than_of_none(
    cast: Cast, body: dict[str, Any]
) -> None:
    """Though this process knows the session from its owner's runs."""
    answers = [
        cast.own.call("POST", f"/sessions/{session_id}/execute", body)
        for session_id in (cast.others_ids["session_id"], NOBODY)
    ]
    assert [answer.status_code for answer in answers] == [404, 404]


def test_the_same_calls_are_done_for_who_owns_it(cast: Cast, every_call: list[Call]) -> None:
    """The recipes would work: it is the owner that makes the difference."""
    last = sorted(every_call, key=lambda each: each.harm)
    for each in last:
        answer = _call(cast, each, api_key(cast.own.key))
        assert answer.status_code in (200, 201, 202), (each.name, answer.text)


def test_lists_show_what_is_ones_own_with_every_filter_and_on_every_page(
    cast: Cast, work: Work
) -> None:
    mine = {cast.ids["session_id"], *(cast.own.open() for _ in range(4))}
    for _ in range(4):
        cast.other.open(metadata={"interview": "own"})
    work()
    for query in ("", "status=ready", "environment=python", "page_size=2"):
        assert set(_listed(cast.own, f"/sessions?{query}")) == mine
    for name, value in (("interview", "own"), ("interview", "other"), ("none", "x")):
        found = _listed(cast.own, f"/sessions?metadata.{name}={value}")
        assert found == ([cast.ids["session_id"]] if value == "own" else [])


def test_anothers_page_shows_nothing_of_it(cast: Cast) -> None:
    for _ in range(3):
        cast.other.open()
    others = cast.other.call("GET", "/sessions?page_size=1").json()["next"]
    answer = cast.own.call("GET", others)
    assert answer.status_code == 200
    ids = {row["session_id"] for row in answer.json()["results"]}
    assert ids <= {cast.ids["session_id"]}


def _listed(owner: Platform, address: str) -> list[str]:
    found: list[str] = []
    while address:
        body = owner.call("GET", address).json()
        found += [row["session_id"] for row in body["results"]]
        address = body["next"]
    return found


def test_a_session_without_an_owner_is_no_clients(cast: Cast, configure: Configure) -> None:
    configure(API_AUTH="open")
    session_id = str(cast.api.post("/sessions", {}).json()["session_id"])
    configure(API_AUTH="key")
    error(cast.own.call("GET", f"/sessions/{session_id}"), 404, "not_found")
    assert session_id not in _listed(cast.own, "/sessions")


def test_an_open_service_sees_everything(cast: Cast, configure: Configure) -> None:
    configure(API_AUTH="open")
    for ids in (cast.ids, cast.others_ids):
        assert cast.api.get(f"/sessions/{ids['session_id']}").status_code == 200
        assert cast.api.get(f"/executions/{ids['execution_id']}").status_code == 200
    assert len(cast.api.get("/sessions").json()["results"]) == 2


# ---- scopes


def test_a_scope_that_is_lacking_is_named(cast: Cast, every_call: list[Call]) -> None:
    Client.objects.filter(pk=cast.own.client.pk).update(scopes=["metrics"])
    read_notifications(cast.api)
    before = rows()
    for each in every_call:
        if each.name in PUBLIC:
            continue
        answer = cast.own.call(each.method, each.address(cast.ids), each.body)
        body = error(answer, 403, "insufficient_scope")
        assert body["scope"] in ("read", "sessions", "execute", "tokens")
        assert body["scope"] in body["detail"]
    assert rows() == before


# ---- session tokens


@pytest.mark.parametrize("role", list(Role))
def test_a_token_does_what_its_role_may_in_its_session(
    cast: Cast, role: Role, every_call: list[Call]
) -> None:
    headers = bearer(cast.own.token(cast.ids["session_id"], role.value))
    for each in sorted(every_call, key=lambda each: each.harm):
        if each.name in PUBLIC:
            continue
        before = rows()
        answer = _call(cast, each, headers)
        if each.name in ALLOWED[role]:
            assert answer.status_code in (200, 202), (each.name, answer.text)
        else:
            assert error(answer, 403, "forbidden_for_role")["role"] == role.value
            assert rows() == before


@pytest.mark.parametrize("role", list(Role))
def test_a_token_opens_no_other_session(
    cast: Cast, role: Role, work: Work, every_call: list[Call]
) -> None:
    """Neither another client's nor another one of its own client's."""
    headers = bearer(cast.own.token(cast.ids["session_id"], role.value))
    second = ids_of(cast.own, work)
    before = rows()
    for each in every_call:
        for ids in (second, cast.others_ids) if each.is_of_somebodys() else ():
            answer = call(cast.api, each.method, each.address(ids), each.body, headers)
            allowed = each.name in ALLOWED[role]
            error(answer, *((404, "not_found") if allowed else (403, "forbidden_for_role")))
    assert rows() == before


@pytest.mark.parametrize(("role", "shown"), [(r, r == Role.INTERVIEWER) for r in Role])
def test_what_the_platform_notes_down_is_shown_to_interviewers_only(
    cast: Cast, role: Role, shown: bool
) -> None:
    token = cast.own.token(cast.ids["session_id"], role.value)
    answer = cast.api.get(f"/sessions/{cast.ids['session_id']}", headers=bearer(token))
    assert ("metadata" in answer.json()) == shown
    assert "interview" not in answer.text or shown
