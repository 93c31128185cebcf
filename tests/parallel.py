"""Which tests run side by side when pytest has several processes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("compose", "cluster", "stack", "browser", "docker")
"""Markers of tests that are heavy, or share something of this machine."""


class OneKindAtATime(LoadScopeScheduling):
    """Modules with a marker of one kind follow each other in one process, which keeps what they
    have started for a module; tests of all other modules go wherever there is room.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _kind(nodeid.partition("::")[0]) or nodeid


@cache
def _kind(module: str) -> str | None:
    """The first one whose marker the module uses. The process that distributes tests has not
    imported them, so it looks at the text.
    """
    text = (ROOT / module).read_text()
    return next((kind for kind in KINDS if f"pytest.mark.{kind}" in text), None)
