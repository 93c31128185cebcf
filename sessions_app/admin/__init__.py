"""The operators' console. What is history can be read here and changed nowhere; what can be done
goes through the same services as the API's calls.
"""

from sessions_app.admin import (
    access,
    audit,
    clients,
    environments,
    executions,
    isolation,
    logins,
    nodes,
    queue,
    sandboxes,
    sessions,
)

__all__ = [
    "access",
    "audit",
    "clients",
    "environments",
    "executions",
    "isolation",
    "logins",
    "nodes",
    "queue",
    "sandboxes",
    "sessions",
]
