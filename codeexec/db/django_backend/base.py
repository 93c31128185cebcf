from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base
from psycopg import IsolationLevel

from codeexec.db.postgres import LIVENESS, BoundedConnection, bounded_options, has_ended, is_bounded


class DatabaseWrapper(base.DatabaseWrapper):
    """Its connections wait no longer than their thread's work may take, and the server ends the
    statements of the API's threads after DATABASE_TIMEOUT.

    Where Django sends `SELECT 1` before each piece of work, it checks the connection's socket
    instead: an idle one is only readable when the server or the kernel has closed it. A host that
    disappeared is noticed by the next query, as it would be by `SELECT 1`.
    """

    def get_new_connection(self, conn_params: dict[str, Any]) -> BoundedConnection:
        self.isolation_level = IsolationLevel.READ_COMMITTED
        if is_bounded():
            conn_params = {
                **conn_params,
                "options": bounded_options(conn_params.get("options", "")),
            }
        return BoundedConnection.connect(**{**LIVENESS, **conn_params})

    def is_usable(self) -> bool:
        if self.connection is None or self.connection.closed:
            return False
        return not has_ended(self.connection.fileno()) or bool(super().is_usable())
