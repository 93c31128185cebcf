"""Following runs while they go on, and afterwards: each event once and in order, whatever happens
to the connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test import Client

from codeexec.audit.actors import command_actor
from codeexec.http.serving import Application
from codeexec.http.threads import in_thread
from sessions_app.access import tokens
from sessions_app.access.clients import revoke_key
from sessions_app.api import feeds as feeds_module
from sessions_app.api import streams
from sessions_app.api.feeds import feeds
from sessions_app.execution import live_output
from sessions_app.models import Client as ClientRow
from sessions_app.models import Event as EventRow
from sessions_app.models import Execution, Node, Session
from sessions_app.services.executions import RunRequest, submit_execution
from sessions_app.services.sessions import change_session, stop_session
from tests.conftest import Configure, Work
from tests.execution.test_executor import executing
from tests.support.api_client import Api
from tests.support.event_streams import LONG, Watching, names_of, texts, watching
from tests.support.fake_driver import FakeDriver
from tests.support.platforms import Platform, platform
from tests.support.stack import eventually

pytestmark = pytest.mark.django_db(transaction=True)

UNTIL_TOLD = """
import os, time
def wait(name):
    while not os.path.exists(name):
        time.sleep(0.005)
"""
STEPS = f"""{UNTIL_TOLD}
print("one", flush=True); wait("a")
print("two ж", flush=True); wait("b")
print("three", flush=True)
"""


class Stage:
    """One session that is ready, its executor, and viewers."""

    def __init__(self, api: Api, application: Application, driver: FakeDriver, id_: str) -> None:
        self.api, self.application, self.driver, self.session_id = api, application, driver, id_

    def play(self, scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.api.run(scene())

    async def submit(self, code: str, **fields: Any) -> Execution:
        return await in_thread(submit_execution, self.session_id, RunRequest(code=code, **fields))

    def touch(self, name: str) -> None:
        """What a program that waits for a file of that name waits for."""
        (self.driver.sandboxes[self.session_id].folder / name).touch()

    def session(self, **headers: str) -> Any:
        return watching(self.application, f"/sessions/{self.session_id}/events", **headers)

    def execution(self, execution: Execution, **headers: str) -> Any:
        return watching(self.application, f"/executions/{execution.pk}/events", **headers)


@pytest.fixture
def stage(
    api: Api, application: Application, driver: FakeDriver, this: Node, work: Work
) -> Iterator[Stage]:
    session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    work()
    with executing(this):
        yield Stage(api, application, driver, session_id)
    assert feeds._feeds == {}, "a feed outlived its viewers"


async def still_here(viewer: Watching) -> None:
    """Waits for its sign of life."""
    while not viewer.blocks or viewer.blocks[-1] != ": still here":
        viewer.blocks += (await viewer.received.get() or b"").decode().split("\n\n")[:1]


def result_of(stage: Stage, execution: Execution) -> dict[str, Any]:
    body: dict[str, Any] = stage.api.get(f"/executions/{execution.pk}").json()
    return body


def test_output_arrives_while_the_program_runs_and_the_result_after_it(stage: Stage) -> None:
    async def scene() -> None:
        run = await stage.submit(STEPS)
        async with stage.execution(run) as viewer:
            assert viewer.headers["content-type"].startswith("text/event-stream")
            assert viewer.headers["x-accel-buffering"] == "no"
            first = await viewer.until("stdout")
            assert names_of(first) == ["queued", "running", "stdout"]
            assert first[-1].data == {
                "execution_id": str(run.pk),
                "sequence": 1,
                "text": "one\n",
                "stage": "run",
            }
            stage.touch("a")
            assert texts(await viewer.until("stdout")) == "two ж\n"
            stage.touch("b")
            rest = await viewer.until()
            assert names_of(rest)[-2:] == ["completed", "result"]
            assert texts(rest) == "three\n"
            assert rest[-1].data["stdout"] == "one\ntwo ж\nthree\n"
            assert viewer.blocks[0] == "retry: 1000"

    stage.play(scene)


def test_the_result_is_what_the_call_that_ran_it_answers(stage: Stage) -> None:
    path = f"/sessions/{stage.session_id}/execute"
    answer = stage.api.post(path, {"code": "print('x'); exit(3)"}).json()

    async def scene() -> None:
        async with watching(
            stage.application, f"/executions/{answer['execution_id']}/events"
        ) as viewer:
            events = await viewer.until()
        assert names_of(events) == ["queued", "running", "stdout", "completed", "result"]
        assert events[-1].data == answer

    stage.play(scene)


def test_who_comes_back_gets_what_he_missed_once(stage: Stage) -> None:
    async def scene() -> None:
        run = await stage.submit(STEPS)
        async with stage.execution(run) as viewer:
            seen = await viewer.until("stdout")
        stage.touch("a")
        async with stage.execution(run) as other:
            await other.until("stdout")
            assert texts(await other.until("stdout")) == "two ж\n"
        async with stage.execution(run, last_event_id=seen[-1].id) as viewer:
            seen += await viewer.until("stdout")
            stage.touch("b")
        async with stage.execution(run, last_event_id=seen[-1].id) as viewer:
            seen += await viewer.until()
        assert texts(seen) == "one\ntwo ж\nthree\n"
        assert [each for each in names_of(seen) if each != "stdout"] == [
            "queued", "running", "completed", "result",
        ]  # fmt: skip
        async with stage.execution(run, last_event_id=seen[-1].id) as viewer:
            assert viewer.status == 204

    stage.play(scene)


def test_an_id_stays_good_when_the_rows_of_events_are_gone(stage: Stage) -> None:
    async def scene() -> None:
        run = await stage.submit(STEPS)
        async with stage.execution(run) as viewer:
            seen = await viewer.until("stdout")
            stage.touch("a")
            stage.touch("b")
            await viewer.until()
        gone = lambda: not EventRow.objects.exists()  # noqa: E731
        assert await in_thread(eventually, gone)
        async with stage.execution(run, last_event_id=seen[-1].id) as viewer:
            rest = await viewer.until()
        assert texts(rest) == "two ж\nthree\n"
        assert names_of(rest)[-2:] == ["completed", "result"]

    stage.play(scene)


def test_a_session_tells_of_its_runs_one_after_the_other_and_of_itself(stage: Stage) -> None:
    async def scene() -> None:
        async with stage.session() as viewer:
            assert names_of(await viewer.until("session")) == ["session"]
            first = await stage.submit(STEPS)
            events = await viewer.until("stdout")
            second = await stage.submit("print('next')")
            events += await viewer.until("queued")
            assert events[-1].data["execution_id"] == str(second.pk)
            stage.touch("a")
            stage.touch("b")
            events += await viewer.until("result")
            events += await viewer.until("result")
            await in_thread(stop_session, stage.session_id)
            while (last := await viewer.next()) and last.data["status"] != "stopping":
                assert last.name == "session"
            assert last is not None
        of_runs = [each for each in events if each.name != "session"]
        sequences = [each.data["sequence"] for each in of_runs if names_of([each]) != ["queued"]]
        assert sequences == sorted(sequences)
        assert texts(of_runs) == "one\ntwo ж\nthree\nnext\n"
        assert [each.data["execution_id"] for each in of_runs if each.name == "result"] == [
            str(first.pk),
            str(second.pk),
        ]

    stage.play(scene)


def test_viewers_of_one_session_share_what_is_read(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, readings = feeds_module.read, []

    async def counted(*arguments: Any) -> Any:
        readings.append(arguments)
        return await read(*arguments)

    monkeypatch.setattr(feeds_module, "read", counted)

    async def scene() -> None:
        run = await stage.submit(STEPS)
        async with viewers(stage, run, 20) as watchers:
            for viewer in watchers:
                await viewer.until("stdout")
            await asyncio.sleep(0.05)
            before = len(readings)
            stage.touch("a")
            for viewer in watchers:
                assert texts(await viewer.until("stdout")) == "two ж\n"
            assert len(readings) - before <= 3
            stage.touch("b")
            for viewer in watchers:
                assert names_of(await viewer.until())[-1] == "result"

    stage.play(scene)


@asynccontextmanager
async def viewers(stage: Stage, run: Execution, count: int) -> AsyncIterator[list[Watching]]:
    opened = [stage.execution(run) for _ in range(count)]
    watchers = [await each.__aenter__() for each in opened]
    try:
        yield watchers
    finally:
        for each in opened:
            await each.__aexit__(None, None, None)


def test_who_is_too_slow_for_the_memory_reads_the_rows(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds_module, "TAIL_BYTES", 100)
    code = f"{UNTIL_TOLD}\nfor n in range(12): print(n, flush=True); time.sleep(0.05)\nwait('a')"

    async def scene() -> None:
        run = await stage.submit(code)
        viewer = feeds_module.Viewer(run.session_id, feeds_module.Position(), only=run.sequence)
        events = viewer.events(10.0)
        got = [await anext(events)]
        async with stage.execution(run) as other:  # takes all of it meanwhile
            lines = ""
            while not lines.endswith("11\n"):
                lines += texts(await other.until("stdout"))
        stage.touch("a")
        got += [each async for each in events if each is not None]
        told = "".join(each.data["text"] for each in got if each and each.name == "stdout")
        assert told == lines == "".join(f"{n}\n" for n in range(12))

    stage.play(scene)


def test_without_a_connection_meanwhile_nothing_is_lost(stage: Stage) -> None:
    def end_connections() -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE"
                " application_name IN ('code-executor hub', 'code-executor runs')"
                " AND datname = current_database()"
            )

    async def scene() -> None:
        run = await stage.submit(STEPS)
        async with stage.execution(run) as viewer:
            seen = await viewer.until("stdout")
            await in_thread(end_connections)
            stage.touch("a")
            stage.touch("b")
            seen += await viewer.until()
        assert texts(seen) == "one\ntwo ж\nthree\n"

    stage.play(scene)


def test_from_now_on_nothing_of_before_is_told(stage: Stage) -> None:
    stage.api.post(f"/sessions/{stage.session_id}/execute", {"code": "print('before')"})

    async def scene() -> None:
        path = f"/sessions/{stage.session_id}/events?last_event_id=latest"
        async with watching(stage.application, path) as viewer:
            assert names_of(await viewer.until("session")) == ["session"]
            await stage.submit("print('now')")
            events = await viewer.until("result")
        assert texts(events) == "now\n"
        assert {each.data["sequence"] for each in events if each.name != "session"} == {2}

    stage.play(scene)


def test_a_closed_session_is_told_to_its_end_and_then_there_is_nothing(
    stage: Stage, work: Work
) -> None:
    stage.api.post(f"/sessions/{stage.session_id}/execute", {"code": "print('kept')"})
    stage.api.delete(f"/sessions/{stage.session_id}")
    work()
    assert eventually(lambda: Session.row(stage.session_id).filter(status="stopped").exists())

    async def scene() -> None:
        async with stage.session() as viewer:
            events = await viewer.until()
        assert texts(events) == "kept\n"
        assert events[0].data["status"] == "stopped"
        async with stage.session(last_event_id=events[-1].id) as viewer:
            assert viewer.status == 204

    stage.play(scene)


def test_an_id_that_is_none_is_refused(stage: Stage) -> None:
    for wrong in (
        "x",
        "1.2",
        "0.0.0.0.0.0.0.0.",
        "1.9.0.0.0.0.0.0.",
        "-1.0.0.0.0.0.0.0.",
        "1.0.0.0.0.0.0.0.zz",
    ):
        answer = stage.api.get(f"/sessions/{stage.session_id}/events?last_event_id={wrong}")
        assert (answer.status_code, answer.json()["field"]) == (400, "last_event_id")


def test_another_method_is_not_allowed(stage: Stage) -> None:
    for method in ("HEAD", "POST", "PUT", "DELETE"):
        answer = stage.api.request(method, f"/sessions/{stage.session_id}/events")
        assert answer.status_code == 405, method


def test_an_idle_stream_says_that_it_is_still_there(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.02)

    async def scene() -> None:
        async with stage.session() as viewer:
            await viewer.until("session")
            await still_here(viewer)

    stage.play(scene)


def revoked(own: Platform) -> None:
    revoke_key(own.key)


def disabled(own: Platform) -> None:
    ClientRow.objects.filter(pk=own.client.pk).update(enabled=False)


def long_ago(_own: Platform) -> None:
    """A token's time is over."""
    signing = SimpleNamespace(time=lambda: time.time() + 24 * 3600)
    tokens.time = signing  # type: ignore[assignment]


