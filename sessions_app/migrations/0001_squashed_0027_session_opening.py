"""All tables of sessions, executions, nodes and clients.

Many of the columns may be null, and many indexes are partial, so that a change of theirs costs an
execution nothing.
"""

import datetime
import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.core.validators
import django.db.models.deletion
import django.utils.timezone
import sessions_app.models.client
import uuid
from django.db import migrations, models


# django-q2's queue table has no index besides its primary key; taking a message needs this one.
_QUEUE_INDEX = "CREATE INDEX IF NOT EXISTS code_executor_queue ON django_q_ormq (key, lock)"

# PostgreSQL analyses a table when a share of it has changed: a fifth of a million rows is late.
_LARGE_TABLES = """
    ALTER TABLE sessions_app_session
        SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
    ALTER TABLE sessions_app_execution
        SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
"""

# The API's processes keep clients and keys in memory, and are notified of each change. Times of use
# and counts of requests are left out: nothing keeps those.
_CLIENTS_CHANGED = """
    CREATE FUNCTION code_executor_clients_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('code_executor_clients', '');
    RETURN NULL;
END
$$;
    CREATE TRIGGER changed AFTER INSERT OR DELETE OR TRUNCATE
        OR UPDATE OF name, scopes, requests_per_minute, max_live_sessions, enabled
        ON sessions_app_client
        FOR EACH STATEMENT EXECUTE FUNCTION code_executor_clients_changed();
    CREATE TRIGGER changed AFTER INSERT OR DELETE OR TRUNCATE
        OR UPDATE OF client_id, prefix, digest, expires_at, revoked_at
        ON sessions_app_apikey
        FOR EACH STATEMENT EXECUTE FUNCTION code_executor_clients_changed();
"""

# By the database, where it costs next to nothing: Django's own cascade would read every execution
# that is deleted.
_EVENTS_OF_EXECUTION = """
    ALTER TABLE sessions_app_event ADD CONSTRAINT event_of_execution
        FOREIGN KEY (execution_id) REFERENCES sessions_app_execution (id) ON DELETE CASCADE
"""

# Workspace queries are written, read once and removed, so they need no log and no standby. Pieces of
# archives are compressed already: trying it again takes longer than writing them.
_WORKSPACE_QUERIES = """
    ALTER TABLE sessions_app_inquiry SET UNLOGGED;
    ALTER TABLE sessions_app_inquirypiece SET UNLOGGED;
    ALTER TABLE sessions_app_inquirypiece ALTER COLUMN data SET STORAGE EXTERNAL;
"""


def begin_counting(apps, schema_editor):
    """What ended before this moment is in no running total."""
    marks = apps.get_model("sessions_app", "TotalMark")
    now = django.utils.timezone.now()
    for name in ("executions", "sessions_opened", "sessions_closed"):
        marks.objects.create(name=name, until=now)


