"""Which OCI runtime a session's sandbox is started with.

`SESSION_RUNTIMES` names those that clients may choose, the weakest first. No session gets a weaker
one than its environment has; where that has none, it is the Docker Engine's default.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.conf import settings

from codeexec.errors import UnknownRuntime
from environments_app.models import Environment
from sessions_app.models import Node, Session


def choose_runtime(environment: Environment, asked: str) -> str:
    """The runtime that a client asks for, if it may. Raises UnknownRuntime."""
    known = choosable(environment, Node.objects.usable())
    if asked not in known:
        allowed = f"one of {', '.join(known)}" if known else "left out"
        raise UnknownRuntime(
            f"runtime must be {allowed} in environment {environment.name!r}, not {asked!r}.",
            runtimes=known,
            field="runtime",
        )
    return asked


def choosable(environment: Environment, nodes: Iterable[Node]) -> list[str]:
    """The runtimes that its sessions may choose on these nodes, the weakest first."""
    nodes = list(nodes)
    there = {name for node in nodes for name in node.runtimes}
    least = _strength(max(_own(environment, nodes), key=_strength, default=""))
    return [name for name in _ordered() if name in there and _strength(name) >= least]


def names_of_all() -> set[str]:
    """The runtimes of all nodes, up or not."""
    return {name for names in Node.objects.values_list("runtimes", flat=True) for name in names}


def is_own(environment: Environment, runtime: str) -> bool:
    """Whether the environment's warm sandboxes have this runtime on every node. A warm sandbox with
    the Docker Engine's default has what was the default at its start, so it counts as the weakest.
    """
    if not environment.runtime and _strength(runtime) > 0:
        return False
    return _own(environment, list(Node.objects.usable())) == {runtime}


def session_runtime(session: Session) -> str:
    """The runtime to start a session's sandbox with. Empty: the Docker Engine's default. It is the
    environment's if that was made stronger since the session was opened, or if the session's may no
    longer be chosen.
    """
    own, chosen = session.environment.runtime, session.runtime
    if own and chosen not in _ordered():
        return own
    return max(own, chosen, key=_strength)


def _own(environment: Environment, nodes: list[Node]) -> set[str]:
    if environment.runtime:
        return {environment.runtime}
    return {node.runtimes[0] for node in nodes if node.runtimes}


def _ordered() -> list[str]:
    return list(settings.CODE_EXECUTOR["SESSION_RUNTIMES"])


def _strength(name: str) -> int:
    """A runtime that isn't in the list counts as the strongest, so that none replaces it."""
    if not name:
        return -1
    return _ordered().index(name) if name in _ordered() else len(_ordered())