@pytest.mark.parametrize("loses_it", [revoked, disabled, long_ago])
def test_a_stream_ends_when_its_viewer_may_not_look_any_more(
    api: Api,
    application: Application,
    this: Node,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    loses_it: Callable[[Platform], None],
) -> None:
    configure(API_AUTH="key")
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(tokens, "time", time)  # back to it at the end
    own = platform(api, "own")
    session_id = own.open()
    token = own.token(session_id, "viewer")
    by_key = {"authorization": f"Api-Key {own.key}"}

    async def scene() -> None:
        given = by_key if loses_it is revoked else {"authorization": f"Bearer {token}"}
        async with watching(application, f"/sessions/{session_id}/events", **given) as viewer:
            await viewer.until("session")
            await in_thread(loses_it, own)
            assert await viewer.until() == []

    api.run(scene())


def test_who_waits_behind_a_run_that_prints_is_looked_at_all_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes is not for him: it doesn't count as a sign of life."""
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.2)
    code = (
        f"{UNTIL_TOLD}\nwhile not os.path.exists('a'): print('more', flush=True); time.sleep(0.05)"
    )

    async def scene() -> None:
        await stage.submit(code)
        waiting = await stage.submit("print('next')")
        async with stage.execution(waiting) as viewer:
            assert names_of(await viewer.until("queued")) == ["queued"]
            await still_here(viewer)
            stage.touch("a")
            assert texts(await viewer.until()) == "next\n"

    stage.play(scene)


