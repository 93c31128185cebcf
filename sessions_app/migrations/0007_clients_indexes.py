"""Lists of a client's sessions, and the count of those that live. See 0004_history_indexes on why
these indexes cost an execution nothing, and on how they are made.
"""

from importlib import import_module
from typing import Any

from django.db import migrations, models

AddIndex: Any = import_module("sessions_app.migrations.0004_history_indexes").AddIndex


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("sessions_app", "0006_clients")]

    operations = [
        AddIndex(
            model_name="session",
            index=models.Index(
                condition=models.Q(("closed_at__isnull", True)),
                fields=["client"],
                name="session_client_live",
            ),
        ),
        AddIndex(
            model_name="session",
            index=models.Index(fields=["client", "-created_at", "id"], name="session_client"),
        ),
    ]
