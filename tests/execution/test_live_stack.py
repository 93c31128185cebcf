"""Many viewers of one session on two APIs, while programs print: everybody gets each line once and
in order, and soon. By hand, on a quiet machine, the whole of it:

    export LIVE_VIEWERS=100 LIVE_PROGRAMS=20 LIVE_LINES=100 LIVE_AWAY=5
    pytest -s tests/execution/test_live_stack.py
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psutil
import pytest

from sessions_app.management.commands.run_api import STOP_SECONDS
from tests.support.event_streams import follow, names_of
from tests.support.stack import Client, Stack, eventually, free_port, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

EVENTS = "sessions_app_event"
VIEWERS, PROGRAMS, LINES, AWAY_SECONDS = (
    int(os.environ.get(f"LIVE_{name}", usual))
    for name, usual in (("VIEWERS", 30), ("PROGRAMS", 4), ("LINES", 30), ("AWAY", 1))
)
CODE = f"""
import time
for number in range({LINES}):
    print(number, time.time(), flush=True)
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("live")
    with running_stack(folder, WORKER_CONCURRENCY=str(PROGRAMS)) as running:
        port = str(free_port())
        running.start("api 2", "run_api", API_PORT=port)
        assert eventually(lambda: answers(int(port)))
        running.environ["SECOND_PORT"] = port
        yield running


def answers(port: int) -> bool:
    try:
        return Client(port).call("GET", "/health").status == 200
    except OSError:
        return False


@dataclass
class Seen:
    lines: list[int] = field(default_factory=list)
    late_seconds: list[float] = field(default_factory=list)


def watch(port: int, session_id: str, *, cut_off_seconds: float = 0.0) -> Seen:
    """All lines of the session's first run. `cut_off_seconds`: away for so long, once."""
    seen, last, text = Seen(), {}, ""
    while True:
        for event in follow(port, f"/sessions/{session_id}/events", **last):
            last = {"Last-Event-ID": event.id}
            if event.name == "stdout":
                text += event.data["text"]
                whole, _, text = text.rpartition("\n")
                for line in whole.splitlines():
                    number, printed = line.split()
                    seen.lines.append(int(number))
                    seen.late_seconds.append(time.time() - float(printed))
            if event.name == "result":
                return seen
            if cut_off_seconds and len(seen.lines) > 10:
                break
        time.sleep(cut_off_seconds)
        cut_off_seconds = 0.0


def test_everybody_gets_every_line_once_and_in_order(stack: Stack) -> None:
    ports = (stack.port, int(stack.environ["SECOND_PORT"]))
    sessions = [stack.client.open("python") for _ in range(PROGRAMS)]
    apis = [psutil.Process(stack.processes[name].pid) for name in ("api", "api 2")]
    with ThreadPoolExecutor(VIEWERS + PROGRAMS + 1) as threads:
        watching = [
            threads.submit(watch, ports[number % 2], sessions[0]) for number in range(VIEWERS)
        ]
        away = threads.submit(watch, ports[1], sessions[0], cut_off_seconds=AWAY_SECONDS)
        time.sleep(1.0)
        memory = [api.memory_info().rss for api in apis]
        used = [sum(api.cpu_times()[:2]) for api in apis]
        runs = [threads.submit(stack.client.execute, each, CODE) for each in sessions]
        results = [run.result() for run in runs]
        all_seen = [each.result() for each in [*watching, away]]
    assert [each["verdict"] for each in results] == ["ok"] * PROGRAMS
    assert all(seen.lines == list(range(LINES)) for seen in all_seen)
    grown = [api.memory_info().rss - was for api, was in zip(apis, memory, strict=True)]
    spent = [sum(api.cpu_times()[:2]) - was for api, was in zip(apis, used, strict=True)]
    late = sorted(each for seen in all_seen[:-1] for each in seen.late_seconds)
    (rows,) = stack.rows(
        "SELECT n_tup_ins, pg_total_relation_size(relid) / 1024 FROM pg_stat_user_tables"
        " WHERE relname = %s",
        EVENTS,
    )
    p50, p95 = (1000 * late[len(late) * share // 100] for share in (50, 95))
    print(  # noqa: T201 -- for who runs it with -s
        f"late p50 {p50:.0f} ms, p95 {p95:.0f} ms; the APIs' CPU {spent} s, growth"
        f" {[each // 1024 for each in grown]} KiB; {rows[0]} rows of events, their"
        f" table {rows[1]} KiB"
    )
    assert max(grown) < 10 * 1024 * 1024
    gone = eventually(lambda: stack.rows("SELECT count(*) FROM sessions_app_event")[0][0] == 0)
    assert gone, "rows of events outlived their runs"


def test_an_api_that_is_told_to_end_ends_its_streams_and_viewers_go_on_elsewhere(
    stack: Stack,
) -> None:
    port = free_port()
    process = stack.start("api 3", "run_api", API_PORT=str(port))
    assert eventually(lambda: answers(port))
    session_id = stack.client.open("python")
    asked = {"code": "import time\nprint('one', flush=True)\ntime.sleep(60)"}
    run = stack.client.call("POST", f"/sessions/{session_id}/execute?wait=false", asked).body
    path = f"/executions/{run['execution_id']}/events"
    seen = []
    for event in follow(port, path):
        seen.append(event)
        if event.name == "stdout":
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
    assert time.monotonic() - began < STOP_SECONDS / 2, "the stream was not ended at once"
    assert process.wait(STOP_SECONDS) == 0
    del stack.processes["api 3"]
    stack.client.call("POST", f"/executions/{run['execution_id']}/cancel", {})
    rest = list(follow(stack.port, path, **{"Last-Event-ID": seen[-1].id}))
    assert names_of(seen) == ["queued", "running", "stdout"]
    assert names_of(rest) == ["cancelled", "result"]
    stack.client.stop(session_id)
