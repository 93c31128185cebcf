"""Session tokens: short-lived, for one session and role, safe to hand to a browser.

Nothing is stored: a token holds, signed, its session, its role, its client and its expiry. So it
can't be revoked by itself; it ends when it expires, when its client is disabled, and, for all but
reading, when its session ends. What a role may do is declared at each call and checked by `require`
in `sessions_app.api.authorization`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

from django.core import signing

from codeexec.errors import InvalidToken, LimitExceeded, SessionClosed, TokenExpired
from sessions_app.callers import Role
from sessions_app.models import Session

PREFIX = "cet_"
DEFAULT_SECONDS = 4 * 3600
"""Somewhat longer than an interview."""
MAX_SECONDS = 24 * 3600
_SALT = "code-executor session token 1"
"""Part of the signing key, so that nothing else that SECRET_KEY signs passes as a token."""
_LONGEST = 512


@dataclass(frozen=True, kw_only=True)
class Token:
    """What a token holds."""

    session_id: UUID
    role: Role
    client_id: int | None
    """None: its session was opened with API_AUTH=open."""
    expires_at: datetime
    id: str
    """Identifies the token, and can't be used in its place."""


@dataclass(frozen=True, kw_only=True)
class IssuedToken:
    token: str
    session_id: UUID
    role: Role
    expires_at: datetime


def issue_token(
    session: Session, role: Role, *, expires_in_seconds: int = DEFAULT_SECONDS
) -> IssuedToken:
    """A session that has ended can still be watched. Raises SessionClosed for other roles than
    viewer, and LimitExceeded above MAX_SECONDS.
    """
    if expires_in_seconds > MAX_SECONDS:
        raise LimitExceeded(
            f"expires_in must be at most {MAX_SECONDS} seconds.",
            limit="expires_in",
            field="expires_in",
            maximum=MAX_SECONDS,
        )
    if not session.is_open and role != Role.VIEWER:
        raise SessionClosed(
            "The session has ended: only tokens of the role viewer can be made for it.",
            status=session.status,
        )
    expires = int(time.time()) + expires_in_seconds
    content = {"s": session.pk.hex, "r": role.value, "c": session.client_id, "e": expires}
    return IssuedToken(
        token=PREFIX + signing.dumps(content, salt=_SALT),
        session_id=session.pk,
        role=role,
        expires_at=datetime.fromtimestamp(expires, UTC),
    )


def read_token(text: str) -> Token:
    """Raises InvalidToken, TokenExpired. Doesn't check whether its client still exists."""
    if not text.startswith(PREFIX) or len(text) > _LONGEST:
        raise InvalidToken(f"This is not a session token; those begin with {PREFIX}.")
    try:
        content = signing.loads(text.removeprefix(PREFIX), salt=_SALT)
    except signing.BadSignature:
        raise InvalidToken(
            "The session token was not made by this service, or was changed."
        ) from None
    if content["e"] <= time.time():
        raise TokenExpired("The session token has expired; ask for a new one.")
    return Token(
        session_id=UUID(content["s"]),
        role=Role(content["r"]),
        client_id=content["c"],
        expires_at=datetime.fromtimestamp(content["e"], UTC),
        id=sha256(text.encode()).hexdigest()[:32],
    )
