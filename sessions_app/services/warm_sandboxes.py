"""Claiming a warm sandbox for a new session (`claim_warm_sandbox`), how often there is one, taking
one out of the pool, and how many there should be.

The pools are filled by each node, in `sessions_app.node.sandboxes`; how many it keeps beyond
`warm_pool_size` is decided in `sessions_app.node.pool_demand`.
"""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

from django.db import connection, models, transaction
from django.db.models import Count, F, OuterRef, QuerySet, Sum
from django.db.models.functions import Coalesce, Greatest
from django.utils import timezone

from codeexec.taskqueue.enqueue import enqueue, message, node_queue
from environments_app.models import Environment, EnvironmentRevision
from environments_app.services import find_environment
from sessions_app.models import ClientStorage, Node, Sandbox, Session, WarmPool
from sessions_app.models.node import LOST_AFTER, node_name
from sessions_app.models.run_queries import StorageBounds
from sessions_app.services.stored_bytes import METADATA_BYTES
from sessions_app.services.task_names import REFILL_TASK, REMOVE_TASK

REFILL_AFTER = timedelta(seconds=0.25)
"""Starting a container keeps two processors busy for a while, so the first run of the session that
was just opened comes first. Workers are not notified of delayed messages, but poll for them twice a
second.
"""

HIT_RATE_OVER = timedelta(days=1)
HIT_RATE_SESSIONS = 1000
"""At most, so that the figure costs the same with any traffic."""

_OF_THE_SANDBOX = {
    "id": "sandbox.id",
    "environment_id": "environment.id",
    "node_id": "sandbox.node_id",
    "revision_id": "sandbox.revision_id",
    "container_id": "sandbox.container_id",
    "stored_bytes": "storage.bytes",
}
"""Columns of the session that the claim fills in from the sandbox."""

_ENVIRONMENT_FIELDS = [
    field for field in Environment._meta.concrete_fields if not isinstance(field, models.JSONField)
]


def claim_warm_sandbox(
    session: Session, environment_name: str | None, bounds: StorageBounds
) -> bool:
    """Insert the session as ready, on the oldest fitting idle sandbox, whose id it gets, and have
    the sandbox's node start another. All of this is one statement, so one round trip.

    False: there is no sandbox, or the session's metadata doesn't fit into its client's storage, and
    no row was changed. The session has its environment in any case. Raises UnknownEnvironment.
    """
    session.status = Session.Status.READY
    session.ready_at = session.workspace_since = session.created_at
    session.warm = True
    with connection.cursor() as cursor:
        parameters = _parameters(session, environment_name, bounds)
        cursor.execute(_statement(environment_name is None), parameters)
        row = cursor.fetchone()
    if row is not None and row[0] is not None:
        session.id, session.node_id, session.revision_id, session.container_id = row[:4]
        session.stored_bytes, session.environment = row[4], _environment(row)
        session._state.adding, session._state.db = False, connection.alias
        return True
    session.status, session.warm = Session.Status.PENDING, False
    session.ready_at = session.workspace_since = None
    session.environment = find_environment(environment_name) if row is None else _environment(row)
    return False


def _environment(row: tuple[Any, ...]) -> Environment:
    names = [field.attname for field in _ENVIRONMENT_FIELDS]
    return Environment.from_db(connection.alias, names, row[-len(names) :])


def _inserted() -> list[Any]:
    """The session's own columns; the others are filled in from the sandbox."""
    fields = Session._meta.concrete_fields
    return [field for field in fields if field.attname not in _OF_THE_SANDBOX]


def _parameters(
    session: Session, environment_name: str | None, bounds: StorageBounds
) -> dict[str, Any]:
    given = {
        field.attname: field.get_db_prep_save(getattr(session, field.attname), connection)
        for field in _inserted()
    }
    return {
        **given,
        "environment_name": environment_name,
        "lost_after": LOST_AFTER,
        "most_bytes_of_session": bounds.per_session,
        "most_bytes_of_client": bounds.per_client,
        "queues": node_queue(""),
        "refill": message(REFILL_TASK),
        "refill_after": REFILL_AFTER,
    }


