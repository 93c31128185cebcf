"""Numbers from texts, within bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def within(kind: Callable[[str], Number], least: float, most: float) -> Callable[[str], Number]:
    """Parses a number of this kind, `int` or `float`, from `least` to `most`, both included. Raises
    ValueError for any other text.
    """

    def parse(text: str) -> Number:
        number = kind(text)
        if not least <= number <= most:  # NaN neither
            raise ValueError(text)
        return number

    return parse
