"""From a request's key or token to its `Caller`. Roles and scopes are checked later, in
`sessions_app.api.authorization`.

Credentials are checked against what this process has in memory. The database is asked only if that
isn't enough: a client has just changed, a key's use must be written, or a limited client has used
up its permits. Event loops do that in a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from django.conf import settings

from codeexec.errors import InvalidKey, InvalidToken, NotAuthenticated
from sessions_app.access.clients import KEY_PATTERN, digest_of
from sessions_app.access.key_cache import Known, KnownKey, key_cache
from sessions_app.access.rate_limits import Share, client_rate_limits, token_rate_limits
from sessions_app.access.tokens import Token, read_token
from sessions_app.callers import OPERATOR, Caller, KnownClient, Quota


@dataclass(frozen=True, kw_only=True, repr=False)
class Credentials:
    """The key or token of a request. Never shown, because it is secret."""

    key: str = ""
    token: str = ""
    ends_something: bool = False
    """The call ends a session, for which some permits are reserved."""


_Take = Callable[[KnownClient, Share], Quota | None]
"""Takes a permit of a client. None: the database has to be asked."""


@dataclass(frozen=True, kw_only=True)
class _Identified:
    caller: Caller
    key: KnownKey | None = None


def authenticate(credentials: Credentials) -> Caller:
    """The caller, whose client may make one request less now.

    Raises NotAuthenticated, InvalidKey, InvalidToken, TokenExpired, RateLimited.
    """
    if _is_operator(credentials):
        return OPERATOR
    found = _identified(credentials, key_cache.known())
    if found.key is not None and not key_cache.is_use_noted(found.key):
        key_cache.note_use(found.key)
    # Not None, because it has asked the database.
    return cast(Caller, _charged(found.caller, credentials, client_rate_limits.take))


def recognize(credentials: Credentials) -> Caller:
    """The caller of a stream that is still open. Raises as `authenticate`, but counts nothing."""
    if _is_operator(credentials):
        return OPERATOR
    return _identified(credentials, key_cache.known()).caller


def recognize_at_once(credentials: Credentials) -> Caller | None:
    """As `recognize`, without the database. None: it has to be asked."""
    if _is_operator(credentials):
        return OPERATOR
    known = key_cache.at_hand()
    return None if known is None else _identified(credentials, known).caller


def authenticate_at_once(credentials: Credentials) -> Caller | None:
    """As `authenticate`, without the database. None: it has to be asked."""
    if _is_operator(credentials):
        return OPERATOR
    known = key_cache.at_hand()
    if known is None:
        return None
    found = _identified(credentials, known)
    if found.key is not None and not key_cache.is_use_noted(found.key):
        return None
    return _charged(found.caller, credentials, client_rate_limits.take_at_once)


def _share(credentials: Credentials) -> Share:
    if not credentials.key:
        return Share.TOKEN
    return Share.END if credentials.ends_something else Share.KEY


def _charged(caller: Caller, credentials: Credentials, take: _Take) -> Caller | None:
    """Takes one of the requests that the caller's token and client may make. A token's request is
    given back if its client may make none. Raises RateLimited. None: as `take`.
    """
    token = caller.token_id
    quota = token_rate_limits.take(token, caller.client) if token else Quota()
    if caller.client is None:
        return replace(caller, quota=quota)
    of_client = None
    try:
        of_client = take(caller.client, _share(credentials))
    finally:
        if of_client is None and token:
            token_rate_limits.give_back(token)
    if of_client is None:
        return None
    return replace(caller, quota=_tighter(quota, of_client))


def _tighter(first: Quota, second: Quota) -> Quota:
    limited = [each for each in (first, second) if each.limit is not None]
    return min(limited, key=lambda each: each.remaining, default=first)


def _is_operator(credentials: Credentials) -> bool:
    """With API_AUTH=open, calls without credentials are the operator's. Credentials that are sent
    must be valid even then, so that keys and tokens can be tried out.
    """
    return _is_open() and not (credentials.key or credentials.token)


def _is_open() -> bool:
    return bool(settings.CODE_EXECUTOR["API_AUTH"] == "open")


def _identified(credentials: Credentials, known: Known) -> _Identified:
    if credentials.key:
        key = _valid_key(credentials.key, known)
        return _Identified(caller=Caller(client=key.client, key_prefix=key.prefix), key=key)
    if credentials.token:
        return _Identified(caller=_token_holder(read_token(credentials.token), known))
    raise NotAuthenticated(
        "This call needs a key: send the header `Authorization: Api-Key <key>`, or a session token "
        "as `Authorization: Bearer <token>`."
    )


def _valid_key(text: str, known: Known) -> KnownKey:
    key = known.key(digest_of(text)) if KEY_PATTERN.fullmatch(text) else None
    if key is None:
        raise InvalidKey("This key is not known; check that it was copied in full.")
    # Only callers that have the whole key learn more.
    if key.revoked:
        raise InvalidKey(f"The key cex_{key.prefix}_… has been revoked; use another.")
    if key.is_expired:
        raise InvalidKey(f"The key cex_{key.prefix}_… has expired; use another.")
    if not key.client.enabled:
        raise InvalidKey(f"The client {key.client.name!r} is disabled; an operator can enable it.")
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
    """None: the token was made without a key, and is valid as long as API_AUTH is open."""
    if token.client_id is None:
        if not _is_open():
            raise InvalidToken(
                "The session token was made while the service asked for no key; ask for a new one."
            )
        return None
    client = known.client(token.client_id)
    if client is None or not client.enabled:
        raise InvalidToken("The client that made the session token is disabled or was deleted.")
    return client
