"""The words of the output, by what they mean."""

from __future__ import annotations

_WORDS = {
    # calls
    "bare": "bare process",
    "runner": "runner alone, attached once",
    "runner_anew": "runner alone, attached for each run",
    "docker_exec": "`docker exec`",
    "execute": "execute in a ready session",
    "single_run": "single run, `POST /execute`",
    "open_warm": "session ready, warm sandbox",
    "docker_start": "Docker's own create + start",
    "open_cold": "session ready, cold start",
    # stages
    "client": "client and network",
    "accept": "accept",
    "queue": "queue",
    "prepare": "prepare",
    "program": "program",
    "answer": "answer",
    "service": "service",
    "runner_stage": "runner",
    # components
    "api": "API",
    "postgresql": "PostgreSQL",
    "queue_part": "queue",
    "worker": "worker",
    "docker": "Docker",
    "load": "load generator",
    "total": "all but the program",
    # headings
    "back_to_back": "programs, back to back",
    "second_between": "programs, a second between the runs",
    "bare_p50": "bare, p50, ms",
    "execute_p50": "execute, p50, ms",
    "execute_p95": "execute, p95, ms",
    "prestarted": "pre-started",
    "reused": "compilation reused",
    "opened": "sessions opened at once, after as many before",
    "were_ready": "ready in their own answers",
    "of": "of",
    "one_at_a_time": "one at a time",
    "until_ready": "until a session is ready",
    "at_once": "sessions at once",
    "stages": "stages of an execute, median, ms",
    "processor": "processor time per execute, ms, sessions at once",
    "p50": "p50, ms",
    "p95": "p95, ms",
    "p99": "p99, ms",
    "beside": "compared with, p50, ms",
    "p50_ratio": "p50, ratio",
    "compared_with": "compared with",
    "p95_ratio": "p95, ratio",
    "bare_rate": "bare processes per second",
    "rate": "runs per second",
    "ratio": "ratio",
    # notes
    "left_out": "Left out",
    "containers": "runner alone, `docker exec`",
    "sessions": "sessions at once",
    "stage_times": "stages of an execute",
    "processor_time": "processor time of the service's processes",
    "throttled": (
        "Each sandbox was at its CPU limit, which bare processes don't have, with this many "
        "sessions at once"
    ),
    "busy": "The machine was busy before the start; load",
    "cores": "cores",
    # the picture
    "title": "Latency of an execute, p50, ms",
    "bare_bar": "bare process",
    "execute_bar": "execute",
    "bare_at_once": "bare processes at once",
    "others": "other",
}


def word(key: str) -> str:
    return _WORDS[key]


def percent(share: float | None) -> str:
    """Nothing for None."""
    return "" if share is None else f"{share:.0%}".replace("%", " %")


def number(value: float | None, digits: int = 1) -> str:
    """Nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"
