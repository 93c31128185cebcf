from __future__ import annotations

from django.db.backends.postgresql import base

from codeexec.postgres import has_ended


class DatabaseWrapper(base.DatabaseWrapper):
    """Looks at its socket where Django asks the server `SELECT 1` before each piece of work.

    A server that ended the connection, or the kernel that gave it up, has made the socket readable;
    nothing else is expected on an idle one. A host that vanished without a word is noticed by the
    query itself, as it would be by `SELECT 1`.
    """

    def is_usable(self) -> bool:
        if self.connection is None or self.connection.closed:
            return False
        return not has_ended(self.connection.fileno()) or bool(super().is_usable())