def test_a_page_that_cors_origins_names_may_watch(stage: Stage, settings: Any) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["https://app.example.org"]

    async def scene() -> None:
        async with stage.session(origin="https://app.example.org") as viewer:
            assert viewer.headers["access-control-allow-origin"] == "https://app.example.org"
        async with stage.session(origin="https://other.example.org") as viewer:
            assert "access-control-allow-origin" not in viewer.headers

    stage.play(scene)


def test_who_came_between_two_readings_gets_nothing_twice(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed reads the end of a run, and a viewer has read more of its beginning than the feed:
    what the feed has of it doesn't fit.
    """
    read, may_read = feeds_module.read, asyncio.Event()
    may_read.set()

    async def held_up(*arguments: Any) -> Any:
        task = asyncio.current_task()
        if task is not None and task.get_name().startswith("feed"):
            await may_read.wait()
        return await read(*arguments)

    monkeypatch.setattr(feeds_module, "read", held_up)

    async def scene() -> None:
        run = await stage.submit(STEPS)
        async with stage.execution(run) as first:
            assert texts(await first.until("stdout")) == "one\n"
            await asyncio.sleep(0.05)  # the feed has it too
            may_read.clear()
            stage.touch("a")
            assert await in_thread(eventually, lambda: EventRow.objects.count() == 2)
            async with stage.execution(run) as second:
                seen = await second.until("stdout")
                seen += await second.until("stdout")
                stage.touch("b")
                ended = Execution.row(run.pk).filter(status="completed")
                assert await in_thread(eventually, ended.exists)
                may_read.set()
                seen += await second.until()
            assert texts(seen) == "one\ntwo ж\nthree\n"
            assert texts(await first.until()) == "two ж\nthree\n"

    stage.play(scene)


@pytest.mark.parametrize("of", ["session", "execution"])
def test_who_comes_while_a_run_ends_misses_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """The feed learns where it begins when the run that its viewer came for is over."""
    latest, may_begin = feeds_module.latest, asyncio.Event()

    async def held_up(*arguments: Any) -> Any:
        await may_begin.wait()
        return await latest(*arguments)

    monkeypatch.setattr(feeds_module, "latest", held_up)

    async def scene() -> None:
        run = await stage.submit(STEPS)
        async with stage.execution(run) if of == "execution" else stage.session() as viewer:
            running = Execution.row(run.pk).filter(status="running")
            assert await in_thread(eventually, running.exists)
            await asyncio.sleep(0.05)  # for who would read now
            stage.touch("a")
            stage.touch("b")
            ended = Execution.row(run.pk).filter(status="completed")
            assert await in_thread(eventually, ended.exists)
            may_begin.set()
            events = await viewer.until("result")
        told = [each for each in names_of(events) if each not in ("session", "stdout")]
        assert told == ["queued", "running", "completed", "result"]
        assert texts(events) == "one\ntwo ж\nthree\n"

    stage.play(scene)


def test_what_is_told_of_a_later_run_has_who_missed_an_end_read_again(stage: Stage) -> None:
    """However he came to miss it: here the feed begins behind the run that he is told of."""

    async def scene() -> None:
        first = await stage.submit(STEPS)
        async with stage.session() as viewer:
            seen = await viewer.until("stdout")
            (feed,) = feeds._feeds.values()
            position = feeds_module.Position(sequence=2, queued=1)
            feed._task.cancel()
            feed._task = asyncio.create_task(feed._follow(position))
            stage.touch("a")
            stage.touch("b")
            ended = Execution.row(first.pk).filter(status="completed")
            assert await in_thread(eventually, ended.exists)
            await stage.submit("print('next')")
            seen += await viewer.until("result")
            seen += await viewer.until("result")
        told = [each for each in names_of(seen) if each not in ("session", "stdout")]
        story = ["running", "completed", "result"]
        assert [each for each in told if each != "queued"] == [*story, *story]
        assert texts(seen) == "one\ntwo ж\nthree\nnext\n"

    stage.play(scene)


def test_a_database_that_is_away_when_viewers_come_costs_them_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have signs of life meanwhile, and nobody on the way takes the connection for dead."""
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(feeds_module, "AWAY_SECONDS", 0.05)
    is_away = True

    def unless_away(function: Any) -> Any:
        async def call(*arguments: Any) -> Any:
            if is_away:
                raise OperationalError("the server is away")
            return await function(*arguments)

        return call

    for name in ("latest", "read"):
        monkeypatch.setattr(feeds_module, name, unless_away(getattr(feeds_module, name)))

    async def scene() -> None:
        nonlocal is_away
        run = await stage.submit(STEPS)
        async with stage.execution(run) as viewer, stage.session(last_event_id="latest") as other:
            async with asyncio.timeout(LONG):
                for each in (viewer, other):
                    await still_here(each)
            is_away = False
            seen = await viewer.until("stdout")
            stage.touch("a")
            stage.touch("b")
            assert texts(seen + await viewer.until()) == "one\ntwo ж\nthree\n"
            assert texts(await other.until("result")) == "one\ntwo ж\nthree\n"

    stage.play(scene)


def test_a_session_that_cannot_be_read_ends_its_streams_and_the_next_ones_go_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = feeds_module.latest

    async def broken(*_arguments: Any) -> Any:
        raise RuntimeError("not for a reason that passes")

    async def scene() -> None:
        run = await stage.submit(STEPS)
        monkeypatch.setattr(feeds_module, "latest", broken)
        async with stage.execution(run) as viewer:
            assert await viewer.until() == []
            monkeypatch.setattr(feeds_module, "latest", latest)
            stage.touch("a")
            stage.touch("b")
            async with stage.execution(run) as again:
                assert names_of(await again.until())[-1] == "result"

    stage.play(scene)


def test_who_watches_hears_that_a_session_lives_longer(stage: Stage) -> None:
    async def scene() -> None:
        async with stage.session() as viewer:
            (before,) = await viewer.until("session")
            await in_thread(extend, stage.session_id)
            (after,) = await viewer.until("session")
        assert after.data["expires_at"] > before.data["expires_at"]

    def extend(session_id: str) -> None:
        change_session(session_id, ttl_seconds=7200, by=command_actor("test"))

    stage.play(scene)


@pytest.mark.parametrize("done_before", [False, True], ids=["lost", "done, but not answered"])
def test_a_database_that_is_away_when_output_is_written_loses_and_doubles_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, done_before: bool
) -> None:
    monkeypatch.setattr(live_output, "_RETRY_SECONDS", 0.01)
    write, failures = live_output.write_events, []

    def failing(*arguments: Any) -> None:
        if len(failures) < 3:
            failures.append(arguments)
            if done_before:
                write(*arguments)
            raise OperationalError("the connection was lost")
        write(*arguments)

    async def scene() -> None:
        run = await stage.submit(STEPS)
        async with stage.execution(run) as viewer:
            seen = await viewer.until("stdout")
            monkeypatch.setattr(live_output, "write_events", failing)
            stage.touch("a")
            seen += await viewer.until("stdout")
            assert await in_thread(eventually, lambda: len(failures) == 3)
            stage.touch("b")
            seen += await viewer.until()
        assert texts(seen) == "one\ntwo ж\nthree\n"
        assert seen[-1].data["stdout"] == "one\ntwo ж\nthree\n"

    stage.play(scene)


