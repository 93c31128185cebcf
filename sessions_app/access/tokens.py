"""Session tokens: short-lived, for one session and role, safe to hand to a browser.

Nothing is stored: a token says, signed, which session it is for, as whom, on behalf of which client
and until when. So it can't be revoked by itself; it ends with its time, with its client, and, for
all but looking, with its session.
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
"""An interview and then some."""
MAX_SECONDS = 24 * 3600
_SALT = "code-executor session token 1"
"""Makes the signing key: what else SECRET_KEY signs is no token, and no token is anything else."""
_LONGEST = 512


@dataclass(frozen=True, kw_only=True)
class Token:
    """What a token says."""

    session_id: UUID
    role: Role
    client_id: int | None
    """None: its session was opened with API_AUTH=open."""
    expires_at: datetime
    id: str
    """Tells it from others, and can't be used as one."""


@dataclass(frozen=True, kw_only=True)
class IssuedToken:
    token: str
    session_id: UUID
    role: Role
    expires_at: datetime


def issue_token(
    session: Session, role: Role, *, expires_in_seconds: int = DEFAULT_SECONDS
) -> IssuedToken:
    """Raises SessionClosed, and LimitExceeded above MAX_SECONDS."""
    if expires_in_seconds > MAX_SECONDS:
        raise LimitExceeded(
            f"expires_in must be at most {MAX_SECONDS} seconds.",
            limit="expires_in",
            field="expires_in",
            maximum=MAX_SECONDS,
        )
    if not session.is_open:
        raise SessionClosed("The session has ended. Open a new one.", status=session.status)
    expires = int(time.time()) + expires_in_seconds
    said = {"s": session.pk.hex, "r": role.value, "c": session.client_id, "e": expires}
    return IssuedToken(
        token=PREFIX + signing.dumps(said, salt=_SALT),
        session_id=session.pk,
        role=role,
        expires_at=datetime.fromtimestamp(expires, UTC),
    )


def read_token(text: str) -> Token:
    """Raises InvalidToken, TokenExpired. Whether its client still exists is not for this to say."""
    if not text.startswith(PREFIX) or len(text) > _LONGEST:
        raise InvalidToken(f"This is not a session token; those begin with {PREFIX}.")
    try:
        said = signing.loads(text.removeprefix(PREFIX), salt=_SALT)
    except signing.BadSignature:
        raise InvalidToken(
            "The session token was not made by this service, or was changed."
        ) from None
    if said["e"] <= time.time():
        raise TokenExpired("The session token has expired; ask for a new one.")
    return Token(
        session_id=UUID(said["s"]),
        role=Role(said["r"]),
        client_id=said["c"],
        expires_at=datetime.fromtimestamp(said["e"], UTC),
        id=sha256(text.encode()).hexdigest()[:32],
    )
