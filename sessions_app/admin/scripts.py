"""Scripts of the console's pages that live."""

from __future__ import annotations

from django.forms.widgets import Script


def _module(name: str) -> Script:
    return Script(f"js/{name}.js", type="module")


LIVE_PARTS = (_module("refresh"),)
"""Regions with `data-refresh-url`."""
LIVE_LIST = (_module("live_list"), *LIVE_PARTS)
LIVE_SESSION = (_module("session"), *LIVE_PARTS)
