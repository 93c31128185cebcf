"""Environments, their revisions and builds."""

import django.db.models.deletion
import django.utils.timezone
import environments_app.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    replaces = [
        ("environments_app", "0001_initial"),
        ("environments_app", "0002_builds"),
        ("environments_app", "0003_revision_cause"),
        ("environments_app", "0004_output_path"),
    ]

    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Environment",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "name",
                    models.CharField(
                        help_text="What clients call it, and the name of its folder in environments/: lower-case letters, digits and dashes.",
                        max_length=63,
                        unique=True,
                        validators=[environments_app.validators.name],
                    ),
                ),
                (
                    "description",
                    models.CharField(blank=True, help_text="Shown to clients.", max_length=1000),
                ),
                (
                    "enabled",
                    models.BooleanField(
                        default=True,
                        help_text="Off: no new sessions in it; open ones continue.",
                    ),
                ),
                (
                    "is_default",
                    models.BooleanField(
                        default=False,
                        help_text="Used where a client names no environment. Only one can be the default.",
                        verbose_name="default",
                    ),
                ),
                (
                    "image",
                    models.CharField(
                        help_text="Image without the prefix of DOCKER_IMAGE_PREFIX: python is the image code-executor-python.",
                        max_length=200,
                        validators=[environments_app.validators.image],
                    ),
                ),
                (
                    "default_filename",
                    models.CharField(
                        help_text="Where the code goes when a client names no file, such as main.py.",
                        max_length=200,
                        validators=[environments_app.validators.filename],
                    ),
                ),
                (
                    "file_extension",
                    models.CharField(
                        help_text="Extension of its source files, with the dot.",
                        max_length=20,
                        validators=[environments_app.validators.extension],
                    ),
                ),
                (
                    "run_command",
                    models.CharField(
                        help_text='Runs the program. {file_path} is /workspace/main.py, {filename} main.py, {output_path} where a compiled program goes. Several steps: sh -c "first && second".',
                        max_length=2000,
                        validators=[environments_app.validators.command],
                    ),
                ),
                (
                    "compile_command",
                    models.CharField(
                        blank=True,
                        help_text="Runs first, with the same placeholders; when it fails, the verdict is compile_error. Empty: nothing to compile.",
                        max_length=2000,
                        validators=[environments_app.validators.command],
                    ),
                ),
                (
                    "workspace_dir",
                    models.CharField(
                        default="/workspace",
                        help_text="Where the files of a session are, and where programs start.",
                        max_length=200,
                        validators=[environments_app.validators.workspace_dir],
                    ),
                ),
                (
                    "executor_user",
                    models.CharField(
                        default="executor",
                        help_text="User of the image that programs run as; root is refused.",
                        max_length=32,
                        validators=[environments_app.validators.user],
                    ),
                ),
                (
                    "runtime",
                    models.CharField(
                        blank=True,
                        help_text="OCI runtime, such as runsc (gVisor). Empty: the Docker Engine's default.",
                        max_length=100,
                        validators=[environments_app.validators.runtime],
                    ),
                ),
                (
                    "network",
                    models.BooleanField(
                        blank=True,
                        choices=[
                            (None, "As set by NETWORK_DISABLED"),
                            (True, "Yes"),
                            (False, "No"),
                        ],
                        help_text="Whether programs reach the network.",
                        null=True,
                    ),
                ),
                (
                    "warm_pool_size",
                    models.PositiveSmallIntegerField(
                        default=1,
                        help_text="Sandboxes that each node keeps started, so that a session is ready at once. 0 to 100.",
                    ),
                ),
                (
                    "memory_bytes",
                    models.BigIntegerField(blank=True, null=True, verbose_name="memory"),
                ),
                ("cpus", models.FloatField(blank=True, null=True, verbose_name="CPUs")),
                (
                    "pids",
                    models.PositiveIntegerField(blank=True, null=True, verbose_name="processes"),
                ),
                (
                    "timeout_seconds",
                    models.FloatField(blank=True, null=True, verbose_name="time-out (s)"),
                ),
                (
                    "tmpfs_bytes",
                    models.BigIntegerField(blank=True, null=True, verbose_name="workspace size"),
                ),
                (
                    "output_bytes",
                    models.BigIntegerField(blank=True, null=True, verbose_name="output"),
                ),
                (
                    "max_memory_bytes",
                    models.BigIntegerField(blank=True, null=True, verbose_name="maximum memory"),
                ),
                ("max_cpus", models.FloatField(blank=True, null=True, verbose_name="maximum CPUs")),
                (
                    "max_pids",
                    models.PositiveIntegerField(
                        blank=True, null=True, verbose_name="maximum processes"
                    ),
                ),
                (
                    "max_timeout_seconds",
                    models.FloatField(blank=True, null=True, verbose_name="maximum time-out (s)"),
                ),
                (
                    "max_tmpfs_bytes",
                    models.BigIntegerField(
                        blank=True, null=True, verbose_name="maximum workspace size"
                    ),
                ),
                (
                    "max_output_bytes",
                    models.BigIntegerField(blank=True, null=True, verbose_name="maximum output"),
                ),
                (
                    "seeded",
                    models.JSONField(
                        editable=False,
                        help_text="The values last taken from the file. Where the row differs from them, an operator changed it, and seeding keeps it. Null: not from the file.",
                        null=True,
                    ),
                ),
                (
                    "seeded_as_default",
                    models.BooleanField(
                        default=False,
                        editable=False,
                        help_text="Whether the file last named it the default.",
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("smoke_exit_code", models.PositiveSmallIntegerField(default=0)),
                (
                    "smoke_program",
                    models.TextField(
                        blank=True,
                        help_text="A program that every image must run before it is promoted. Empty: none.",
                        validators=[environments_app.validators.no_nul],
                    ),
                ),
                (
                    "smoke_stdout",
                    models.TextField(
                        blank=True,
                        help_text="What it must print, exactly.",
                        validators=[environments_app.validators.no_nul],
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("name__regex", "^[a-z0-9]+(-[a-z0-9]+)*$")),
                        name="environment_name",
                        violation_error_message="The name must be lower-case letters and digits, with single dashes between them, 63 at most.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "image__regex",
                                "^[a-z0-9]+([._-][a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?$",
                            )
                        ),
                        name="environment_image",
                        violation_error_message="The image must be lower-case letters and digits with single separators, such as python-ml, and a tag.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("run_command", ""), _negated=True),
                            models.Q(("default_filename", ""), _negated=True),
                            models.Q(("file_extension", ""), _negated=True),
                        ),
                        name="environment_can_run",
                        violation_error_message="A run command, a file name and an extension are needed.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("workspace_dir__startswith", "/"),
                            models.Q(("workspace_dir", "/"), _negated=True),
                        ),
                        name="environment_workspace_dir",
                        violation_error_message="The workspace must be an absolute path.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("executor_user__in", ["", "root", "0"]), _negated=True),
                        name="environment_executor_user",
                        violation_error_message="Programs can't run as root.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("warm_pool_size__lte", 100)),
                        name="environment_warm_pool_size",
                        violation_error_message="The warm pool holds 100 at most.",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("is_default", True)),
                        fields=("is_default",),
                        name="environment_one_default",
                        violation_error_message="Another environment is the default already.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("memory_bytes__isnull", True),
                                ("memory_bytes__gt", 0),
                                _connector="OR",
                            ),
                            models.Q(
                                ("max_memory_bytes__isnull", True),
                                ("max_memory_bytes__gt", 0),
                                _connector="OR",
                            ),
                            models.Q(
                                ("memory_bytes__isnull", True),
                                ("max_memory_bytes__isnull", True),
                                ("memory_bytes__lte", models.F("max_memory_bytes")),
                                _connector="OR",
                            ),
                        ),
                        name="environment_memory_bytes",
                        violation_error_message="memory: positive, and the limit within its maximum.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("cpus__isnull", True), ("cpus__gt", 0), _connector="OR"),
                            models.Q(
                                ("max_cpus__isnull", True), ("max_cpus__gt", 0), _connector="OR"
                            ),
                            models.Q(
                                ("cpus__isnull", True),
                                ("max_cpus__isnull", True),
                                ("cpus__lte", models.F("max_cpus")),
                                _connector="OR",
                            ),
                        ),
                        name="environment_cpus",
                        violation_error_message="cpu: positive, and the limit within its maximum.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("pids__isnull", True), ("pids__gt", 0), _connector="OR"),
                            models.Q(
                                ("max_pids__isnull", True), ("max_pids__gt", 0), _connector="OR"
                            ),
                            models.Q(
                                ("pids__isnull", True),
                                ("max_pids__isnull", True),
                                ("pids__lte", models.F("max_pids")),
                                _connector="OR",
                            ),
                        ),
                        name="environment_pids",
                        violation_error_message="pids: positive, and the limit within its maximum.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("timeout_seconds__isnull", True),
                                ("timeout_seconds__gt", 0),
                                _connector="OR",
                            ),
                            models.Q(
                                ("max_timeout_seconds__isnull", True),
                                ("max_timeout_seconds__gt", 0),
                                _connector="OR",
                            ),
                            models.Q(
                                ("timeout_seconds__isnull", True),
                                ("max_timeout_seconds__isnull", True),
                                ("timeout_seconds__lte", models.F("max_timeout_seconds")),
                                _connector="OR",
                            ),
                        ),
                        name="environment_timeout_seconds",
                        violation_error_message="timeout: positive, and the limit within its maximum.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("tmpfs_bytes__isnull", True),
                                ("tmpfs_bytes__gt", 0),
                                _connector="OR",
                            ),
                            models.Q(
                                ("max_tmpfs_bytes__isnull", True),
                                ("max_tmpfs_bytes__gt", 0),
                                _connector="OR",
                            ),
                            models.Q(
                                ("tmpfs_bytes__isnull", True),
                                ("max_tmpfs_bytes__isnull", True),
                                ("tmpfs_bytes__lte", models.F("max_tmpfs_bytes")),
                                _connector="OR",
                            ),
                        ),
                        name="environment_tmpfs_bytes",
                        violation_error_message="tmpfs: positive, and the limit within its maximum.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("output_bytes__isnull", True),
                                ("output_bytes__gt", 0),
                                _connector="OR",
                            ),
                            models.Q(
                                ("max_output_bytes__isnull", True),
                                ("max_output_bytes__gt", 0),
                                _connector="OR",
                            ),
                            models.Q(
                                ("output_bytes__isnull", True),
                                ("max_output_bytes__isnull", True),
                                ("output_bytes__lte", models.F("max_output_bytes")),
                                _connector="OR",
                            ),
                        ),
                        name="environment_output_bytes",
                        violation_error_message="output: positive, and the limit within its maximum.",
                    ),
                ],
                "permissions": [
                    ("edit_dockerfile", "Can edit the Dockerfile of an environment"),
                    ("build_environment", "Can build images of environments"),
                    ("promote_environment", "Can promote and roll back environments"),
                ],
            },
        ),
        migrations.CreateModel(
            name="EnvironmentBuild",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("dockerfile", models.TextField(editable=False)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "environment",
                    models.ForeignKey(
                        editable=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="builds",
                        to="environments_app.environment",
                    ),
                ),
            ],
            options={
                "verbose_name": "build",
                "ordering": ["-pk"],
            },
        ),
        migrations.AddField(
            model_name="environment",
            name="build",
            field=models.ForeignKey(
                editable=False,
                help_text="The promoted build. Null: its image is built from its folder.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="environments_app.environmentbuild",
            ),
        ),
        migrations.CreateModel(
            name="EnvironmentRevision",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "number",
                    models.PositiveIntegerField(
                        editable=False, help_text="1, 2, 3 … per environment."
                    ),
                ),
                (
                    "node",
                    models.CharField(
                        editable=False,
                        help_text="Name of the worker node whose image it is: each builds its own.",
                        max_length=100,
                    ),
                ),
                (
                    "image_id",
                    models.CharField(editable=False, help_text="Digest: sha256:…", max_length=100),
                ),
                (
                    "size_bytes",
                    models.BigIntegerField(editable=False, help_text="Size of the image."),
                ),
                (
                    "definition",
                    models.JSONField(
                        editable=False,
                        help_text="Commands and limits as they were: Environment.definition().",
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "environment",
                    models.ForeignKey(
                        editable=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="revisions",
                        to="environments_app.environment",
                    ),
                ),
                (
                    "columns",
                    models.JSONField(
                        editable=False,
                        help_text="Environment.defining_columns(): what a roll back restores.",
                        null=True,
                    ),
                ),
                (
                    "build",
                    models.ForeignKey(
                        editable=False,
                        help_text="Where its image comes from. Null: from the environment's folder.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="revisions",
                        to="environments_app.environmentbuild",
                    ),
                ),
                (
                    "cause",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        editable=False,
                        help_text="What made it, where that was neither a build of the folder nor a change.",
                        max_length=100,
                    ),
                ),
            ],
            options={
                "ordering": ["environment", "-number"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("environment", "number"), name="environment_revision_number"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("number__gte", 1)),
                        name="environment_revision_number_from_1",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("image_id", ""), _negated=True), ("size_bytes__gte", 0)
                        ),
                        name="environment_revision_image",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="NodeBuild",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("node", models.CharField(max_length=100)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("queued", "queued"),
                            ("running", "running"),
                            ("passed", "passed"),
                            ("failed", "failed"),
                            ("cancelled", "cancelled"),
                        ],
                        default="queued",
                        max_length=10,
                    ),
                ),
                (
                    "image_id",
                    models.CharField(
                        blank=True, help_text="Empty before it is built.", max_length=100
                    ),
                ),
                ("size_bytes", models.BigIntegerField(default=0)),
                ("reason", models.TextField(blank=True, help_text="Why it failed.")),
                ("queued_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("started_at", models.DateTimeField(null=True)),
                (
                    "beat_at",
                    models.DateTimeField(
                        help_text="The last sign of life of its process.", null=True
                    ),
                ),
                ("finished_at", models.DateTimeField(null=True)),
                ("cancel_requested_at", models.DateTimeField(null=True)),
                ("image_removed_at", models.DateTimeField(null=True)),
                (
                    "build",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="nodes",
                        to="environments_app.environmentbuild",
                    ),
                ),
            ],
            options={
                "ordering": ["node"],
                "constraints": [
                    models.UniqueConstraint(fields=("build", "node"), name="node_build_once"),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("finished_at", None), ("status__in", ["queued", "running"])),
                            models.Q(
                                ("finished_at__isnull", False),
                                ("status__in", ["passed", "failed", "cancelled"]),
                            ),
                            _connector="OR",
                        ),
                        name="node_build_finished_has_time",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("status", "passed"), _negated=True),
                            models.Q(("image_id", ""), _negated=True),
                            _connector="OR",
                        ),
                        name="node_build_passed_has_image",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="BuildOutput",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("text", models.TextField()),
                (
                    "node_build",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="output",
                        to="environments_app.nodebuild",
                    ),
                ),
            ],
            options={
                "ordering": ["pk"],
            },
        ),
    ]
