"""Whether the isolation checks prove that hostile code is held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from codeexec.cli import counted
from sessions_app.models import IsolationCheck
from sessions_app.monitoring.diagnosis.findings import Finding, failure, ok, warning
from sessions_app.services.isolation import Standing, standings


def check_isolation() -> Iterator[Finding]:
    """The same as `isolation_problems`, with what was never checked, or that all is well."""
    found = standings()
    problems = list(isolation_problems(found))
    yield from problems
    new = {each.environment.name for each in found if each.last is None and not each.overdue}
    if new:
        yield warning(
            f"not checked yet: {', '.join(sorted(new))}",
            "`manage.py check_isolation` checks it now; workers do it every ISOLATION_CHECK_HOURS.",
        )
    elif not problems:
        yield ok(f"held in {counted(len(found), 'last check')}")


def isolation_problems(found: Sequence[Standing]) -> Iterator[Finding]:
    for each in found:
        if each.failed and each.last is not None:
            yield not_held(each.last)
    if busy := [_where(each) for each in found if each.host_was_busy]:
        yield warning(
            f"isolation is not proven, the host was busy during the check: {', '.join(busy)}",
            "It is checked again within the hour, or now by `manage.py check_isolation`. Is the "
            "node overloaded all the time?",
        )
    if overdue := [_where(each) for each in found if each.overdue]:
        yield warning(
            f"the isolation check is overdue: {', '.join(overdue)}",
            "Run `manage.py check_isolation` on the node, or look at its worker's log.",
        )


def _where(standing: Standing) -> str:
    return f"{standing.environment.name} in {standing.runtime} on {standing.node.name}"


def not_held(check: IsolationCheck) -> Finding:
    """Of a check that has failed."""
    where = f"{check.environment} in {check.runtime} on {check.node}: {check.summary}"
    again = f"`manage.py check_isolation --environment {check.environment} --verbose`"
    if check.escaped:
        return failure(
            f"hostile code may not be held: {where}",
            f"{again} on that node and the check's page in the console show which attacks "
            "escaped. Disable the environment, or drain the node, until it is understood.",
            row=check,
        )
    return failure(
        f"it is not proven that hostile code is held: {where}",
        f"The check's page in the console says what could not be tried. Run {again} when the "
        "node has less to do.",
        row=check,
    )
