"""Indexes with which lists, filters and upkeep cost the same however much history there is, and none
on what an execution changes in its session's row, which is then updated without touching any index.

Made and dropped one by one and concurrently: a service that runs meanwhile is not kept waiting. An
interrupted migration is simply run again.
"""

from typing import Any

import django.contrib.postgres.indexes
import django.db.models.deletion
from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models

_DROP = "DROP INDEX CONCURRENTLY IF EXISTS {}"

# PostgreSQL looks at a table when a share of it has changed: a fifth of a million rows is late.
_SETTINGS = ("autovacuum_vacuum_scale_factor", "autovacuum_analyze_scale_factor")
_SET = f"ALTER TABLE {{}} SET ({', '.join(f'{name} = 0.02' for name in _SETTINGS)})"
_RESET = f"ALTER TABLE {{}} RESET ({', '.join(_SETTINGS)})"


class AddIndex(AddIndexConcurrently):
    """An interrupted one leaves an index behind that nothing uses: it is made anew."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        schema_editor.execute(_DROP.format(self.index.name))
        super().database_forwards(app_label, schema_editor, from_state, to_state)


class RemoveIndex(RemoveIndexConcurrently):
    """Harmless where an interrupted migration has come this far before."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        schema_editor.execute(_DROP.format(self.name))


def drop_index_of(
    model: str, name: str, index: str, field: models.ForeignKey
) -> migrations.SeparateDatabaseAndState:
    """A foreign key whose own index another one has made superfluous."""
    table = f"sessions_app_{model}"
    create = f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table} ({name}_id)"
    return migrations.SeparateDatabaseAndState(
        database_operations=[migrations.RunSQL(_DROP.format(index), create)],
        state_operations=[migrations.AlterField(model_name=model, name=name, field=field)],
    )


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("environments_app", "0001_initial"),
        ("sessions_app", "0003_execution_stages"),
    ]

    operations = [
        AddIndex(
            model_name="execution",
            index=models.Index(
                condition=models.Q(("verdict__in", ["", "ok"]), _negated=True),
                fields=["verdict", "-queued_at", "id"],
                name="execution_not_ok",
            ),
        ),
        AddIndex(
            model_name="session",
            index=models.Index(
                condition=models.Q(("closed_at__isnull", True)),
                fields=["node"],
                name="session_live",
            ),
        ),
        AddIndex(
            model_name="session",
            index=models.Index(
                fields=["environment", "-created_at", "id"], name="session_environment"
            ),
        ),
        AddIndex(
            model_name="session",
            index=models.Index(fields=["node", "-created_at", "id"], name="session_node"),
        ),
        AddIndex(
            model_name="session",
            index=models.Index(
                condition=models.Q(("error_reason", ""), _negated=True),
                fields=["-created_at", "id"],
                name="session_error",
            ),
        ),
        AddIndex(
            model_name="session",
            index=django.contrib.postgres.indexes.GinIndex(
                fastupdate=False,
                fields=["metadata"],
                name="session_metadata",
                opclasses=["jsonb_path_ops"],
            ),
        ),
        RemoveIndex(model_name="execution", name="execution_lease"),
        RemoveIndex(model_name="session", name="session_expiry"),
        RemoveIndex(model_name="session", name="session_start_lease"),
        RemoveIndex(model_name="session", name="session_stopping"),
        RemoveIndex(model_name="session", name="session_node_status"),
        drop_index_of(
            "execution",
            "session",
            "sessions_app_execution_session_id_bc4a35bc",
            models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="executions",
                to="sessions_app.session",
            ),
        ),
        drop_index_of(
            "session",
            "environment",
            "sessions_app_session_environment_id_c71f80aa",
            models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="sessions",
                to="environments_app.environment",
            ),
        ),
        drop_index_of(
            "session",
            "node",
            "sessions_app_session_node_id_cfc55867",
            models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="sessions",
                to="sessions_app.node",
            ),
        ),
        *(
            migrations.RunSQL(_SET.format(table), _RESET.format(table))
            for table in ("sessions_app_session", "sessions_app_execution")
        ),
    ]