@functools.cache
def _statement(default: bool) -> str:
    """The same conditions as the querysets: an enabled environment, an idle sandbox, a usable
    node, the node's latest revision. A sandbox whose row is locked by another transaction is
    skipped.
    """
    columns = [*_OF_THE_SANDBOX, *(field.attname for field in _inserted())]
    values = [*_OF_THE_SANDBOX.values(), *(f"%({field.attname})s" for field in _inserted())]
    known = ", ".join(f"environment.{field.column}" for field in _ENVIRONMENT_FIELDS)
    sandboxes, nodes = Sandbox._meta.db_table, Node._meta.db_table
    revisions = EnvironmentRevision._meta.db_table
    return f"""
    WITH environment AS (
        SELECT * FROM {Environment._meta.db_table}
        WHERE enabled AND {"is_default" if default else "name = %(environment_name)s"}
    ), storage AS (
        SELECT {METADATA_BYTES.format("%(metadata)s::jsonb")} AS bytes, COALESCE(
            (SELECT used_bytes FROM {ClientStorage._meta.db_table} WHERE client_id = %(client_id)s),
            0
        ) AS of_client
    ), sandbox AS (
        SELECT sandbox.id, sandbox.node_id, sandbox.revision_id, sandbox.container_id,
               %(queues)s || node.name AS queue
        FROM environment
        JOIN storage ON storage.bytes = 0 OR (
            storage.bytes <= %(most_bytes_of_session)s::bigint AND COALESCE(
                storage.of_client + storage.bytes <= %(most_bytes_of_client)s::bigint, true
            )
        )
        JOIN {sandboxes} sandbox ON sandbox.environment_id = environment.id
        JOIN {nodes} node ON node.id = sandbox.node_id
        JOIN {revisions} revision ON revision.id = sandbox.revision_id
        WHERE sandbox.status = 'idle'
          AND node.status = 'active' AND node.engine_error = ''
          AND node.heartbeat_at > now() - %(lost_after)s
          AND NOT EXISTS (
              SELECT FROM {revisions} newer
              WHERE newer.environment_id = revision.environment_id
                AND newer.node = revision.node AND newer.number > revision.number
          )
        ORDER BY sandbox.created_at
        LIMIT 1
        FOR UPDATE OF sandbox SKIP LOCKED
    ), claimed AS (
        UPDATE {sandboxes} SET status = 'in_use' WHERE id = (SELECT id FROM sandbox)
    ), opened AS (
        INSERT INTO {Session._meta.db_table} ({", ".join(columns)})
        SELECT {", ".join(values)} FROM sandbox, environment, storage
    ), refill AS (
        INSERT INTO django_q_ormq (key, payload, lock)
        SELECT queue, %(refill)s, now() + %(refill_after)s FROM sandbox
    )
    SELECT sandbox.id, sandbox.node_id, sandbox.revision_id, sandbox.container_id, storage.bytes,
           {known}
    FROM environment CROSS JOIN storage LEFT JOIN sandbox ON true
    """  # noqa: S608 -- names of our own tables and columns


@transaction.atomic
def retire_warm_sandbox(sandbox: Sandbox) -> bool:
    """Take a warm sandbox out of the pool, and have its node remove the container. False: it is a
    session's by now, or another process was faster.
    """
    retired = sandbox.retire()
    if retired:
        enqueue(REMOVE_TASK, str(sandbox.pk), queue=node_queue(node_name(sandbox.node_id)))
    return retired


def with_wanted(environments: QuerySet[Environment], node: Node) -> QuerySet[Any]:
    """Adds `wanted`: how many warm sandboxes of each environment the node should keep."""
    pools = WarmPool.objects.filter(node=node, environment=OuterRef("pk"))
    followed = Coalesce(models.Subquery(pools.values("wanted")), 0)
    return environments.annotate(wanted=Greatest(F("warm_pool_size"), followed))


def with_wanted_of_all_nodes(environments: QuerySet[Environment]) -> QuerySet[Any]:
    """Adds `wanted`: how many warm sandboxes the usable nodes should keep together."""
    nodes, size = Node.objects.usable().order_by(), F("environment__warm_pool_size")
    larger = WarmPool.objects.filter(node__in=nodes, environment=OuterRef("pk"), wanted__gt=size)
    sums = larger.values("environment").annotate(beyond=Sum(F("wanted") - size)).values("beyond")
    beyond = Coalesce(models.Subquery(sums), 0)
    return environments.annotate(wanted=F("warm_pool_size") * nodes.count() + beyond)


class _Share(models.Subquery):
    """The share of true values in a queryset of one boolean column, from 0 to 1."""

    template = "(SELECT avg(warm::int)::float FROM (%(subquery)s) AS latest)"
    output_field = models.FloatField()


def with_pools(environments: QuerySet[Environment]) -> QuerySet[Any]:
    """Adds `warm_now`, the idle sandboxes of all nodes, and `hit_rate`, the share of the last day's
    sessions that got a warm sandbox: 0 to 1 or null, of the latest HIT_RATE_SESSIONS.
    """
    idle = Sandbox.objects.idle().filter(environment=OuterRef("pk")).order_by()
    count = idle.values("environment").annotate(count=Count("pk")).values("count")
    recent = Session.objects.filter(
        environment=OuterRef("pk"), created_at__gt=timezone.now() - HIT_RATE_OVER
    )
    latest = recent.filter(warm__isnull=False).order_by("-created_at").values("warm")
    return environments.annotate(
        warm_now=Coalesce(models.Subquery(count), 0), hit_rate=_Share(latest[:HIT_RATE_SESSIONS])
    )


def hit_rate(environment: Environment) -> float | None:
    """As in `with_pools`."""
    found = with_pools(Environment.objects.filter(pk=environment.pk))
    rate: float | None = found.values_list("hit_rate", flat=True).get()
    return rate
