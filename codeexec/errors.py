"""Errors that a client is told about, and the one place that turns exceptions into answers.

    ServiceError                       code, http_status, fields for the body
    ├── InvalidRequest        400      invalid_request
    │   ├── OutOfBounds       400      invalid_request (field, maximum)
    │   ├── UnknownField      400      unknown_field (field)
    │   ├── InvalidPath       400      invalid_path
    │   ├── UnknownEnvironment 400     unknown_environment
    │   ├── UnknownRuntime    400      unknown_runtime
    │   └── LimitExceeded     400      limit_exceeded
    ├── NotAuthenticated      401      not_authenticated (with WWW-Authenticate)
    │   ├── InvalidKey        401      invalid_key
    │   ├── InvalidToken      401      invalid_token
    │   └── TokenExpired      401      token_expired
    ├── Forbidden             403      forbidden
    │   ├── InsufficientScope 403      insufficient_scope
    │   ├── ForbiddenForRole  403      forbidden_for_role
    │   ├── ForeignHost       403      foreign_host
    │   └── ForeignOrigin     403      foreign_origin
    ├── NotFound              404      not_found
    │   └── FileNotFound      404      file_not_found
    ├── SessionClosed         409      session_closed
    ├── NoSandbox             409      no_sandbox
    ├── FileUnreadable        409      file_unreadable
    ├── StorageFull           409      storage_full
    ├── RateLimited           429      rate_limited (with Retry-After)
    ├── TooManySessions       429      too_many_sessions (with Retry-After)
    ├── TooManyQueued         429      too_many_queued (with Retry-After)
    ├── TooManyStreams        429      too_many_streams (with Retry-After)
    ├── NoCapacity            503      no_capacity (with Retry-After)
    │   └── NotPrepared       503      no_capacity
    ├── SandboxUnreachable    503      sandbox_unreachable (with Retry-After)
    ├── DatabaseAway          503      database_away (with Retry-After)
    │   └── AnswerLost        503      database_away
    ├── ShuttingDown          503      shutting_down (with Retry-After)
    └── ResultPending         504      result_pending

Every error body is `{"detail": "<one sentence>", "code": "<machine name>", ...fields}`. Where one
field of the request is to blame, `field` names it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.db import InterfaceError, OperationalError
from psycopg import Error as PsycopgError
from psycopg.errors import QueryCanceled

logger = logging.getLogger(__name__)

DATABASE_AWAY = (OperationalError, InterfaceError)
"""What Django raises when the connection is lost or can't be made."""


