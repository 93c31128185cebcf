"""`Caller`: the origin of a call, and what it may see and do.

A caller is a client with a key, the holder of a token for one session, or the operator, who sees
everything: with API_AUTH=open, and in the service's own work. A `Caller` made of defaults sees
nothing and may do nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from codeexec.audit.actors import ANYBODY, Actor, ActorKind


class Scope(StrEnum):
    """What a client's keys may be used for."""

    READ = "read"
    SESSIONS = "sessions"
    EXECUTE = "execute"
    TOKENS = "tokens"
    METRICS = "metrics"


SCOPES = {
    Scope.READ: "look at sessions, executions and environments",
    Scope.SESSIONS: "open and stop sessions",
    Scope.EXECUTE: "run code",
    Scope.TOKENS: "make session tokens",
    Scope.METRICS: "read /metrics",
}
"""As commands and forms describe them."""

USUAL_SCOPES = (Scope.READ, Scope.SESSIONS, Scope.EXECUTE, Scope.TOKENS)
"""Those that an interview platform needs."""


class Role(StrEnum):
    """Whose browser a session token is for."""

    CANDIDATE = "candidate"
    INTERVIEWER = "interviewer"
    VIEWER = "viewer"


@dataclass(frozen=True, kw_only=True)
class KnownClient:
    """A client as it was read last."""

    id: int
    name: str
    enabled: bool
    scopes: frozenset[str]
    requests_per_minute: int | None
    max_live_sessions: int | None
    max_queued_per_session: int | None = None
    max_queued_per_client: int | None = None
    max_storage_per_session: int | None = None
    max_storage_per_client: int | None = None
    has_neighbours: bool = False
    """Other clients may have sessions too."""


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How many requests a caller may still make, as its last one left it."""

    limit: int | None = None
    """Requests a minute. None: unlimited."""
    remaining: int = 0
    reset_seconds: int = 0
    """Until all are available again; where none remains, until one is."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of draft-ietf-httpapi-ratelimit-headers that clients' libraries know."""
        if self.limit is None:
            return {}
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_seconds),
            "RateLimit-Policy": f"{self.limit};w=60",
        }


@dataclass(frozen=True, kw_only=True)
class Caller:
    sees_everything: bool = False
    """All clients' rows, and those without a client."""
    client: KnownClient | None = None
    """Whose rows it sees, where it doesn't see everything."""
    session_id: UUID | None = None
    """Of a token: the only session that it sees."""
    role: Role | None = None
    """Of a token. None: the caller has a key, or is the operator."""
    token_id: str = ""
    """Identifies the token, if it has one."""
    quota: Quota = Quota()
    key_prefix: str = ""
    """Of the caller's key."""

    # For REST framework a caller is the request's user.
    is_authenticated = True

    @property
    def client_id(self) -> int | None:
        return self.client.id if self.client is not None else None

    @property
    def answer_headers(self) -> dict[str, str]:
        """Headers of each answer to it."""
        return self.quota.headers

    @property
    def actor(self) -> Actor:
        """How the audit log names it. Commands and the console have actors of their own."""
        if self.client is None:
            return replace(ANYBODY, credential=self.credential)
        return Actor(
            kind=ActorKind.CLIENT,
            name=self.client.name,
            id=str(self.client.id),
            credential=self.credential,
        )

    @property
    def credential(self) -> str:
        """Its key or token, without the secret part."""
        if self.role is not None:
            return f"token of the role {self.role.value}"
        return f"key cex_{self.key_prefix}_…" if self.key_prefix else ""

    def has_scope(self, scope: str) -> bool:
        if self.client is None:
            return self.sees_everything
        return scope in self.client.scopes

    def may_see(self, session_id: UUID, client_id: int | None) -> bool:
        """As the querysets' `visible_to`, for a session whose client is known."""
        if self.session_id is not None and self.session_id != session_id:
            return False
        return self.sees_everything or (client_id is not None and client_id == self.client_id)


OPERATOR = Caller(sees_everything=True)
"""Commands, tasks, the console; and every call with API_AUTH=open."""
