"""Queues, events and timers between a task cluster's processes, which stay usable when one is
killed.

multiprocessing protects its queues, events and values with semaphores: a process that is killed
while it holds one leaves it locked for ever, and idle workers always hold the queue's. Here the
kernel protects them: a packet is received whole by one process or not at all, an eventfd is set or
not, and a timer is one aligned number that only its worker writes.
"""

from __future__ import annotations

import array
import multiprocessing.sharedctypes
import os
import pickle
import select
import socket
import time
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, Full
from typing import Any, ClassVar

_SMALL_BUFFER_BYTES = 1  # the kernel raises it to its minimum: one or two messages
_LARGE_BUFFER_BYTES = 1 << 20
_LARGEST_PACKET_BYTES = 2048
"""Larger messages are sent as memory files: a packet must be much smaller than the buffer."""
_IN_PACKET, _IN_FILE = b"p", b"f"
_LONGEST_RESULT = 10_000


class WorkerQueue:
    """A queue between processes that were forked from the one that made it.

    With `maxsize` 0 the queue has much room; with any other number it takes as few messages as the
    kernel allows, so that a producer doesn't get ahead of its consumers.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._writer, self._reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        size_bytes = _SMALL_BUFFER_BYTES if maxsize else _LARGE_BUFFER_BYTES
        self._writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size_bytes)

    def put(self, message: Any, block: bool = True, timeout: float | None = None) -> None:
        """Raises queue.Full when there is no room in time."""
        if not _ready(self._writer, select.POLLOUT, block, timeout):
            raise Full
        data = _pickled(message)
        if len(data) < _LARGEST_PACKET_BYTES:
            self._writer.send(_IN_PACKET + data)
        else:
            _send_in_file(self._writer, data)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Raises queue.Empty when nothing arrives in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not _ready(self._reader, select.POLLIN, block, left):
                raise Empty
            try:
                data = _receive(self._reader)
            except BlockingIOError:
                continue  # another process was faster
            message = pickle.loads(data)  # noqa: S301 -- only this cluster's processes write to it
            if isinstance(message, dict):
                WorkTimer.note_message(message.get("ack_id") or 0)
            return message

    def has_room(self, seconds: float) -> bool:
        """Whether a message can be put without waiting, now or within that time."""
        return _ready(self._writer, select.POLLOUT, True, seconds)

    def empty(self) -> bool:
        return not _ready(self._reader, select.POLLIN, block=False)

    def qsize(self) -> int:
        """1 when there is anything, else 0: the kernel doesn't count packets."""
        return 0 if self.empty() else 1

    def close(self) -> None:
        """There is nothing to flush: messages are in the kernel. The queue stays usable."""

    def join_thread(self) -> None:
        """There is no thread to join."""

    def __del__(self) -> None:
        self._writer.close()
        self._reader.close()


def _ready(end: socket.socket, event: int, block: bool, timeout: float | None = None) -> bool:
    poll = select.poll()
    poll.register(end, event)
    seconds = timeout if block else 0.0
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _pickled(message: Any) -> bytes:
    try:
        return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    except Exception:
        if not isinstance(message, dict) or "result" not in message:
            raise
        # A task's result that can't be pickled is sent as text.
        result = repr(message["result"])[:_LONGEST_RESULT]
        return pickle.dumps({**message, "result": result}, pickle.HIGHEST_PROTOCOL)


def _send_in_file(writer: socket.socket, data: bytes) -> None:
    file = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(data)
        socket.send_fds(writer, [_IN_FILE], [file])
    finally:
        os.close(file)


def _receive(reader: socket.socket) -> bytes:
    room_for_one = socket.CMSG_LEN(array.array("i").itemsize)
    data, ancillary, _flags, _address = reader.recvmsg(
        _LARGEST_PACKET_BYTES + 1, room_for_one, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    )
    if data[:1] == _IN_PACKET:
        return data[1:]
    (_level, _type, packed), *_ = ancillary
    file = array.array("i", packed)[0]
    with open(file, "rb") as stream:
        stream.seek(0)
        return stream.read()


class SafeEvent:
    """multiprocessing.Event on an eventfd: safe in signal handlers, and if a process dies."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        """Readable once the event is set."""
        return self._descriptor

    def set(self) -> None:
        os.eventfd_write(self._descriptor, 1)

    def is_set(self) -> bool:
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))


class WorkTimer:
    """The seconds that a worker's task has left, as django_q's guard expects them.

    Above 0 while a task with a time-out runs, 0 when its time is over, -1 without a time-out or
    a task, -2 when the worker recycles itself.

    Only the worker writes, and time left decreases by itself: the guard's own counting is ignored,
    so that no lock is needed. A guard that waits for a lock could wait for a dead worker, or for a
    live one that waits for the monitor which the guard should restart.
    """

    mine: ClassVar[WorkTimer | None] = None
    """In a worker: its own timer."""
    _last: ClassVar[WorkTimer | None] = None

    def __init__(self, _typecode: str, value: float) -> None:
        WorkTimer._last = self
        self._guard = os.getpid()
        self._message = multiprocessing.sharedctypes.RawValue("q", 0)
        self._cell = multiprocessing.sharedctypes.RawValue("d", value)

    @property
    def value(self) -> float:
        stored: float = self._cell.value
        return stored if stored <= 0 else max(0.0, stored - time.monotonic())

    @value.setter
    def value(self, value: float) -> None:
        if os.getpid() != self._guard:
            self._cell.value = value if value <= 0 else time.monotonic() + value

    @property
    def message(self) -> int:
        """The id of the worker's current message; 0: none. For the guard."""
        return int(self._message.value)

    @staticmethod
    def begin_work() -> None:
        """To be called in a new worker: its timer is the last one that its guard has made."""
        WorkTimer.mine = WorkTimer._last

    @staticmethod
    def note_message(message_id: int) -> None:
        """To be called in a worker: this is now its message."""
        if WorkTimer.mine is not None:
            WorkTimer.mine._message.value = message_id

    def get_lock(self) -> AbstractContextManager[None]:
        return nullcontext()
