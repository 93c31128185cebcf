"""What schemathesis must know of the service besides its OpenAPI schema: see `scripts.fuzz_api`.

A schema can describe the form of an environment's name, but not which ones exist, nor that the file
to run must be among those that are sent. Such values are made here, and such requests recognized.
"""

from __future__ import annotations

import json
import os
import posixpath
from base64 import b64encode
from typing import Any
from urllib.parse import urlencode

import schemathesis
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance, use_after_free

KNOWN_VARIABLE = "FUZZ_ENVIRONMENTS"
"""JSON: the answer of `GET /environments/{name}` by name."""

_ENVIRONMENTS: dict[str, Any] = json.loads(os.environ[KNOWN_VARIABLE])
_MAIN_FILES = [known["default_filename"] for known in _ENVIRONMENTS.values()]
_SECONDS = min(known["maxima"]["timeout"] for known in _ENVIRONMENTS.values())
_RUNTIMES = ("runc", "runsc")
"""Those of SESSION_RUNTIMES, weakest first."""
_UNAVAILABLE = {503: ("no_capacity", "unhealthy"), 504: ("result_pending",)}


def _cursor(position: str, reverse: bool, offset: int) -> str:
    query: dict[str, Any] = {"p": position, "r": 1} if reverse else {"p": position}
    return b64encode(urlencode(query | {"o": offset}).encode()).decode()


def _cursors(positions: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(_cursor, positions, st.booleans(), st.integers(0, 1000))


schemathesis.openapi.format("environment", st.sampled_from(sorted(_ENVIRONMENTS)))
schemathesis.openapi.format("runtime", st.sampled_from(_RUNTIMES))
_MOMENTS = st.datetimes().map(lambda moment: f"{moment.isoformat()}+00:00")
schemathesis.openapi.format("cursor-of-sessions", _cursors(_MOMENTS))
schemathesis.openapi.format("cursor-of-all-executions", _cursors(_MOMENTS))
schemathesis.openapi.format("cursor-of-executions", _cursors(st.integers(1, 2**31 - 1).map(str)))


@schemathesis.check
def acceptance_of_what_makes_sense(ctx: Any, response: Any, case: Any) -> bool | None:
    """`positive_data_acceptance`, where a schema can know what is valid."""
    if case.meta is None or not case.meta.generation.mode.is_positive or makes_no_sense(case.body):
        return None
    return positive_data_acceptance(ctx, response, case)


@schemathesis.check
def unavailable_for_a_reason(ctx: Any, response: Any, case: Any) -> None:
    """No 5xx but those that the API promises: full, or the result takes longer than the wait."""
    if response.status_code >= 500:
        body = response.json()
        code = body.get("code", body.get("status"))
        assert code in _UNAVAILABLE.get(response.status_code, ()), body


@schemathesis.check
def errors_explain_themselves(ctx: Any, response: Any, case: Any) -> None:
    """Every error is JSON with a sentence and a name."""
    if (
        response.status_code >= 400
        and case.method.upper() != "HEAD"
        and case.path != "/api/v1/health"
    ):
        body = response.json()
        assert isinstance(body["detail"], str)
        assert isinstance(body["code"], str)


@schemathesis.check
def what_is_stopped_stays_stopped(ctx: Any, response: Any, case: Any) -> bool | None:
    """`use_after_free`, but that DELETE stops a session and keeps its history: both can be read."""
    try:
        return use_after_free(ctx, response, case)
    except AssertionError:
        if case.operation.path.endswith("/{session_id}"):
            assert response.json()["status"] in ("stopping", "stopped", "error")
        elif not case.operation.path.endswith("/{session_id}/executions"):
            raise
    return None


def makes_no_sense(body: Any) -> bool:
    """Whether a body that fits the schema names no environment that there is, or no runtime that
    can be chosen, or has nothing to run, or two files in one place, or a path that fits in
    characters and not in bytes or levels, or asks for more time than the environment gives.
    """
    if not isinstance(body, dict):
        return False
    if body.get("environment") not in (None, *_ENVIRONMENTS):
        return True
    if body.get("runtime") not in (None, *_RUNTIMES):
        return True
    if not body.keys() & {"code", "files"}:
        return False
    return (body.get("timeout") or 0) > _SECONDS or _collide(body)


def _collide(run: dict[str, Any]) -> bool:
    files = run.get("files") or {}
    mains = [run.get("filename") or name for name in _MAIN_FILES]
    given, main = ({posixpath.normpath(path) for path in paths} for paths in (files, mains))
    folders = {f"{path}/" for path in given | main}
    return (
        bool(given & main) == (run.get("code") is not None)
        or len(given) < len(files)
        or any(path.startswith(folder) for path in given | main for folder in folders)
        or any(len(path.encode()) > 255 or path.count("/") >= 16 for path in [*files, *mains])
    )
