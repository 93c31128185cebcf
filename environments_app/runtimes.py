"""The OCI runtimes that can be chosen: `sessions_app`, which knows the nodes, supplies them."""

from __future__ import annotations

from collections.abc import Callable, Collection

sources: list[Callable[[], Collection[str]]] = []
"""Functions that return the names of known runtimes."""


def require_known_runtime(name: str) -> None:
    """Raise ValueError for a runtime that no node has. Empty means the Docker Engine's default;
    before the first node has started, any name is accepted.
    """
    if not name:
        return
    known = sorted({runtime for source in sources for runtime in source()})
    if known and name not in known:
        raise ValueError(f"no node's Docker Engine has it; they have {', '.join(known)}")
