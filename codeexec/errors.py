"""Errors that clients get as answers.

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
    ├── StdinClosed           409      stdin_closed
    ├── StdinGap              409      stdin_gap (offset)
    ├── StorageFull           409      storage_full
    ├── IdempotencyConflict   409      idempotency_conflict
    ├── RateLimited           429      rate_limited (with Retry-After)
    ├── TooManySessions       429      too_many_sessions (with Retry-After)
    ├── TooManyQueued         429      too_many_queued (with Retry-After)
    ├── TooManyStreams        429      too_many_streams (with Retry-After)
    ├── StdinFull             429      stdin_full (offset, with Retry-After)
    ├── TooManyKeys           429      too_many_idempotency_keys (with Retry-After)
    ├── NoCapacity            503      no_capacity (with Retry-After)
    │   └── NotPrepared       503      no_capacity
    ├── SandboxUnreachable    503      sandbox_unreachable (with Retry-After)
    ├── DatabaseAway          503      database_away (with Retry-After)
    │   └── AnswerLost        503      database_away
    ├── ShuttingDown          503      shutting_down (with Retry-After)
    └── ResultPending         504      result_pending

Every error body is `{"detail": "<one sentence>", "code": "<machine name>", ...fields}`. If one
field of the request is wrong, `field` names it.
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
"""What Django raises when the connection is lost or can't be opened."""


class ServiceError(Exception):
    """An error that is answered to a client. Its text is the answer's `detail`."""

    code = "error"
    http_status = 500
    retry_after_seconds: int | None = None

    def __init__(self, detail: str, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields

    def body(self) -> dict[str, Any]:
        """If a field is wrong, `errors` describes it as serializers do."""
        body = {"detail": self.detail, "code": self.code, **self.fields}
        field = self.fields.get("field")
        if field is not None and "errors" not in self.fields:
            body["errors"] = {field: [self.detail]}
        return body

    def headers(self) -> dict[str, str]:
        """In addition to those of the body."""
        if self.retry_after_seconds is None:
            return {}
        return {"Retry-After": str(self.retry_after_seconds)}


class InvalidRequest(ServiceError):
    code = "invalid_request"
    http_status = 400


class OutOfBounds(InvalidRequest):
    """More than `codeexec.bounds` allows. The rest of the request was not read."""

    def __init__(self, detail: str, *, field: str, maximum: int) -> None:
        super().__init__(detail, field=field, maximum=maximum)


class UnknownField(InvalidRequest):
    """A field of the body, or a parameter of the address, that the call doesn't accept."""

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
    """The request uses a host name that isn't the service's: perhaps another site's (DNS
    rebinding).
    """

    code = "foreign_host"


class ForeignOrigin(Forbidden):
    """A page of another site calls a service that needs no key."""

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
    """The session has no running sandbox at the moment."""

    code = "no_sandbox"
    http_status = 409


class FileUnreadable(ServiceError):
    """There is something with that name, but it isn't a readable file."""

    code = "file_unreadable"
    http_status = 409


class StdinClosed(ServiceError):
    code = "stdin_closed"
    http_status = 409


class StdinGap(ServiceError):
    """Bytes before the given ones are missing. `offset`: the first of them."""

    code = "stdin_gap"
    http_status = 409


class StorageFull(ServiceError):
    """This run would exceed the storage limit of the session or of its client."""

    code = "storage_full"
    http_status = 409


class IdempotencyConflict(ServiceError):
    """The key was used for another call."""

    code = "idempotency_conflict"
    http_status = 409


class RateLimited(ServiceError):
    code = "rate_limited"
    http_status = 429

    def __init__(
        self, detail: str, *, retry_after_seconds: int, quota: Mapping[str, str] | None = None
    ) -> None:
        """`quota`: headers that describe the limit."""
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
    """The session or its client has as many waiting executions as it may have."""

    code = "too_many_queued"
    http_status = 429
    retry_after_seconds = 5


class TooManyStreams(ServiceError):
    """A session token, a session or a client has as many open event streams as it may have."""

    code = "too_many_streams"
    http_status = 429
    retry_after_seconds = 5


class StdinFull(ServiceError):
    """The program hasn't read what was sent. `offset`: where the next input begins."""

    code = "stdin_full"
    http_status = 429
    retry_after_seconds = 1


class TooManyKeys(ServiceError):
    """As many idempotency keys are kept of the client, or the session, as it may have."""

    code = "too_many_idempotency_keys"
    http_status = 429
    retry_after_seconds = 60


class NoCapacity(ServiceError):
    code = "no_capacity"
    http_status = 503
    retry_after_seconds: int | None = 5


class NotPrepared(NoCapacity):
    """An operator must do something first: waiting doesn't help."""

    retry_after_seconds = None


class SandboxUnreachable(ServiceError):
    """The node with the session's sandbox doesn't answer in time."""

    code = "sandbox_unreachable"
    http_status = 503
    retry_after_seconds = 5


class DatabaseAway(ServiceError):
    code = "database_away"
    http_status = 503
    retry_after_seconds: int | None = 5


class AnswerLost(DatabaseAway):
    """The work may have been done. A client that repeats the request unchecked may get it twice."""

    retry_after_seconds = None


class ShuttingDown(ServiceError):
    """This API process is stopping: it finishes its requests and accepts no new ones."""

    code = "shutting_down"
    http_status = 503
    retry_after_seconds = 2


class ResultPending(ServiceError):
    code = "result_pending"
    http_status = 504


def was_never_done(error: BaseException) -> bool:
    """Whether the work of one of DATABASE_AWAY was certainly not done: there was no connection, or
    the server reported that it did nothing. Otherwise it may have been written.
    """
    cause = error.__cause__
    if isinstance(error, ThreadsBusyError) or isinstance(cause, TimeoutError | QueryCanceled):
        return True
    return isinstance(cause, PsycopgError) and cause.pgconn is not None


class ThreadsBusyError(OperationalError):
    """A request has waited too long for a thread: nothing of it was done. It is an OperationalError
    because callers handle it in the same way: it can be tried again.
    """