def test_a_flood_without_line_breaks_reaches_who_is_slow(stage: Stage) -> None:
    """A million bytes of characters that are cut anywhere: each arrives whole, and once."""
    code = "import sys\nfor n in range(16): sys.stdout.write('жё€😀' * 5000); sys.stdout.flush()"

    async def scene() -> None:
        run = await stage.submit(code)
        viewer = feeds_module.Viewer(run.session_id, feeds_module.Position(), only=run.sequence)
        told = ""
        async for each in viewer.events(10.0):
            await asyncio.sleep(0.001)
            if each is not None and each.name == "stdout":
                told += each.data["text"]
        assert told == "жё€😀" * 80_000

    stage.play(scene)


def test_streams_end_when_the_process_is_to_stop(stage: Stage) -> None:
    async def scene() -> None:
        async with stage.session() as viewer:
            await viewer.until("session")
            feeds.close()
            try:
                assert await viewer.next() is None
                async with stage.session() as late:
                    assert await late.next() is None
            finally:
                feeds.are_closed = False

    stage.play(scene)


# ---- the console


def test_staff_who_may_look_watch_by_their_login_whoever_may_call_the_api(
    stage: Stage, configure: Configure, client: Client
) -> None:
    answer = stage.api.post(f"/sessions/{stage.session_id}/execute", {"code": "print('seen')"})
    configure(API_AUTH="key")
    user = User.objects.create_superuser("operator", password="correct horse battery")
    client.force_login(user)
    cookie = f"sessionid={client.cookies['sessionid'].value}"
    addresses = (
        f"/admin/sessions_app/session/{stage.session_id}/events?last_event_id=latest",
        f"/admin/sessions_app/execution/{answer.json()['execution_id']}/events",
    )

    async def scene() -> None:
        for address, last in zip(addresses, ("session", "result"), strict=True):
            async with watching(stage.application, address, cookie=cookie) as viewer:
                assert names_of(await viewer.until(last))[-1] == last
            async with watching(stage.application, address) as viewer:
                assert viewer.status == 403
        await in_thread(lambda: User.objects.update(is_superuser=False))
        for address in addresses:
            async with watching(stage.application, address, cookie=cookie) as viewer:
                assert viewer.status == 403

    stage.play(scene)
