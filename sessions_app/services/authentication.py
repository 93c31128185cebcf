"""Finding out who calls.

What a call brings with it is checked against what this process has in memory. Only where that
doesn't do (a client has just changed, a key's use is to be noted down, a limited client has used up
its permits) the database is asked, which an event loop leaves to a thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

from codeexec.errors import InvalidKey, InvalidToken, NotAuthenticated
from sessions_app.callers import OPERATOR, Caller, KnownClient
from sessions_app.key_ring import Known, KnownKey, key_ring
from sessions_app.services.allowances import allowances
from sessions_app.services.clients import KEY_PATTERN, digest_of
from sessions_app.services.tokens import PREFIX, Token, read_token


@dataclass(frozen=True, kw_only=True, repr=False)
class Credentials:
    """What a call says of itself. Never shown: there are secrets in it."""

    key: str = ""
    token: str = ""


@dataclass(frozen=True, kw_only=True)
class _Identified:
    caller: Caller
    key: KnownKey | None = None


def authenticate(credentials: Credentials) -> Caller:
    """Who calls, and one request less that its client may make.

    Raises NotAuthenticated, InvalidKey, InvalidToken, TokenExpired, RateLimited.
    """
    if _is_operator(credentials):
        return OPERATOR
    found = _identified(credentials, key_ring.known())
    if found.key is not None and not key_ring.is_use_noted(found.key):
        key_ring.note_use(found.key)
    if found.caller.client is not None:
        allowances.take(found.caller.client)
    return found.caller


def recognize(credentials: Credentials) -> Caller:
    """Who called, and is still there: raises as `authenticate`, but counts nothing."""
    if _is_operator(credentials):
        return OPERATOR
    return _identified(credentials, key_ring.known()).caller


def recognize_at_once(credentials: Credentials) -> Caller | None:
    """As `recognize`, without the database; None: it has to be asked."""
    if _is_operator(credentials):
        return OPERATOR
    known = key_ring.at_hand()
    return None if known is None else _identified(credentials, known).caller


def authenticate_at_once(credentials: Credentials) -> Caller | None:
    """As `authenticate`, without the database; None: it has to be asked."""
    if _is_operator(credentials):
        return OPERATOR
    known = key_ring.at_hand()
    if known is None:
        return None
    found = _identified(credentials, known)
    if found.key is not None and not key_ring.is_use_noted(found.key):
        return None
    client = found.caller.client
    return found.caller if client is None or allowances.take_at_once(client) else None


def _is_operator(credentials: Credentials) -> bool:
    """With API_AUTH=open everybody is, but who comes with a token: so a page that is given tokens
    can be tried there.
    """
    return _is_open() and not credentials.token.startswith(PREFIX)


def _is_open() -> bool:
    return bool(settings.CODE_EXECUTOR["API_AUTH"] == "open")


def _identified(credentials: Credentials, known: Known) -> _Identified:
    if credentials.key:
        key = _valid_key(credentials.key, known)
        return _Identified(caller=Caller(client=key.client), key=key)
    if credentials.token:
        return _Identified(caller=_token_holder(read_token(credentials.token), known))
    raise NotAuthenticated(
        "This call needs a key: send the header `Authorization: Api-Key <key>`, or a session token "
        "as `Authorization: Bearer <token>`."
    )


def _valid_key(text: str, known: Known) -> KnownKey:
    key = known.key(digest_of(text)) if KEY_PATTERN.fullmatch(text) else None
    if key is None:
        raise InvalidKey("There is no such key.")
    # Only who has the whole key is told more.
    if key.revoked:
        raise InvalidKey(f"The key cex_{key.prefix}_… has been revoked.")
    if key.is_expired:
        raise InvalidKey(f"The key cex_{key.prefix}_… has expired.")
    if not key.client.enabled:
        raise InvalidKey(f"The client {key.client.name!r} is disabled.")
    return key


def _token_holder(token: Token, known: Known) -> Caller:
    client = _client_of(token, known)
    return Caller(
        sees_everything=client is None,
        client=client,
        session_id=token.session_id,
        role=token.role,
        token_id=token.id,
    )


def _client_of(token: Token, known: Known) -> KnownClient | None:
    """None: the token was made without a key, and counts as long as none is asked for."""
    if token.client_id is None:
        if not _is_open():
            raise InvalidToken("The session token was made by a service that asked for no key.")
        return None
    client = known.client(token.client_id)
    if client is None or not client.enabled:
        raise InvalidToken("The client that made the session token is disabled.")
    return client
