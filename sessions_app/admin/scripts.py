"""Scripts of the console's pages that live."""

from __future__ import annotations

from django.forms.widgets import Script


def _module(name: str) -> Script:
    return Script(f"js/{name}.js", type="module")


LIVE = tuple(_module(name) for name in ("live_list", "session", "refresh"))
"""Of lists and pages of what goes on. The last one finds the regions that the others name."""
