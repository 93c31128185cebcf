"""Another OCI runtime for one session: who may choose which, and where it is started."""

from __future__ import annotations

import pytest

from codeexec.errors import NoCapacity, UnknownRuntime
from environments_app.models import Environment
from sessions_app.models import Node, Sandbox, Session
from sessions_app.node.sandboxes import fill_pools
from sessions_app.node.upkeep import record_runtimes
from sessions_app.services.executions import RunRequest, submit_single_run
from sessions_app.services.isolation import runtimes_of
from sessions_app.services.sessions import open_session
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.fake_driver import FakeDriver
from tests.support.working import Delivery, queued

BOTH = ["runc", "runsc"]


@pytest.fixture
def runtimes(this: Node) -> None:
    this.note_runtimes(BOTH)


def give(environment: Environment, **fields: object) -> None:
    Environment.objects.filter(pk=environment.pk).update(**fields)


def test_a_node_notes_what_its_engine_knows(this: Node, driver: FakeDriver) -> None:
    record_runtimes()
    this.refresh_from_db()
    assert this.runtimes == BOTH


def test_an_engine_that_does_not_answer_changes_nothing(
    this: Node, runtimes: None, driver: FakeDriver
) -> None:
    driver.engine_is_down = True
    record_runtimes()
    this.refresh_from_db()
    assert this.runtimes == BOTH


def test_a_session_is_started_with_the_runtime_that_was_asked_for(
    python: Environment, work: Work, runtimes: None, driver: FakeDriver
) -> None:
    session = open_session(environment_name="python", runtime="runsc")
    work()
    session.refresh_from_db()
    assert (session.status, session.runtime) == (Session.Status.READY, "runsc")
    assert [spec.runtime for spec in driver.started] == ["runsc"]


def test_a_single_run_may_choose_too(
    python: Environment, work: Work, runtimes: None, driver: FakeDriver
) -> None:
    submit_single_run("python", RunRequest(code="print(1)"), runtime="runsc")
    work()
    assert [spec.runtime for spec in driver.started] == ["runsc"]


def test_a_warm_sandbox_is_taken_when_it_has_the_runtime(
    python: Environment, work: Work, this: Node, runtimes: None
) -> None:
    give(python, warm_pool_size=2, runtime="runc")
    fill_pools(this)
    work()
    assert open_session(environment_name="python", runtime="runc").warm
    cold = open_session(environment_name="python", runtime="runsc")
    assert (cold.warm, cold.status) == (False, Session.Status.PENDING)


def test_the_engines_default_is_what_a_warm_sandbox_without_a_runtime_has(
    python: Environment, work: Work, this: Node, runtimes: None
) -> None:
    give(python, warm_pool_size=1)
    fill_pools(this)
    work()
    assert open_session(environment_name="python", runtime="runc").warm


def test_a_warm_sandbox_of_an_earlier_default_is_not_given_to_who_asks_for_the_new_one(
    python: Environment, work: Work, this: Node, runtimes: None, driver: FakeDriver
) -> None:
    give(python, warm_pool_size=1)
    fill_pools(this)
    work()
    this.note_runtimes(["runsc", "runc"])
    opened = open_session(environment_name="python", runtime="runsc")
    assert (opened.warm, opened.status) == (False, Session.Status.PENDING)
    work()
    assert [spec.runtime for spec in driver.started] == ["", "runsc"]


def test_no_warm_sandbox_is_started_where_the_runtime_is_missing(
    python: Environment, this: Node
) -> None:
    this.note_runtimes(["runc"])
    give(python, warm_pool_size=1, runtime="runsc")
    fill_pools(this)
    assert Sandbox.objects.count() == 0


@pytest.mark.parametrize(
    ("own", "default", "asked", "there"),
    [
        ("", "runc", "kata", BOTH),
        ("", "runc", "", BOTH),
        ("runsc", "runc", "runc", ["runsc"]),
        ("", "runsc", "runc", ["runsc"]),
        ("kata", "runc", "runsc", []),
    ],
)
def test_no_unknown_and_no_weaker_one_can_be_chosen(
    python: Environment, this: Node, own: str, default: str, asked: str, there: list[str]
) -> None:
    this.note_runtimes(sorted(BOTH, key=lambda name: name != default))
    give(python, runtime=own)
    with pytest.raises(UnknownRuntime) as caught:
        open_session(environment_name="python", runtime=asked)
    assert caught.value.fields["runtimes"] == there
    assert not Session.objects.exists()


def test_what_the_setting_does_not_name_cannot_be_chosen(
    python: Environment, runtimes: None, configure: Configure
) -> None:
    configure(SESSION_RUNTIMES=["runc"])
    with pytest.raises(UnknownRuntime):
        open_session(environment_name="python", runtime="runsc")


def test_what_only_a_lost_node_has_cannot_be_chosen(
    python: Environment, this: Node, runtimes: None
) -> None:
    Node.objects.update(engine_error="down")
    with pytest.raises(UnknownRuntime):
        open_session(environment_name="python", runtime="runsc")


def test_an_environment_whose_runtime_no_node_has_takes_no_sessions(
    python: Environment, this: Node
) -> None:
    this.note_runtimes(["runc"])
    give(python, runtime="runsc")
    with pytest.raises(NoCapacity, match="runtime 'runsc'"):
        open_session(environment_name="python")


def test_a_start_goes_to_a_node_that_has_the_runtime(
    python: Environment, work: Work, this: Node, other: Node
) -> None:
    this.note_runtimes(["runc"])
    other.note_runtimes(BOTH)
    session = open_session(environment_name="python", runtime="runsc")
    work()
    assert queued("node:other") == [Delivery("start_session", (str(session.pk),))]


def test_an_environment_that_was_given_a_stronger_one_meanwhile_has_it(
    python: Environment, work: Work, runtimes: None, driver: FakeDriver
) -> None:
    open_session(environment_name="python", runtime="runc")
    give(python, runtime="runsc")
    work()
    assert [spec.runtime for spec in driver.started] == ["runsc"]


def test_one_that_may_not_be_chosen_any_more_gives_way_to_the_environments_own(
    python: Environment, work: Work, runtimes: None, driver: FakeDriver, configure: Configure
) -> None:
    open_session(environment_name="python", runtime="runc")
    give(python, runtime="runsc")
    configure(SESSION_RUNTIMES=["runsc"])
    work()
    assert [spec.runtime for spec in driver.started] == ["runsc"]


def test_the_api_takes_tells_and_refuses_it(api: Api, this: Node) -> None:
    this.note_runtimes(BOTH)
    opened = api.post("/sessions", {"environment": "python", "runtime": "runsc"})
    assert opened.status_code == 201
    found = api.get(f"/sessions/{opened.json()['session_id']}")
    assert found.json()["runtime"] == "runsc"
    for path, body in (("/sessions", {}), ("/execute", {"code": "1"})):
        refused = api.post(path, {"environment": "python", "runtime": "kata", **body})
        assert (refused.status_code, refused.json()["code"]) == (400, "unknown_runtime")
        assert refused.json()["runtimes"] == BOTH


def test_isolation_is_checked_in_what_sessions_may_choose_once(
    python: Environment, rust: Environment, this: Node, runtimes: None
) -> None:
    this.refresh_from_db()
    python.refresh_from_db()
    assert python.is_default
    assert (runtimes_of(python, this), runtimes_of(rust, this)) == (BOTH, ["runc"])
