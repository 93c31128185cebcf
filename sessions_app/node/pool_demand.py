"""How large this node's warm pools should be: as large as the largest burst of sessions that was
opened within the last hour.

A burst is what is opened while the pool is being refilled. The nodes share it, each within the room
that its sessions leave. On a node no environment has more than its `warm_pool_ceiling`, nor places
that others need for their `warm_pool_size`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from django.db import connection

from environments_app.models import Environment, EnvironmentRevision
from sessions_app.models import Node, Session, WarmPool
from sessions_app.models.session import default_ttl_seconds

BURST_LASTS = timedelta(seconds=5)
"""About as long as eight sandboxes take to start on two processors."""

REMEMBERED = timedelta(hours=1)

_BURSTS_REMEMBERED = REMEMBERED // BURST_LASTS

_LARGEST = f"""\
SELECT max(opened) FROM (
    SELECT count(*) FILTER (WHERE fits) OVER (
        ORDER BY created_at DESC RANGE BETWEEN %(lasts)s PRECEDING AND CURRENT ROW
    ) AS opened
    FROM (
        SELECT created_at, ttl_seconds <= %(ttl_seconds)s AND runtime IN ('', %(runtime)s) AS fits
        FROM {Session._meta.db_table}
        WHERE environment_id = %(environment)s AND created_at > now() - %(remembered)s
        ORDER BY created_at DESC LIMIT %(rows)s
    ) latest
) beginning_with_each
"""  # noqa: S608 -- the name of our own table


def follow_demand(node: Node) -> None:
    """Write down how many warm sandboxes of each environment the node should keep."""
    before = dict(WarmPool.objects.filter(node=node).values_list("environment", "wanted"))
    for environment, wanted in _wanted(node).items():
        if before.get(environment, 0) != wanted:
            WarmPool.objects.update_or_create(
                node=node, environment_id=environment, defaults={"wanted": wanted}
            )


def _wanted(node: Node) -> dict[int, int]:
    """By environment. 0 where the pool's size is enough, or the node can't start one."""
    nodes = list(Node.objects.with_room())
    images = EnvironmentRevision.objects.values_list("environment", "node").order_by().distinct()
    built = set(images)
    wanted: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for environment in Environment.objects.all():
        able = [
            each
            for each in nodes
            if (environment.pk, each.name) in built
            and (not environment.runtime or environment.runtime in each.runtimes)
        ]
        here = environment.enabled and node in able
        sizes[environment.pk] = environment.warm_pool_size if here else 0
        wanted[environment.pk] = _of_burst(environment, able) if here else 0
    room = next((_room(each) for each in nodes if each == node), 0) - sum(sizes.values())
    beyond = {each: max(0, wanted[each] - sizes[each]) for each in wanted}
    shared = _within(room, beyond)
    return {each: sizes[each] + shared[each] if shared[each] else 0 for each in wanted}


def _room(node: Node) -> int:
    """Places that sessions leave: warm sandboxes don't count. `node`: of `with_room`."""
    return node.capacity - int(node.used)  # type: ignore[attr-defined]


def _of_burst(environment: Environment, nodes: Collection[Node]) -> int:
    """What a node of these keeps of the environment's largest burst."""
    ceiling = environment.warm_pool_ceiling
    if ceiling == environment.warm_pool_size:
        return ceiling
    rooms = [min(_room(node), ceiling) for node in nodes]
    return _each(largest_burst(environment, most=sum(rooms)), rooms)


def _each(burst: int, rooms: Collection[int]) -> int:
    """The least number that makes up the burst if each node keeps so many, or as it has room."""
    level = 0
    while sum(min(level, room) for room in rooms) < min(burst, sum(rooms)):
        level += 1
    return level


def _within(room: int, beyond: Mapping[int, int]) -> Counter[int]:
    """Places in turn for each environment that wants more, until there are no more."""
    shared: Counter[int] = Counter()
    while room > 0 and (lacking := [each for each in beyond if shared[each] < beyond[each]]):
        shared[min(lacking, key=lambda each: (shared[each], each))] += 1
        room -= 1
    return shared


def largest_burst(environment: Environment, *, most: int) -> int:
    """How many sessions were opened together at most, or `most` if it is more. Sessions that no
    warm sandbox fits, for their runtime or their time, don't count.

    Only so many of the newest rows are read that there can't be more without a burst of `most`:
    the cost is bounded with any number of sessions.
    """
    parameters: dict[str, Any] = {
        "environment": environment.pk,
        "lasts": BURST_LASTS,
        "remembered": REMEMBERED,
        "runtime": environment.runtime,
        "ttl_seconds": default_ttl_seconds(),
        "rows": _BURSTS_REMEMBERED * most,
    }
    with connection.cursor() as cursor:
        cursor.execute(_LARGEST, parameters)
        (largest,) = cursor.fetchone()
    return min(most, largest or 0)