class Migration(migrations.Migration):
    replaces = [
        ("sessions_app", "0001_initial"),
        ("sessions_app", "0002_queue_index"),
        ("sessions_app", "0003_execution_stages"),
        ("sessions_app", "0004_history_indexes"),
        ("sessions_app", "0005_warm_pool"),
        ("sessions_app", "0006_clients"),
        ("sessions_app", "0007_clients_indexes"),
        ("sessions_app", "0008_failed_logins"),
        ("sessions_app", "0009_isolation"),
        ("sessions_app", "0010_runtimes"),
        ("sessions_app", "0011_events"),
        ("sessions_app", "0012_workspace"),
        ("sessions_app", "0013_run_tallies"),
        ("sessions_app", "0014_steering"),
        ("sessions_app", "0015_node_permissions"),
        ("sessions_app", "0016_observation"),
        ("sessions_app", "0017_execution_revision"),
        ("sessions_app", "0018_compile_truncated"),
        ("sessions_app", "0019_queue_bounds"),
        ("sessions_app", "0020_workspace_file"),
        ("sessions_app", "0021_storage"),
        ("sessions_app", "0022_shares"),
        ("sessions_app", "0023_sandbox_uids_and_busy_checks"),
        ("sessions_app", "0024_sandbox_starter"),
        ("sessions_app", "0025_keep_inquiry"),
        ("sessions_app", "0026_clock_ahead"),
        ("sessions_app", "0027_session_opening"),
    ]

    initial = True

    dependencies = [
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
        ("environments_app", "0001_squashed_0004_output_path"),
    ]

    operations = [
        migrations.CreateModel(
            name="Node",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("name", models.CharField(max_length=100, unique=True)),
                (
                    "status",
                    models.CharField(
                        choices=[("active", "active"), ("draining", "draining"), ("lost", "lost")],
                        default="active",
                        max_length=10,
                    ),
                ),
                ("capacity", models.PositiveIntegerField(help_text="Sandboxes at one time.")),
                (
                    "concurrency",
                    models.PositiveIntegerField(help_text="Executions that begin at one time."),
                ),
                (
                    "engine_error",
                    models.TextField(
                        blank=True, help_text="Why its Docker Engine can't be used; empty: it can."
                    ),
                ),
                ("started_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("heartbeat_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "runtimes",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=64),
                        default=list,
                        help_text="OCI runtimes that its Docker Engine knows, the default first.",
                        size=None,
                    ),
                ),
                (
                    "clock_ahead",
                    models.DurationField(
                        default=datetime.timedelta,
                        help_text="How far its clock is ahead of the database's.",
                    ),
                ),
            ],
            options={
                "ordering": ("name",),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("status__in", ["active", "draining", "lost"])),
                        name="node_status_known",
                    )
                ],
                "permissions": (
                    ("drain_node", "Can drain nodes"),
                    ("resume_node", "Can resume nodes"),
                    ("recycle_node", "Can recycle the pools of nodes"),
                ),
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
                        help_text="Sessions at one time, single runs too. Empty: its share by CLIENT_SHARE.",
                        null=True,
                    ),
                ),
                (
                    "enabled",
                    models.BooleanField(
                        default=True, help_text="If not, all its keys and tokens are refused."
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False),
                ),
                (
                    "max_queued_per_client",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Executions that may wait in all its sessions. Empty: MAX_QUEUED_PER_CLIENT.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                    ),
                ),
                (
                    "max_queued_per_session",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Executions that may wait in one session. Empty: MAX_QUEUED_PER_SESSION.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                    ),
                ),
                (
                    "max_storage_per_client",
                    models.BigIntegerField(
                        blank=True,
                        help_text="Bytes of all its sessions' inputs and outputs. Empty: as the setting says.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                    ),
                ),
                (
                    "max_storage_per_session",
                    models.BigIntegerField(
                        blank=True,
                        help_text="Bytes of one session's inputs and outputs. Empty: as the setting says.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                    ),
                ),
            ],
            options={
                "ordering": ("name",),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("name", ""), _negated=True), name="client_has_name"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "scopes__contained_by",
                                ["read", "sessions", "execute", "tokens", "metrics"],
                            )
                        ),
                        name="client_scopes_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("requests_per_minute__isnull", True),
                            ("requests_per_minute__gt", 0),
                            _connector="OR",
                        ),
                        name="client_rate_above_zero",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("max_queued_per_session__isnull", True),
                            ("max_queued_per_session__gt", 0),
                            _connector="OR",
                        ),
                        name="client_queued_per_session_above_zero",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("max_queued_per_client__isnull", True),
                            ("max_queued_per_client__gt", 0),
                            _connector="OR",
                        ),
                        name="client_queued_above_zero",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("max_storage_per_session__isnull", True),
                            ("max_storage_per_session__gt", 0),
                            _connector="OR",
                        ),
                        name="client_storage_per_session_above_zero",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("max_storage_per_client__isnull", True),
                            ("max_storage_per_client__gt", 0),
                            _connector="OR",
                        ),
                        name="client_storage_above_zero",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="FailedLogin",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "username",
                    models.CharField(
                        help_text="As it was typed; there may be no such user.", max_length=150
                    ),
                ),
                (
                    "address",
                    models.CharField(
                        help_text="IP address; of IPv6, its /64 network.", max_length=45
                    ),
                ),
                ("tried_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "forgiven",
                    models.BooleanField(
                        default=False,
                        help_text="An operator unlocked the login, so it no longer counts.",
                    ),
                ),
            ],
            options={
                "ordering": ["-tried_at"],
                "indexes": [
                    models.Index(fields=["address", "tried_at"], name="failed_login_of_address"),
                    models.Index(fields=["tried_at"], name="failed_login_by_time"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Inquiry",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("session_id", models.UUIDField()),
                (
                    "about",
                    models.CharField(
                        choices=[
                            ("files", "what files there are"),
                            ("file", "one file"),
                            ("archive", "all files"),
                            ("figures", "what is used now"),
                            ("keep", "to live as long as its session"),
                        ],
                        max_length=10,
                    ),
                ),
                ("path", models.TextField(blank=True)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("asked", "asked"),
                            ("taken", "taken"),
                            ("answered", "answered"),
                            ("refused", "refused"),
                        ],
                        default="asked",
                        max_length=10,
                    ),
                ),
                ("asked_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("answer", models.JSONField(null=True)),
                ("code", models.CharField(blank=True, max_length=40)),
                ("reason", models.TextField(blank=True)),
            ],
            options={
                "verbose_name_plural": "inquiries",
                "default_permissions": (),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("answer__isnull", True),
                                ("code", ""),
                                ("status__in", ["asked", "taken"]),
                            ),
                            models.Q(
                                ("answer__isnull", False), ("code", ""), ("status", "answered")
                            ),
                            models.Q(
                                ("answer__isnull", True),
                                ("status", "refused"),
                                models.Q(("code", ""), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="inquiry_answer_fits_status",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="InquiryPiece",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("inquiry_id", models.UUIDField()),
                ("number", models.PositiveIntegerField()),
                ("data", models.BinaryField()),
                ("written_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("inquiry_id", "number"), name="inquiry_piece_number"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="RunTally",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "lasts",
                    models.DurationField(help_text="A minute, a quarter of an hour, or an hour."),
                ),
                ("begins_at", models.DateTimeField()),
                (
                    "counts",
                    models.JSONField(
                        help_text="How often each verdict; how many runs' stages took so long; how many sessions of each environment were opened warm, and cold."
                    ),
                ),
                (
                    "settled",
                    models.BooleanField(
                        default=False,
                        help_text="Of a minute: all of it has ended, and it is over for good.",
                    ),
                ),
                ("counted_at", models.DateTimeField()),
            ],
            options={
                "verbose_name_plural": "run tallies",
                "default_permissions": (),
                "indexes": [
                    models.Index(
                        condition=models.Q(
                            ("lasts", datetime.timedelta(seconds=60)), ("settled", False)
                        ),
                        fields=["begins_at"],
                        name="run_tally_unsettled",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("lasts", "begins_at"), name="run_tally_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="ApiProcess",
            fields=[
                (
                    "name",
                    models.CharField(
                        help_text="Host and process id.",
                        max_length=200,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("started_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("seen_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "listening",
                    models.BooleanField(help_text="It receives the database's notifications."),
                ),
                (
                    "requests",
                    models.PositiveIntegerField(
                        help_text="That it is answering, streams included."
                    ),
                ),
                ("streams", models.PositiveIntegerField()),
                (
                    "waiting",
                    models.PositiveIntegerField(help_text="Executions whose result it waits for."),
                ),
                (
                    "threads",
                    models.PositiveIntegerField(help_text="That use the database, at most."),
                ),
                (
                    "work_waiting",
                    models.PositiveIntegerField(help_text="Pieces of work that wait for a thread."),
                ),
                (
                    "connections",
                    models.PositiveIntegerField(help_text="Of the event loop to the database."),
                ),
                ("connections_idle", models.PositiveIntegerField()),
                ("memory_bytes", models.PositiveBigIntegerField()),
            ],
            options={
                "verbose_name_plural": "API processes",
            },
        ),
        migrations.CreateModel(
            name="Total",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=64)),
                (
                    "labels",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=200), size=None
                    ),
                ),
                ("count", models.BigIntegerField(default=0)),
                ("seconds", models.FloatField(default=0.0)),
                (
                    "buckets",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(), default=list, size=None
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "totals",
                "constraints": [
                    models.UniqueConstraint(fields=("name", "labels"), name="total_one_each")
                ],
            },
        ),
        migrations.CreateModel(
            name="TotalMark",
            fields=[
                ("name", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("until", models.DateTimeField()),
                (
                    "left",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.UUIDField(), default=list, size=None
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Sandbox",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[("warming", "warming"), ("idle", "idle"), ("in_use", "in use")],
                        max_length=10,
                    ),
                ),
                ("container_id", models.CharField(blank=True, max_length=64)),
                ("image_id", models.CharField(blank=True, max_length=100)),
                ("token", models.CharField(blank=True, editable=False, max_length=64)),
                ("workspace_dir", models.CharField(blank=True, max_length=255)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "lease_expires_at",
                    models.DateTimeField(
                        help_text="While it is warming: when its worker counts as dead.",
                        null=True,
                    ),
                ),
                (
                    "environment",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="sandboxes",
                        to="environments_app.environment",
                    ),
                ),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="sandboxes",
                        to="sessions_app.node",
                    ),
                ),
                (
                    "revision",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="sandboxes",
                        to="environments_app.environmentrevision",
                    ),
                ),
                (
                    "asked_at",
                    models.DateTimeField(
                        help_text="While it is idle: when its runner was last asked for an answer.",
                        null=True,
                    ),
                ),
                (
                    "uid",
                    models.PositiveIntegerField(
                        help_text="User number of its programs. Empty: the one in its image.",
                        null=True,
                    ),
                ),
                (
                    "starter",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="Node and process id of the process that starts it, or has done so.",
                        max_length=120,
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "sandboxes",
                "ordering": ("-created_at",),
                "indexes": [
                    models.Index(
                        condition=models.Q(("status", "idle")),
                        fields=["environment", "created_at"],
                        name="sandbox_idle",
                    )
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("status__in", ["warming", "idle", "in_use"])),
                        name="sandbox_status_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("status", "idle"), _negated=True),
                            models.Q(
                                models.Q(("container_id", ""), _negated=True),
                                models.Q(("token", ""), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="sandbox_idle_is_started",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("status", "warming"), _negated=True),
                            ("lease_expires_at__isnull", False),
                            _connector="OR",
                        ),
                        name="sandbox_warming_has_lease",
                    ),
                    models.UniqueConstraint(
                        fields=("node", "uid"), name="sandbox_uid_once_on_a_node"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="IsolationCheck",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("image_id", models.CharField(blank=True, max_length=100)),
                ("runtime", models.CharField(max_length=64)),
                (
                    "complete",
                    models.BooleanField(
                        default=True, help_text="Whether all attacks that apply were tried."
                    ),
                ),
                ("queued_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                ("held", models.PositiveIntegerField(default=0)),
                ("escaped", models.PositiveIntegerField(default=0)),
                ("inconclusive", models.PositiveIntegerField(default=0)),
                (
                    "error",
                    models.TextField(blank=True, help_text="Why it could not be completed."),
                ),
                (
                    "environment",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="isolation_checks",
                        to="environments_app.environment",
                    ),
                ),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="isolation_checks",
                        to="sessions_app.node",
                    ),
                ),
                (
                    "revision",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="environments_app.environmentrevision",
                    ),
                ),
                (
                    "busy",
                    models.PositiveIntegerField(
                        db_default=0,
                        default=0,
                        help_text="Attacks during which programs were slow.",
                    ),
                ),
                (
                    "notes",
                    models.TextField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="What weakens every sandbox on its host, a line each.",
                    ),
                ),
            ],
            options={
                "ordering": ("-queued_at",),
                "indexes": [
                    models.Index(
                        fields=["environment", "node", "runtime", "-finished_at"],
                        name="isolation_last",
                    )
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("finished_at", None), ("started_at__isnull", False), _connector="OR"
                        ),
                        name="isolation_finished_was_started",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("finished_at", None), ("started_at", None)),
                        fields=("node", "environment", "runtime"),
                        name="isolation_queued_once",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Session",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "pending"),
                            ("creating", "creating"),
                            ("ready", "ready"),
                            ("executing", "executing"),
                            ("stopping", "stopping"),
                            ("stopped", "stopped"),
                            ("error", "error"),
                        ],
                        default="pending",
                        max_length=10,
                    ),
                ),
                (
                    "one_shot",
                    models.BooleanField(
                        default=False, help_text="Made for one run, and stopped after it."
                    ),
                ),
                ("metadata", models.JSONField(blank=True, default=dict)),
                ("ttl_seconds", models.PositiveIntegerField()),
                ("container_id", models.CharField(blank=True, max_length=64)),
                (
                    "starts",
                    models.PositiveSmallIntegerField(
                        default=0,
                        help_text="Attempts to start a sandbox for it since it was last ready.",
                    ),
                ),
                ("last_sequence", models.PositiveIntegerField(default=0)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("ready_at", models.DateTimeField(null=True)),
                ("last_activity_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("last_execution_at", models.DateTimeField(null=True)),
                ("expires_at", models.DateTimeField()),
                ("closed_at", models.DateTimeField(null=True)),
                (
                    "lease_expires_at",
                    models.DateTimeField(
                        help_text="While it is pending or creating: when another worker starts it.",
                        null=True,
                    ),
                ),
                (
                    "stop_reason",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("client", "stopped by the client"),
                            ("expired", "expired"),
                            ("finished", "its one run is done"),
                            ("operator", "stopped by an operator"),
                        ],
                        max_length=10,
                    ),
                ),
                ("error_reason", models.TextField(blank=True)),
                (
                    "environment",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="sessions",
                        to="environments_app.environment",
                    ),
                ),
                (
                    "node",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="sessions",
                        to="sessions_app.node",
                    ),
                ),
                (
                    "revision",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="sessions",
                        to="environments_app.environmentrevision",
                    ),
                ),
                (
                    "warm",
                    models.BooleanField(
                        help_text="Opened on a warm sandbox. Null: opened before this was recorded.",
                        null=True,
                    ),
                ),
                (
                    "client",
                    models.ForeignKey(
                        db_index=False,
                        help_text="The client that opened it. Null: opened without a key.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="sessions",
                        to="sessions_app.client",
                    ),
                ),
                (
                    "runtime",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="OCI runtime that its client asked for. Empty: the environment's.",
                        max_length=64,
                    ),
                ),
                (
                    "workspace_since",
                    models.DateTimeField(
                        help_text="When its workspace was new and empty; files from before that are gone. Null: it has none yet.",
                        null=True,
                    ),
                ),
                (
                    "storage_counted",
                    models.BooleanField(
                        db_default=False,
                        default=False,
                        help_text="It has ended, and its bytes are among those of its client's closed sessions.",
                    ),
                ),
                (
                    "stored_bytes",
                    models.BigIntegerField(
                        db_default=0,
                        default=0,
                        help_text="What is kept of its executions' inputs and outputs.",
                    ),
                ),
                (
                    "opening",
                    models.UUIDField(
                        editable=False,
                        help_text="Identifies the call that opened it, which learns the session's id from the answer only: a warm session has its sandbox's.",
                        null=True,
                    ),
                ),
            ],
            options={
                "ordering": ("-created_at",),
                "indexes": [
                    models.Index(fields=["-created_at", "id"], name="session_newest"),
                    models.Index(
                        condition=models.Q(("closed_at__isnull", True)),
                        fields=["node"],
                        name="session_live",
                    ),
                    models.Index(
                        fields=["environment", "-created_at", "id"], name="session_environment"
                    ),
                    models.Index(fields=["node", "-created_at", "id"], name="session_node"),
                    models.Index(
                        condition=models.Q(("error_reason", ""), _negated=True),
                        fields=["-created_at", "id"],
                        name="session_error",
                    ),
                    django.contrib.postgres.indexes.GinIndex(
                        fastupdate=False,
                        fields=["metadata"],
                        name="session_metadata",
                        opclasses=["jsonb_path_ops"],
                    ),
                    models.Index(
                        condition=models.Q(("closed_at__isnull", True)),
                        fields=["client"],
                        name="session_client_live",
                    ),
                    models.Index(fields=["client", "-created_at", "id"], name="session_client"),
                    models.Index(
                        condition=models.Q(("closed_at__isnull", False)),
                        fields=["closed_at"],
                        name="session_closed",
                    ),
                    models.Index(
                        condition=models.Q(("storage_counted", False)),
                        fields=["client"],
                        name="session_uncounted",
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "status__in",
                                [
                                    "pending",
                                    "creating",
                                    "ready",
                                    "executing",
                                    "stopping",
                                    "stopped",
                                    "error",
                                ],
                            )
                        ),
                        name="session_status_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("closed_at__isnull", False), ("status__in", ("stopped", "error"))
                            ),
                            models.Q(
                                ("closed_at__isnull", True),
                                (
                                    "status__in",
                                    ("pending", "creating", "ready", "executing", "stopping"),
                                ),
                            ),
                            _connector="OR",
                        ),
                        name="session_closed_has_time",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("status", "error"), _negated=True),
                            models.Q(("error_reason", ""), _negated=True),
                            _connector="OR",
                        ),
                        name="session_error_has_reason",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("status__in", ["stopping", "stopped"]), _negated=True),
                            models.Q(("stop_reason", ""), _negated=True),
                            _connector="OR",
                        ),
                        name="session_stop_has_reason",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("status__in", ["creating", "ready", "executing"]), _negated=True
                            ),
                            ("node__isnull", False),
                            _connector="OR",
                        ),
                        name="session_started_has_node",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("status__in", ["pending", "creating"]), _negated=True),
                            ("lease_expires_at__isnull", False),
                            _connector="OR",
                        ),
                        name="session_start_has_lease",
                    ),
                ],
                "permissions": [
                    ("stop_session", "Can stop sessions"),
                    ("read_workspace", "Can read the files of a session's workspace"),
                    ("extend_session", "Can give a session more or less time"),
                    ("reset_session", "Can empty a session's workspace"),
                ],
            },
        ),
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
                        help_text="To the minute, because not every use is recorded.",
                        null=True,
                    ),
                ),
                (
                    "client",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="keys",
                        to="sessions_app.client",
                    ),
                ),
            ],
            options={
                "verbose_name": "API key",
                "ordering": ("-created_at", "id"),
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
        migrations.CreateModel(
            name="ClientStorage",
            fields=[
                (
                    "client",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="storage",
                        serialize=False,
                        to="sessions_app.client",
                    ),
                ),
                (
                    "closed_bytes",
                    models.BigIntegerField(help_text="Of sessions that are `storage_counted`."),
                ),
                (
                    "used_bytes",
                    models.BigIntegerField(
                        help_text="Of all sessions, when they were counted last."
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="AttackResult",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("attack", models.CharField(max_length=64)),
                ("group", models.CharField(max_length=32)),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("held", "held"),
                            ("escaped", "escaped"),
                            ("inconclusive", "inconclusive"),
                            ("busy", "the host is busy: not proven"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "detail",
                    models.TextField(blank=True, help_text="What it was refused, or could do."),
                ),
                ("seconds", models.FloatField(help_text="Including the checks after it.")),
                (
                    "answer_seconds",
                    models.FloatField(
                        help_text="The slowest program of another sandbox, during and after it."
                    ),
                ),
                (
                    "isolation_check",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="results",
                        to="sessions_app.isolationcheck",
                    ),
                ),
            ],
            options={
                "ordering": ("pk",),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("isolation_check", "attack"), name="attack_result_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("outcome__in", ["held", "escaped", "inconclusive", "busy"])
                        ),
                        name="attack_result_outcome_known",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Execution",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "sequence",
                    models.PositiveIntegerField(help_text="1, 2, 3 … within its session."),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("queued", "queued"),
                            ("running", "running"),
                            ("completed", "completed"),
                            ("error", "error"),
                            ("cancelled", "cancelled"),
                        ],
                        default="queued",
                        max_length=10,
                    ),
                ),
                ("code", models.TextField()),
                ("filename", models.CharField(max_length=255)),
                ("stdin", models.BinaryField(default=bytes)),
                ("args", models.JSONField(default=list)),
                ("env", models.JSONField(default=dict)),
                (
                    "files",
                    models.JSONField(
                        default=dict,
                        help_text='Path to text, or to {"base64": "..."}, besides the code.',
                    ),
                ),
                ("timeout_seconds", models.FloatField()),
                (
                    "verdict",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("ok", "ok"),
                            ("runtime_error", "runtime error"),
                            ("compile_error", "compile error"),
                            ("time_limit", "time limit"),
                            ("memory_limit", "memory limit"),
                            ("output_limit", "output limit"),
                            ("cancelled", "cancelled"),
                            ("internal_error", "internal error"),
                        ],
                        max_length=20,
                    ),
                ),
                ("exit_code", models.IntegerField(null=True)),
                ("signal", models.CharField(blank=True, max_length=20)),
                ("stdout", models.BinaryField(default=bytes)),
                ("stderr", models.BinaryField(default=bytes)),
                ("stdout_truncated", models.BooleanField(default=False)),
                ("stderr_truncated", models.BooleanField(default=False)),
                ("wall_seconds", models.FloatField(null=True)),
                ("cpu_seconds", models.FloatField(null=True)),
                ("memory_peak_bytes", models.BigIntegerField(null=True)),
                ("compile_exit_code", models.IntegerField(null=True)),
                ("compile_stdout", models.BinaryField(default=bytes)),
                ("compile_stderr", models.BinaryField(default=bytes)),
                ("compile_wall_seconds", models.FloatField(null=True)),
                ("error_reason", models.TextField(blank=True)),
                (
                    "worker",
                    models.CharField(blank=True, help_text="Node and process id.", max_length=120),
                ),
                ("queued_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "started_at",
                    models.DateTimeField(
                        help_text="When the program or its compiler began.", null=True
                    ),
                ),
                (
                    "finished_at",
                    models.DateTimeField(help_text="When the result was stored.", null=True),
                ),
                ("lease_expires_at", models.DateTimeField(null=True)),
                (
                    "session",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="executions",
                        to="sessions_app.session",
                    ),
                ),
                (
                    "claimed_at",
                    models.DateTimeField(help_text="When a node's executor claimed it.", null=True),
                ),
                (
                    "received_at",
                    models.DateTimeField(help_text="When the API received the request.", null=True),
                ),
                (
                    "cancel_requested_at",
                    models.DateTimeField(
                        help_text="When its worker was asked to end it.", null=True
                    ),
                ),
                (
                    "repeats",
                    models.UUIDField(
                        help_text="Id of the execution whose input is run again.",
                        null=True,
                    ),
                ),
                (
                    "request_id",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="Of the HTTP request that asked for it; the log's lines about it have it too.",
                        max_length=64,
                    ),
                ),
                (
                    "revision",
                    models.ForeignKey(
                        db_index=False,
                        help_text="The environment's revision, and so the image, that it ran in.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="environments_app.environmentrevision",
                    ),
                ),
                ("compile_stderr_truncated", models.BooleanField(db_default=False, default=False)),
                ("compile_stdout_truncated", models.BooleanField(db_default=False, default=False)),
                (
                    "keeps_file",
                    models.BooleanField(
                        db_default=False,
                        default=False,
                        help_text="The workspace's own file of that name is run.",
                    ),
                ),
            ],
            options={
                "ordering": ("-queued_at",),
                "indexes": [
                    models.Index(
                        condition=models.Q(("status", "queued")),
                        fields=["session", "sequence"],
                        name="execution_queued",
                    ),
                    models.Index(fields=["-queued_at", "id"], name="execution_newest"),
                    models.Index(
                        condition=models.Q(("verdict__in", ["", "ok"]), _negated=True),
                        fields=["verdict", "-queued_at", "id"],
                        name="execution_not_ok",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("session", "sequence"), name="execution_sequence"
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("status", "running")),
                        fields=("session",),
                        name="execution_one_at_a_time",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("finished_at__isnull", True), ("status__in", ("queued", "running"))
                            ),
                            models.Q(
                                ("finished_at__isnull", False),
                                ("status__in", ("completed", "error", "cancelled")),
                            ),
                            _connector="OR",
                        ),
                        name="execution_finished_has_time",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("started_at__isnull", True), ("status", "queued")),
                            models.Q(
                                ("lease_expires_at__isnull", False),
                                ("started_at__isnull", False),
                                ("status", "running"),
                            ),
                            ("status__in", ("completed", "error", "cancelled")),
                            _connector="OR",
                        ),
                        name="execution_running_has_lease",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("exit_code__isnull", False),
                                ("status", "completed"),
                                (
                                    "verdict__in",
                                    (
                                        "ok",
                                        "runtime_error",
                                        "compile_error",
                                        "time_limit",
                                        "memory_limit",
                                        "output_limit",
                                    ),
                                ),
                            ),
                            models.Q(
                                ("status", "error"),
                                ("verdict", "internal_error"),
                                models.Q(("error_reason", ""), _negated=True),
                            ),
                            models.Q(("status", "cancelled"), ("verdict", "cancelled")),
                            models.Q(("status__in", ("queued", "running")), ("verdict", "")),
                            _connector="OR",
                        ),
                        name="execution_verdict_fits_status",
                    ),
                ],
                "permissions": [
                    ("cancel_execution", "Can cancel execution"),
                    ("run_again_execution", "Can run an execution's input again"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Event",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "execution_id",
                        "number",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "execution",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="events",
                        to="sessions_app.execution",
                    ),
                ),
                (
                    "number",
                    models.PositiveIntegerField(help_text="1, 2, 3 … within its execution."),
                ),
                (
                    "stage",
                    models.CharField(
                        choices=[("compile", "compile"), ("run", "run")], max_length=7
                    ),
                ),
                (
                    "stream",
                    models.CharField(
                        choices=[("stdout", "stdout"), ("stderr", "stderr")], max_length=6
                    ),
                ),
                (
                    "start",
                    models.PositiveIntegerField(
                        help_text="Bytes before it in its stage and stream."
                    ),
                ),
                ("data", models.BinaryField(help_text="Ends between two characters of UTF-8.")),
            ],
            options={
                "ordering": ("execution", "number"),
                "default_permissions": (),
            },
        ),
        migrations.RunSQL(
            [
                _QUEUE_INDEX,
                _LARGE_TABLES,
                _CLIENTS_CHANGED,
                _EVENTS_OF_EXECUTION,
                _WORKSPACE_QUERIES,
            ],
            [
                "DROP INDEX code_executor_queue",
                "DROP FUNCTION code_executor_clients_changed CASCADE",
            ],
        ),
        migrations.RunPython(begin_counting, migrations.RunPython.noop),
    ]
