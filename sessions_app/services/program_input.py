"""Input that is typed into a running program: accepted once, in order, and kept.

Each accepted piece is a row, and a notification lets the executor of the session's node read it. A
client that repeats a piece because it got no answer says by its offset that it has been accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from codeexec.bounds import STDIN_BYTES, STDIN_WAITING_BYTES
from codeexec.errors import LimitExceeded, NotFound, StdinClosed, StdinFull, StdinGap
from sessions_app.callers import OPERATOR, Caller
from sessions_app.models import input_sql
from sessions_app.models.execution import UNFINISHED
from sessions_app.services.stored_bytes import require_room


@dataclass(frozen=True, kw_only=True)
class StdinState:
    offset: int
    """Bytes accepted so far, not counting those of the run's own `stdin`."""
    is_open: bool


def add_input(
    execution_id: UUID,
    data: bytes,
    *,
    offset: int | None = None,
    end: bool = False,
    caller: Caller = OPERATOR,
) -> StdinState:
    """Adds to an interactive execution's standard input. `offset`: where `data` begins; what was
    accepted before is left out. Without one, it is added to the end. `end`: nothing follows.

    Raises NotFound, StdinClosed, StdinGap, StdinFull, LimitExceeded, StorageFull.
    """
    while True:
        so_far = _state_of(execution_id, caller)
        if offset is not None and offset > so_far.accepted:
            raise StdinGap(
                f"Bytes {so_far.accepted} to {offset} of the input have not arrived: send from "
                f"offset {so_far.accepted} on.",
                offset=so_far.accepted,
            )
        new = data if offset is None else data[so_far.accepted - offset :]
        if not new and (so_far.ended or not end):
            return StdinState(offset=so_far.accepted, is_open=so_far.is_open)
        so_far.require_room(len(new), caller)
        if _add(execution_id, so_far.accepted, new, end):
            return StdinState(offset=so_far.accepted + len(new), is_open=not end)
        # Another call was faster.


@dataclass(frozen=True, kw_only=True)
class _SoFar:
    interactive: bool
    status: str
    accepted: int
    ended: bool
    waiting: int
    session_bytes: int
    client_bytes: int

    @property
    def is_open(self) -> bool:
        return self.interactive and self.status in UNFINISHED and not self.ended

    def require_room(self, size: int, caller: Caller) -> None:
        """Raises StdinClosed, StdinFull, LimitExceeded, StorageFull."""
        if not self.is_open:
            raise StdinClosed(self._why_closed())
        if self.accepted + size > STDIN_BYTES:
            raise LimitExceeded(
                f"At most {STDIN_BYTES} bytes can be typed into one execution; {self.accepted} "
                "were.",
                limit="stdin",
                maximum=STDIN_BYTES,
            )
        if self.waiting + size > STDIN_WAITING_BYTES:
            raise StdinFull(
                f"The program has not read {self.waiting} bytes of its input yet, and at most "
                f"{STDIN_WAITING_BYTES} may wait. Try again when it has read some.",
                offset=self.accepted,
            )
        require_room(size, self.session_bytes, self.client_bytes, caller.client, added="this input")

    def _why_closed(self) -> str:
        if not self.interactive:
            return "This execution was not sent with `interactive`: its input is `stdin` alone."
        if self.status not in UNFINISHED:
            return "The execution has ended."
        return "Its input was ended by `eof`."


def _state_of(execution_id: UUID, caller: Caller) -> _SoFar:
    """Raises NotFound."""
    parameters: dict[str, Any] = {
        "execution": execution_id,
        "sees_everything": caller.sees_everything,
        "client": caller.client_id,
        "of_token": caller.session_id,
    }
    with connection.cursor() as cursor:
        cursor.execute(input_sql.STATE, parameters)
        row = cursor.fetchone()
    if row is None:
        raise NotFound(f"There is no execution {execution_id}.")
    names = tuple(_SoFar.__dataclass_fields__)
    return _SoFar(**dict(zip(names, row, strict=True)))


def _add(execution_id: UUID, start: int, data: bytes, end: bool) -> bool:
    """False: something else begins there already."""
    parameters: dict[str, Any] = {
        "execution": execution_id,
        "start": start,
        "data": data,
        "ends": end,
        "channel": input_sql.INPUT_CHANNEL,
    }
    with connection.cursor() as cursor:
        cursor.execute(input_sql.ADD, parameters)
        return cursor.fetchone() is not None
