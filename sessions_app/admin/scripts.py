"""Scripts of the console's pages that refresh themselves."""

from __future__ import annotations

from django.forms.widgets import Script


def _module(name: str) -> Script:
    return Script(f"js/{name}.js", type="module")


LIVE = tuple(_module(name) for name in ("live_list", "session", "refresh"))
"""For lists and pages that refresh. The last one finds the regions that the others name."""
