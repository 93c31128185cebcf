from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base
from psycopg import IsolationLevel

from codeexec.db.postgres import LIVENESS, BoundedConnection, bounded_options, has_ended, is_bounded


class DatabaseWrapper(base.DatabaseWrapper):
    """Its connections wait no longer than the work may that they are used for, and the server ends
    the statements of those that the API's threads make.

    Looks at its socket where Django asks the server `SELECT 1` before each piece of work. A server
    that ended the connection, or the kernel that gave it up, has made the socket readable; nothing
    else is expected on an idle one. A host that vanished without a word is noticed by the query
    itself, as it would be by `SELECT 1`.
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