class ServiceError(Exception):
    """Something that a client did or must know. Its text is the answer's `detail`."""

    code = "error"
    http_status = 500
    retry_after_seconds: int | None = None

    def __init__(self, detail: str, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields

    def body(self) -> dict[str, Any]:
        """Where a field is to blame, `errors` says what is wrong with it, as of any field."""
        body = {"detail": self.detail, "code": self.code, **self.fields}
        field = self.fields.get("field")
        if field is not None and "errors" not in self.fields:
            body["errors"] = {field: [self.detail]}
        return body

    def headers(self) -> dict[str, str]:
        """Besides the body's."""
        if self.retry_after_seconds is None:
            return {}
        return {"Retry-After": str(self.retry_after_seconds)}


class InvalidRequest(ServiceError):
    code = "invalid_request"
    http_status = 400


class OutOfBounds(InvalidRequest):
    """More than the service takes, see `codeexec.bounds`. Nothing else of the request was read."""

    def __init__(self, detail: str, *, field: str, maximum: int) -> None:
        super().__init__(detail, field=field, maximum=maximum)


class UnknownField(InvalidRequest):
    """A field of the body, or a parameter of the address, that the call doesn't take."""

    code = "unknown_field"


class InvalidPath(InvalidRequest):
    code = "invalid_path"


class UnknownEnvironment(InvalidRequest):
    code = "unknown_environment"


class UnknownRuntime(InvalidRequest):
    code = "unknown_runtime"


class LimitExceeded(InvalidRequest):
    code = "limit_exceeded"


class NotAuthenticated(ServiceError):
    code = "not_authenticated"
    http_status = 401

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Api-Key realm="code-executor"'}


class InvalidKey(NotAuthenticated):
    code = "invalid_key"


class InvalidToken(NotAuthenticated):
    code = "invalid_token"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="code-executor", error="invalid_token"'}


class TokenExpired(InvalidToken):
    code = "token_expired"


class Forbidden(ServiceError):
    code = "forbidden"
    http_status = 403


class InsufficientScope(Forbidden):
    code = "insufficient_scope"


class ForbiddenForRole(Forbidden):
    code = "forbidden_for_role"


class ForeignHost(Forbidden):
    """A name that the service has no reason to be called by: another site's, rebound to us."""

    code = "foreign_host"


class ForeignOrigin(Forbidden):
    """A page of another site calls a service that asks for no key."""

    code = "foreign_origin"


class NotFound(ServiceError):
    code = "not_found"
    http_status = 404


class FileNotFound(NotFound):
    code = "file_not_found"


class SessionClosed(ServiceError):
    code = "session_closed"
    http_status = 409


class NoSandbox(ServiceError):
    """The session has no sandbox that runs, at this moment."""

    code = "no_sandbox"
    http_status = 409


class FileUnreadable(ServiceError):
    """There is something under that name, but no file that can be read."""

    code = "file_unreadable"
    http_status = 409


class StorageFull(ServiceError):
    """With this run more would be stored than may be, of the session or of its client."""

    code = "storage_full"
    http_status = 409


class RateLimited(ServiceError):
    code = "rate_limited"
    http_status = 429

    def __init__(
        self, detail: str, *, retry_after_seconds: int, quota: Mapping[str, str] | None = None
    ) -> None:
        """`quota`: headers that say more of the limit."""
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds
        self._quota = quota or {}

    def headers(self) -> dict[str, str]:
        return {**super().headers(), **self._quota}


class TooManySessions(ServiceError):
    code = "too_many_sessions"
    http_status = 429
    retry_after_seconds = 10


class TooManyQueued(ServiceError):
    """As many executions wait as may, in the session or of its client."""

    code = "too_many_queued"
    http_status = 429
    retry_after_seconds = 5


class TooManyStreams(ServiceError):
    """As many event streams are open as may be, of a session token, a session or a client."""

    code = "too_many_streams"
    http_status = 429
    retry_after_seconds = 5


class NoCapacity(ServiceError):
    code = "no_capacity"
    http_status = 503
    retry_after_seconds: int | None = 5


class NotPrepared(NoCapacity):
    """There won't be any before an operator has done something: to wait is in vain."""

    retry_after_seconds = None


class SandboxUnreachable(ServiceError):
    """The node that has the session's sandbox doesn't answer, or not in time."""

    code = "sandbox_unreachable"
    http_status = 503
    retry_after_seconds = 5


class DatabaseAway(ServiceError):
    code = "database_away"
    http_status = 503
    retry_after_seconds: int | None = 5


class AnswerLost(DatabaseAway):
    """What was asked for may have been done: who repeats it without a look may get it twice."""

    retry_after_seconds = None


class ShuttingDown(ServiceError):
    """This process of the API ends what it has begun, and takes nothing new."""

    code = "shutting_down"
    http_status = 503
    retry_after_seconds = 2


class ResultPending(ServiceError):
    code = "result_pending"
    http_status = 504


def was_never_done(error: BaseException) -> bool:
    """Of one of DATABASE_AWAY: there was no connection for it, or the server has said that it did
    nothing. Otherwise what was to be written may be written.
    """
    cause = error.__cause__
    if isinstance(error, ThreadsBusyError) or isinstance(cause, TimeoutError | QueryCanceled):
        return True
    return isinstance(cause, PsycopgError) and cause.pgconn is not None


class ThreadsBusyError(OperationalError):
    """A request has waited for a thread for too long: nothing of it was done. An error of the
    database's, to whoever asks, because it can be tried again like one.
    """
