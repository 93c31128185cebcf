"""API clients, their keys, what they may still ask for, and whose a session is.

Triggers tell the API's processes that a client or a key has changed, whoever changed it. The times
of use and the counts of requests are left out: nobody keeps those in memory.
"""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.utils.timezone
import sessions_app.models.client
from django.db import migrations, models

_FUNCTION = """
CREATE FUNCTION code_executor_clients_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('code_executor_clients', '');
    RETURN NULL;
END
$$
"""
_TRIGGER = """
CREATE TRIGGER changed AFTER INSERT OR UPDATE OF {} OR DELETE OR TRUNCATE ON {}
FOR EACH STATEMENT EXECUTE FUNCTION code_executor_clients_changed()
"""
_CLIENT = "name, scopes, requests_per_minute, max_live_sessions, enabled"
_KEY = "client_id, prefix, digest, expires_at, revoked_at"


class Migration(migrations.Migration):
    dependencies = [
        ("environments_app", "0001_initial"),
        ("sessions_app", "0005_warm_pool"),
    ]

    operations = [
        migrations.CreateModel(
            name="ApiKey",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "prefix",
                    models.CharField(
                        help_text="The part of the key that may be shown.",
                        max_length=8,
                        unique=True,
                    ),
                ),
                ("digest", models.BinaryField(max_length=32, unique=True)),
                (
                    "created_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False),
                ),
                ("expires_at", models.DateTimeField(blank=True, null=True)),
                ("revoked_at", models.DateTimeField(editable=False, null=True)),
                (
                    "last_used_at",
                    models.DateTimeField(
                        editable=False,
                        help_text="To the minute: not each use is noted down.",
                        null=True,
                    ),
                ),
            ],
            options={
                "verbose_name": "API key",
                "ordering": ("-created_at", "id"),
            },
        ),
        migrations.CreateModel(
            name="Client",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=100, unique=True)),
                (
                    "scopes",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(
                            choices=[
                                ("read", "read: look at sessions, executions and environments"),
                                ("sessions", "sessions: open and stop sessions"),
                                ("execute", "execute: run code"),
                                ("tokens", "tokens: make session tokens"),
                                ("metrics", "metrics: read /metrics"),
                            ],
                            max_length=10,
                        ),
                        default=sessions_app.models.client.usual_scopes,
                        help_text="What its keys may be used for.",
                        size=None,
                    ),
                ),
                (
                    "requests_per_minute",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Of all its keys and tokens together. Empty: unlimited.",
                        null=True,
                    ),
                ),
                (
                    "max_live_sessions",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Sessions at one time, single runs too. Empty: unlimited.",
                        null=True,
                    ),
                ),
                (
                    "enabled",
                    models.BooleanField(
                        default=True, help_text="Otherwise all its keys and tokens are refused."
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False),
                ),
            ],
            options={
                "ordering": ("name",),
            },
        ),
        migrations.CreateModel(
            name="ClientAllowance",
            fields=[
                (
                    "client",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="allowance",
                        serialize=False,
                        to="sessions_app.client",
                    ),
                ),
                ("permits", models.FloatField()),
                ("counted_at", models.DateTimeField(help_text="When it held so many permits.")),
            ],
        ),
        migrations.AddConstraint(
            model_name="client",
            constraint=models.CheckConstraint(
                condition=models.Q(("name", ""), _negated=True), name="client_has_name"
            ),
        ),
        migrations.AddConstraint(
            model_name="client",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("scopes__contained_by", ["read", "sessions", "execute", "tokens", "metrics"])
                ),
                name="client_scopes_known",
            ),
        ),
        migrations.AddConstraint(
            model_name="client",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("requests_per_minute__isnull", True),
                    ("requests_per_minute__gt", 0),
                    _connector="OR",
                ),
                name="client_rate_above_zero",
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="client",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="keys",
                to="sessions_app.client",
            ),
        ),
        migrations.AddField(
            model_name="session",
            name="client",
            field=models.ForeignKey(
                db_index=False,
                help_text="Whose it is. Null: opened without a key.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="sessions",
                to="sessions_app.client",
            ),
        ),
        migrations.RunSQL(
            [
                _FUNCTION,
                _TRIGGER.format(_CLIENT, "sessions_app_client"),
                _TRIGGER.format(_KEY, "sessions_app_apikey"),
            ],
            [
                "DROP TRIGGER changed ON sessions_app_apikey",
                "DROP TRIGGER changed ON sessions_app_client",
                "DROP FUNCTION code_executor_clients_changed",
            ],
        ),
    ]
