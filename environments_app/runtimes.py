"""The OCI runtimes that can be chosen: `sessions_app`, which knows the nodes, supplies them."""

from __future__ import annotations

from collections.abc import Callable, Collection

sources: list[Callable[[], Collection[str]]] = []
"""Each names the runtimes of some nodes; none where no node is known yet."""


def require_known_runtime(name: str) -> None:
    """Raise ValueError for one that no node has. Before the first node started, any may be right;
    empty is the Docker Engine's default.
    """
    if not name:
        return
    known = sorted({runtime for source in sources for runtime in source()})
    if known and name not in known:
        raise ValueError(f"no node's Docker Engine has it; they have {', '.join(known)}")
