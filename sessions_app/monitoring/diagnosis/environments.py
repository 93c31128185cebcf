"""Whether there is an environment to run programs in, and an image of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from environments_app.models import Environment, EnvironmentRevision
from sessions_app.models import Node
from sessions_app.monitoring.diagnosis.findings import Finding, failure, warning


def check_environments() -> Iterator[Finding]:
    """Whether each can be used on some node."""
    enabled = Environment.objects.enabled()
    if not enabled.exists():
        yield none_enabled()
    elif missing := [environment.name for environment in enabled.filter(revisions=None)]:
        yield failure(
            f"not built yet: {', '.join(missing)}",
            "`manage.py build_environments --missing` builds them.",
        )


def check_images_of_nodes() -> Iterator[Finding]:
    """Whether each can be used on every node that takes sessions, and is pre-started there."""
    enabled = list(Environment.objects.enabled().order_by("name"))
    if not enabled:
        yield none_enabled()
    revisions = list(_latest_revisions())
    built = {(each.node, each.environment_id) for each in revisions}
    for node in Node.objects.active().order_by("name"):
        missing = [each.name for each in enabled if (node.name, each.pk) not in built]
        if missing:
            yield failure(
                f"node {node.name} has no image of {', '.join(missing)}",
                f"On {node.name}: `manage.py build_environments --missing`.",
            )
    yield from _not_prestarted(enabled, revisions)


def check_prestart() -> Iterator[Finding]:
    """Whether programs are pre-started where they should be."""
    yield from _not_prestarted(list(Environment.objects.enabled()), list(_latest_revisions()))


def _latest_revisions() -> Iterable[EnvironmentRevision]:
    needed = ("environment_id", "node", "number", "prestart_problem")
    return EnvironmentRevision.objects.only(*needed).latest_of_nodes()


def _not_prestarted(
    enabled: Iterable[Environment], revisions: Iterable[EnvironmentRevision]
) -> Iterator[Finding]:
    """By the last warm sandbox of each revision."""
    environments = {each.pk: each for each in enabled}
    for revision in revisions:
        environment = environments.get(revision.environment_id)
        if environment is not None and revision.prestart_problem:
            yield warning(
                f"programs of {environment} are not pre-started on {revision.node}, so they begin "
                f"later: {revision.prestart_problem}",
                "Correct `preload` or the image, or take `prestart` out of the environment.",
                row=environment,
            )


def none_enabled() -> Finding:
    return failure(
        "no environment is enabled: nothing can be run",
        "Enable one in the console, or run `manage.py seed_environments`.",
    )
