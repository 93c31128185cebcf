"""PostgreSQL connections besides Django's own: for LISTEN, which must outlive any transaction."""

from __future__ import annotations

import select
from typing import Any

from django.db import connection

# A host that vanishes without a word is noticed within seconds, not after TCP's quarter of an hour.
_LIVENESS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def commit_without_waiting() -> None:
    """The current transaction's commit doesn't wait for the disk: a crash of the database server in
    the next moments may undo it. For what nobody has been told about yet.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit TO off")


def has_ended(descriptor: int) -> bool:
    """Whether an idle connection with this socket is over. A server that ended it, or the kernel
    that gave it up, has made the socket readable; nothing else is expected on it.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def connection_parameters(application_name: str) -> dict[str, Any]:
    """What psycopg needs to reach Django's default database; what DATABASE_URL sets wins."""
    parameters = connection.get_connection_params()
    for django_only in ("context", "cursor_factory"):
        parameters.pop(django_only, None)
    return {"application_name": application_name, **_LIVENESS, **parameters}
