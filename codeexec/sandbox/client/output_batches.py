"""A running program's output, collected into batches for those who watch it.

The thread that reads the runner's stream asks `due_in` how long it may wait for more. So a batch
needs no thread and no timer, and a program that ends before its first batch is due costs nothing.
"""

from __future__ import annotations

import codecs
import time

from codeexec.sandbox.driver import OnOutput, Output

FIRST_SECONDS = 0.015
"""From the first output after a silence to its batch."""
ANSWER_SECONDS = 0.002
"""The same of an interactive program: someone waits for the answer to what was typed."""
NEXT_SECONDS = 0.04
"""Between one batch and the next."""


class OutputBatches:
    """For one run. Each batch has at most one piece of each stream, cut between two UTF-8
    characters. Output right before the run's end is in no batch, but in the result.
    """

    def __init__(self, on_output: OnOutput | None, *, interactive: bool = False) -> None:
        self._on_output = on_output
        self._first_seconds = ANSWER_SECONDS if interactive else FIRST_SECONDS
        self._held: dict[Output, bytearray] = {}
        """In the order in which the streams were written to."""
        self._due: float | None = None
        self._last = 0.0

    def add(self, stream: Output, data: bytes) -> None:
        if self._on_output is None:
            return
        self._held.setdefault(stream, bytearray()).extend(data)
        if self._due is None:
            self._due = max(time.monotonic() + self._first_seconds, self._last + NEXT_SECONDS)

    def due_in(self) -> float | None:
        """Seconds to the next batch; None: there is no output for one."""
        return None if self._due is None else self._due - time.monotonic()

    def pass_on_due(self) -> None:
        if self._due is not None and time.monotonic() >= self._due:
            self.pass_on()

    def pass_on(self) -> None:
        """Pass on what there is, due or not."""
        self._due, self._last = None, time.monotonic()
        for stream in list(self._held):
            held = self._held.pop(stream)
            end = last_border(held)
            if rest := held[end:]:
                self._held[stream] = rest
            if end and self._on_output is not None:
                self._on_output(stream, bytes(held[:end]))


def last_border(data: bytearray) -> int:
    """Where the last character ends that is complete, or can't be completed."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-4:])  # no character is longer
    return len(data) - len(decoder.getstate()[0])
