"""The operators' console. History is read-only here; every action goes through the service that the
API's call uses.
"""

from sessions_app.admin import (  # noqa: F401 -- each registers its models' pages
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
