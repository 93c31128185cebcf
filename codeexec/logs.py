"""Log lines, for people or as JSON, each with the ids of the request, session and execution.

    with log_context(request_id="…"):    # a request, or a run, begins
        bind_log(session_id="…")         # once its session is known
        logger.warning("…")              # has both ids, in every thread and module

An execution keeps the id of its request, so that one search finds the request and its run. Code,
output, keys and tokens are never logged, and are removed from exceptions here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

_subjects: ContextVar[dict[str, str] | None] = ContextVar("subjects", default=None)

# PostgreSQL shows the refused row, which may have a candidate's code.
_ROW = re.compile(r"DETAIL:  Failing row contains .*?(?=\n\n(?:The above|During)|\Z)", re.DOTALL)
_SECRETS = re.compile(
    r"(?<=[?&]token=)[^&\s\"']+|(?<=\bcex_[0-9a-f]{8}_)[0-9a-f]{8,}|(?<=\bcet_)[\w:.-]+"
)


@contextmanager
def log_context(**ids: object) -> Iterator[None]:
    """Lines that are logged inside have these ids, and those of the contexts around. Empty ids are
    left out.
    """
    token = _subjects.set({**(_subjects.get() or {}), **_given(ids)})
    try:
        yield
    finally:
        _subjects.reset(token)


def bind_log(**ids: object) -> None:
    """As `log_context`, until the end of the innermost context, in each thread that it reaches."""
    subjects = _subjects.get()
    if subjects is not None:
        subjects.update(_given(ids))


def subject(name: str) -> str:
    """The id with this name in the current context; empty if there is none."""
    return (_subjects.get() or {}).get(name, "")


def logs_with(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function whose first argument is the id with this name."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with log_context(**{name: args[0]}):
                return function(*args, **kwargs)

        return call

    return decorate


def _given(ids: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in ids.items() if value}


def redacted(text: str) -> str:
    """Without secrets and candidates' code."""
    if "DETAIL:" in text:
        text = _ROW.sub("DETAIL:  (left out)", text)
    return _SECRETS.sub("…", text)


class TextFormatter(logging.Formatter):
    """For people at a terminal: time, level, logger, message, and the ids at the end."""

    def __init__(self) -> None:
        super().__init__("{asctime} {levelname} {name}: {message}", style="{")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        line = redacted(super().formatMessage(record))
        ids = " ".join(f"{name}={value}" for name, value in (_subjects.get() or {}).items())
        return f"{line} ({ids})" if ids else line

    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802 -- logging's name
        return redacted(super().formatException(ei))


class JsonFormatter(logging.Formatter):
    """For programs: one object a line. `extra={"fields": {…}}` adds members."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        created = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": redacted(record.getMessage()),
            "process": record.process,
            "node": self._node,
            **(_subjects.get() or {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def configuration(*, log_format: str, level: str, node: str) -> dict[str, Any]:
    """Django's LOGGING: all processes of the service log to stderr in one format."""
    formatters: dict[str, dict[str, Any]] = {
        "text": {"()": "codeexec.logs.TextFormatter"},
        "json": {"()": "codeexec.logs.JsonFormatter", "node": node},
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatters[log_format]},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            # Django's own handlers would log it twice, and at DEBUG it logs statements with their
            # values.
            "django": {"handlers": [], "level": "INFO" if level == "DEBUG" else level},
            "django.server": {"handlers": ["console"], "propagate": False},
            "django.request": {"level": "ERROR"},
            "django-q": {"handlers": ["console"], "level": "WARNING", "propagate": False},
        },
    }
