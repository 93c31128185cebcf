from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Badge:
    """A number with its name, and the look of the name."""

    text: str
    look: str
    count: int
    address: str = ""
    """The list's query string that shows these rows."""
