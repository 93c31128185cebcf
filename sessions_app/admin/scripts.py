"""Scripts of the console's pages that refresh themselves."""

from __future__ import annotations

from django.forms.widgets import Script

LIVE = tuple(Script(f"js/{name}.js", type="module") for name in ("live_list", "session", "refresh"))
"""The last one finds the regions that the others name."""
