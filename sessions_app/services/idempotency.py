"""`Idempotency-Key`: a call that is repeated gets the first one's answer.

The key's row is inserted in the transaction of the call's work. A second call with the same key
waits for that transaction, which takes milliseconds, and then finds the row, or does the work
itself because the first one's was rolled back. So nothing is left of a call that was refused, or
whose process or database went away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from django.db import connection, transaction

from codeexec.errors import IdempotencyConflict, TooManyKeys
from sessions_app.callers import Caller
from sessions_app.models.idempotency import KEPT, IdempotencyKey

R = TypeVar("R")
MOST_OF_CLIENT = 50_000
"""Keys that are kept of one client at one time, not counting those of its session tokens."""
MOST_OF_SESSION = 1_000
"""Keys that are kept of one session's tokens."""
FORGOTTEN_AT_ONCE = 5_000

_TABLE = "sessions_app_idempotencykey"
_INSERT = f"""
    INSERT INTO {_TABLE} AS row (digest, holder, fingerprint, execution_id)
    VALUES (%(digest)s, %(holder)s, %(fingerprint)s, %(execution)s)
    ON CONFLICT (digest) DO UPDATE
    SET fingerprint = excluded.fingerprint, execution_id = excluded.execution_id, answer = NULL,
        created_at = statement_timestamp()
    WHERE row.created_at <= statement_timestamp() - %(kept)s
    RETURNING (SELECT count(*) FROM (
        SELECT FROM {_TABLE} WHERE holder = %(holder)s LIMIT %(most)s
    ) AS others)
"""  # noqa: S608 -- our own table
_FORGET = f"""
    DELETE FROM {_TABLE} WHERE digest IN (
        SELECT digest FROM {_TABLE} WHERE created_at <= now() - %s
        LIMIT %s FOR UPDATE SKIP LOCKED
    )
"""  # noqa: S608


@dataclass(frozen=True, kw_only=True)
class Once:
    """A call that is to be done once."""

    digest: bytes
    holder: str
    fingerprint: bytes
    most: int
    """Keys that its holder may have."""


class AlreadyDone(Exception):
    """The call was done before."""

    def __init__(self, execution_id: UUID | None, answer: Any) -> None:
        super().__init__()
        self.execution_id, self.answer = execution_id, answer


def once(key: str, caller: Caller, what: str, body: Any) -> Once:
    """`what`: the call and whatever it is about. A token's keys are not its client's: otherwise a
    candidate could read what the platform was answered.
    """
    holder = f"{caller.client_id or ''}"
    if caller.session_id is not None:
        holder = f"{holder} {caller.session_id}"
    text = json.dumps([what, body], sort_keys=True)
    return Once(
        digest=hashlib.sha256(f"{holder}\0{key}".encode()).digest(),
        holder=holder,
        fingerprint=hashlib.sha256(text.encode()).digest(),
        most=MOST_OF_CLIENT if caller.session_id is None else MOST_OF_SESSION,
    )


def do_once(this: Once, do: Callable[[], R], *, execution_id: UUID | None = None) -> R:
    """`do`, in a transaction with the key. Raises AlreadyDone, IdempotencyConflict, TooManyKeys,
    and what `do` raises, which doesn't use up the key.
    """
    with transaction.atomic():
        _take(this, execution_id)
        return do()


def keep_answer(this: Once, answer: Any) -> None:
    """To be called by what is done once."""
    IdempotencyKey.objects.filter(digest=this.digest).update(answer=answer)


def _take(this: Once, execution_id: UUID | None) -> None:
    parameters: dict[str, Any] = {
        "digest": this.digest,
        "holder": this.holder,
        "fingerprint": this.fingerprint,
        "execution": execution_id,
        "kept": KEPT,
        "most": this.most,
    }
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_INSERT, parameters)
            taken = cursor.fetchone()
        if taken is not None:
            if taken[0] >= this.most:
                raise _too_many(this)
            return
        found = IdempotencyKey.objects.filter(digest=this.digest).first()
        if found is None:
            continue  # it was forgotten at this moment
        if bytes(found.fingerprint) != this.fingerprint:
            raise IdempotencyConflict(
                "This Idempotency-Key was used for another call, or with another body, within the "
                "last 24 hours. Use a new key for each call, and the same one only to repeat it."
            )
        raise AlreadyDone(found.execution_id, found.answer)


def _too_many(this: Once) -> TooManyKeys:
    return TooManyKeys(
        f"At most {this.most} Idempotency-Keys are kept at one time, for 24 hours each. Send the "
        "call without a key, or try again later.",
        maximum=this.most,
    )


def forget_old_keys() -> int:
    """Returns how many were deleted."""
    with connection.cursor() as cursor:
        parameters: list[Any] = [KEPT, FORGOTTEN_AT_ONCE]
        cursor.execute(_FORGET, parameters)
        return int(cursor.rowcount)
