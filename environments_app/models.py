"""Environments: what a program can be run in, and which images they had over time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone

from codeexec.sizes import format_size
from environments_app import rules, validators
from environments_app.limits import LIMITS, EnvironmentLimits, limits_of

DEFINING_FIELDS = (
    "default_filename",
    "file_extension",
    "run_command",
    "compile_command",
    "workspace_dir",
    "executor_user",
    "runtime",
    "prestart",
    "preload",
)
"""Columns that a revision copies."""


SILENT_BUILD_AFTER = timedelta(seconds=30)
"""A build without a sign of life for this long has lost its process."""


class EnvironmentQuerySet(models.QuerySet["Environment"]):
    def enabled(self) -> EnvironmentQuerySet:
        """Those that sessions can be opened in."""
        return self.filter(enabled=True)

    def default(self) -> EnvironmentQuerySet:
        """The environment, at most one, that is used where none is named."""
        return self.filter(is_default=True)

    def with_current_revision(self) -> EnvironmentQuerySet:
        """Adds `current_revision_number` (None before the first build), for lists."""
        numbers = EnvironmentRevision.objects.filter(environment=models.OuterRef("pk"))
        latest = numbers.order_by("-number").values("number")[:1]
        return self.annotate(current_revision_number=models.Subquery(latest))


def _limit_constraints() -> list[models.BaseConstraint]:
    """Each limit and its maximum are positive, and no limit is above its maximum."""
    constraints: list[models.BaseConstraint] = []
    for limit in LIMITS:
        field, maximum = limit.field, limit.maximum_field
        positive = (Q(**{f"{field}__isnull": True}) | Q(**{f"{field}__gt": 0})) & (
            Q(**{f"{maximum}__isnull": True}) | Q(**{f"{maximum}__gt": 0})
        )
        ordered = (
            Q(**{f"{field}__isnull": True})
            | Q(**{f"{maximum}__isnull": True})
            | Q(**{f"{field}__lte": F(maximum)})
        )
        constraints.append(
            models.CheckConstraint(
                condition=positive & ordered,
                name=f"environment_{field}",
                violation_error_message=f"{limit.key}: positive, and the limit within its maximum.",
            )
        )
    return constraints


class Environment(models.Model):
    """A language or tool set that programs run in: an image, its commands and its limits.

    Seeded from `config/environments.yaml` and edited in the admin. A limit that is null is the
    setting's (`CONTAINER_MEMORY_LIMIT` …); a maximum that is null is the limit itself.
    """

    name = models.CharField(
        max_length=rules.NAME.max_length,
        unique=True,
        validators=[validators.name],
        help_text="What clients call it, and the name of its folder in environments/: "
        "lower-case letters, digits and dashes.",
    )
    description = models.CharField(
        max_length=rules.DESCRIPTION.max_length, blank=True, help_text="Shown to clients."
    )
    title = models.CharField(
        max_length=rules.TITLE.max_length,
        blank=True,
        default="",
        db_default="",
        validators=[validators.title],
        help_text="What people call it, such as Python 3.13. Empty: its name.",
    )
    version = models.CharField(
        max_length=rules.VERSION.max_length,
        blank=True,
        default="",
        db_default="",
        validators=[validators.version],
        help_text="Of its language, such as 3.13. Shown to clients.",
    )
    editor_mode = models.CharField(
        max_length=rules.EDITOR_MODE.max_length,
        blank=True,
        default="",
        db_default="",
        validators=[validators.editor_mode],
        help_text="How an editor highlights its programs, such as python.",
    )
    sample = models.TextField(
        blank=True,
        default="",
        db_default="",
        validators=[validators.sample],
        help_text="A first program, for clients to show in their editors.",
    )
    enabled = models.BooleanField(
        default=True, help_text="Off: no new sessions in it; open ones continue."
    )
    is_default = models.BooleanField(
        "default",
        default=False,
        help_text="Used where a client names no environment. Only one can be the default.",
    )
    image = models.CharField(
        max_length=rules.IMAGE.max_length,
        validators=[validators.image],
        help_text="Image without the prefix of DOCKER_IMAGE_PREFIX: python is the image "
        "code-executor-python.",
    )
    default_filename = models.CharField(
        max_length=rules.FILENAME.max_length,
        validators=[validators.filename],
        help_text="Where the code goes when a client names no file, such as main.py.",
    )
    file_extension = models.CharField(
        max_length=rules.EXTENSION.max_length,
        validators=[validators.extension],
        help_text="Extension of its source files, with the dot.",
    )
    run_command = models.CharField(
        max_length=rules.MAX_COMMAND_LENGTH,
        validators=[validators.command],
        help_text="Runs the program. {file_path} is /workspace/main.py, {filename} main.py, "
        '{output_path} where a compiled program goes. Several steps: sh -c "first && second".',
    )
    compile_command = models.CharField(
        max_length=rules.MAX_COMMAND_LENGTH,
        blank=True,
        validators=[validators.command],
        help_text="Runs first, with the same placeholders; when it fails, the verdict is "
        "compile_error. Empty: nothing to compile.",
    )
    workspace_dir = models.CharField(
        max_length=rules.WORKSPACE_DIR.max_length,
        default="/workspace",
        validators=[validators.workspace_dir],
        help_text="Where the files of a session are, and where programs start.",
    )
    executor_user = models.CharField(
        max_length=rules.USER.max_length,
        default="executor",
        validators=[validators.user],
        help_text="User of the image that programs run as; root is refused.",
    )
    runtime = models.CharField(
        max_length=rules.RUNTIME.max_length,
        blank=True,
        validators=[validators.runtime],
        help_text="OCI runtime, such as runsc (gVisor). Empty: the Docker Engine's default.",
    )
    prestart = models.CharField(
        max_length=20,
        blank=True,
        default="",
        choices=[("", "No"), ("python", "Python"), ("node", "Node.js")],
        help_text="Keep an interpreter started in each sandbox, so that a run begins at once.",
    )
    preload = models.CharField(
        max_length=rules.PRELOAD.max_length,
        blank=True,
        default="",
        validators=[validators.preload],
        help_text="Python modules that the started interpreter has loaded: numpy, pandas.",
    )
    network = models.BooleanField(
        null=True,
        blank=True,
        choices=[(None, "As set by NETWORK_DISABLED"), (True, "Yes"), (False, "No")],
        help_text="Whether programs reach the network.",
    )
    warm_pool_size = models.PositiveSmallIntegerField(
        default=1,
        help_text="Sandboxes that each node keeps started, so that a session is ready at once. "
        f"0 to {rules.MAX_WARM_POOL}.",
    )
    warm_pool_max = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        help_text="How many they may become while many sessions are opened at once. Empty: "
        f"{rules.USUAL_WARM_POOL_MAX}, or the warm pool size if that is more; none if it is 0.",
    )

    smoke_program = models.TextField(
        blank=True,
        validators=[validators.no_nul],
        help_text="A program that every image must run before it is promoted. Empty: none.",
    )
    smoke_stdout = models.TextField(
        blank=True, validators=[validators.no_nul], help_text="What it must print, exactly."
    )
    smoke_exit_code = models.PositiveSmallIntegerField(default=0)
    build = models.ForeignKey(
        "EnvironmentBuild",
        on_delete=models.PROTECT,
        null=True,
        editable=False,
        related_name="+",
        help_text="The promoted build. Null: its image is built from its folder.",
    )

    memory_bytes = models.BigIntegerField("memory", null=True, blank=True)
    cpus = models.FloatField("CPUs", null=True, blank=True)
    pids = models.PositiveIntegerField("processes", null=True, blank=True)
    timeout_seconds = models.FloatField("time-out (s)", null=True, blank=True)
    interactive_seconds = models.FloatField("interactive time-out (s)", null=True, blank=True)
    tmpfs_bytes = models.BigIntegerField("workspace size", null=True, blank=True)
    output_bytes = models.BigIntegerField("output", null=True, blank=True)

    max_memory_bytes = models.BigIntegerField("maximum memory", null=True, blank=True)
    max_cpus = models.FloatField("maximum CPUs", null=True, blank=True)
    max_pids = models.PositiveIntegerField("maximum processes", null=True, blank=True)
    max_timeout_seconds = models.FloatField("maximum time-out (s)", null=True, blank=True)
    max_interactive_seconds = models.FloatField(
        "maximum interactive time-out (s)", null=True, blank=True
    )
    max_tmpfs_bytes = models.BigIntegerField("maximum workspace size", null=True, blank=True)
    max_output_bytes = models.BigIntegerField("maximum output", null=True, blank=True)

    seeded = models.JSONField(
        null=True,
        editable=False,
        help_text="The values last taken from the file. Where the row differs from them, an "
        "operator changed it, and seeding keeps it. Null: not from the file.",
    )
    seeded_as_default = models.BooleanField(
        default=False, editable=False, help_text="Whether the file last named it the default."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = EnvironmentQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        permissions = [
            ("edit_dockerfile", "Can edit the Dockerfile of an environment"),
            ("build_environment", "Can build images of environments"),
            ("promote_environment", "Can promote and roll back environments"),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(name__regex=rules.NAME_PATTERN),
                name="environment_name",
                violation_error_message=f"The name must be {rules.NAME.allowed}.",
            ),
            models.CheckConstraint(
                condition=Q(image__regex=rules.IMAGE_PATTERN),
                name="environment_image",
                violation_error_message=f"The image must be {rules.IMAGE.allowed}.",
            ),
            models.CheckConstraint(
                condition=~Q(run_command="") & ~Q(default_filename="") & ~Q(file_extension=""),
                name="environment_can_run",
                violation_error_message="A run command, a file name and an extension are needed.",
            ),
            models.CheckConstraint(
                condition=Q(workspace_dir__startswith="/") & ~Q(workspace_dir="/"),
                name="environment_workspace_dir",
                violation_error_message="The workspace must be an absolute path.",
            ),
            models.CheckConstraint(
                condition=~Q(executor_user__in=["", "root", "0"]),
                name="environment_executor_user",
                violation_error_message="Programs can't run as root.",
            ),
            models.CheckConstraint(
                condition=Q(warm_pool_size__lte=rules.MAX_WARM_POOL),
                name="environment_warm_pool_size",
                violation_error_message=f"The warm pool holds {rules.MAX_WARM_POOL} at most.",
            ),
            models.CheckConstraint(
                condition=Q(warm_pool_max__isnull=True)
                | Q(warm_pool_max__gte=F("warm_pool_size"), warm_pool_max__lte=rules.MAX_WARM_POOL),
                name="environment_warm_pool_max",
                violation_error_message="The warm pool's maximum must be at least its size, and "
                f"{rules.MAX_WARM_POOL} at most.",
            ),
            models.UniqueConstraint(
                fields=["is_default"],
                condition=Q(is_default=True),
                name="environment_one_default",
                violation_error_message="Another environment is the default already.",
            ),
            *_limit_constraints(),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.is_default and not self.enabled:
            raise ValidationError({"enabled": "The default environment must be enabled."})
        validators.runs_the_file(self.run_command, self.compile_command)
        validators.can_be_prestarted(self.prestart, self.preload, self.run_command)
        if not Environment.objects.filter(pk=self.pk, runtime=self.runtime).exists():
            validators.known_runtime(self.runtime)
        self._clean_maxima()

    def _clean_maxima(self) -> None:
        """Refuse a maximum below a limit that comes from the settings, which no constraint sees."""
        for limit in LIMITS:
            maximum, own = getattr(self, limit.maximum_field), getattr(self, limit.field)
            if maximum is not None and own is None and maximum < limit.default():
                default = limit.default()
                shown = format_size(int(default)) if limit.is_size else default
                message = f"Below the limit, which is {limit.setting.name} = {shown}."
                raise ValidationError({limit.maximum_field: message})

    @property
    def preloaded_modules(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.preload.split(",") if name)

    @property
    def image_reference(self) -> str:
        """The full name of the image that sessions get, such as `code-executor-python`."""
        return self.image_of(self.build_id)

    def image_of(self, build_id: int | None) -> str:
        """Full name of a build's image: `code-executor-python:build-7`. None: its folder's."""
        name = f"{settings.CODE_EXECUTOR['DOCKER_IMAGE_PREFIX']}-{self.image}"
        return name if build_id is None else f"{name.partition(':')[0]}:build-{build_id}"

    @property
    def current_revision(self) -> EnvironmentRevision | None:
        """The latest one; None before the first build."""
        return self.revisions.order_by("-number").first()

    @property
    def has_image(self) -> bool:
        """Whether any node has built it; before that, no session can be opened in it."""
        return self.pk is not None and self.revisions.exists()

    @property
    def warm_pool_ceiling(self) -> int:
        """How many warm sandboxes a node keeps at most."""
        if self.warm_pool_max is not None:
            return self.warm_pool_max
        return max(rules.USUAL_WARM_POOL_MAX, self.warm_pool_size) if self.warm_pool_size else 0

    @property
    def network_enabled(self) -> bool:
        if self.network is None:
            return not settings.CODE_EXECUTOR["NETWORK_DISABLED"]
        return self.network

    def limits(self) -> EnvironmentLimits:
        """The limits of a run whose request names none."""
        return limits_of({limit.field: getattr(self, limit.field) for limit in LIMITS})

    def maxima(self) -> EnvironmentLimits:
        """The most that a run can ask for: never less than `limits()`."""
        limits = self.limits()
        return EnvironmentLimits(
            **{
                limit.field: max(
                    getattr(self, limit.maximum_field) or 0, getattr(limits, limit.field)
                )
                for limit in LIMITS
            }
        )

    def definition(self) -> dict[str, Any]:
        """All that decides how its programs run, including limits from the settings, as JSON."""
        limits, maxima = self.limits(), self.maxima()
        return {
            "image": self.image_reference,
            **{name: getattr(self, name) for name in DEFINING_FIELDS},
            "network": self.network_enabled,
            "limits": {limit.field: getattr(limits, limit.field) for limit in LIMITS},
            "maxima": {limit.field: getattr(maxima, limit.field) for limit in LIMITS},
        }

    def defining_columns(self) -> dict[str, Any]:
        """The columns behind `definition`; None where a setting is used."""
        limits = [name for limit in LIMITS for name in (limit.field, limit.maximum_field)]
        names = ["image", *DEFINING_FIELDS, "network", *limits]
        return {name: getattr(self, name) for name in names}


class EnvironmentRevisionQuerySet(models.QuerySet["EnvironmentRevision"]):
    def latest_of_nodes(self) -> EnvironmentRevisionQuerySet:
        """The latest one of each environment on each node."""
        return self.order_by("environment_id", "node", "-number").distinct("environment_id", "node")


class EnvironmentRevision(models.Model):
    """History: an environment's image, commands and limits from one moment on."""

    environment = models.ForeignKey(
        Environment, on_delete=models.PROTECT, related_name="revisions", editable=False
    )
    number = models.PositiveIntegerField(editable=False, help_text="1, 2, 3 … per environment.")
    node = models.CharField(
        max_length=100,
        editable=False,
        help_text="Name of the worker node whose image it is: each builds its own.",
    )
    image_id = models.CharField(max_length=100, editable=False, help_text="Digest: sha256:…")
    size_bytes = models.BigIntegerField(editable=False, help_text="Size of the image.")
    definition = models.JSONField(
        editable=False, help_text="Commands and limits as they were: Environment.definition()."
    )
    build = models.ForeignKey(
        "EnvironmentBuild",
        on_delete=models.PROTECT,
        null=True,
        editable=False,
        related_name="revisions",
        help_text="Where its image comes from. Null: from the environment's folder.",
    )
    columns = models.JSONField(
        null=True,
        editable=False,
        help_text="Environment.defining_columns(): what a roll back restores.",
    )
    prestart_bytes = models.BigIntegerField(
        "pre-started memory",
        null=True,
        editable=False,
        help_text="What the started interpreter with its modules takes, which a sandbox has on top "
        "of its limit. Measured when one was started; null: not yet, or there is none.",
    )
    prestart_problem = models.CharField(
        "why nothing is pre-started",
        max_length=300,
        blank=True,
        default="",
        db_default="",
        editable=False,
        help_text="Why the last warm sandbox had no started interpreter. Empty: it had one, or "
        "none was tried.",
    )
    cause = models.CharField(
        max_length=100,
        blank=True,
        default="",
        db_default="",
        editable=False,
        help_text="What made it, where that was neither a build of the folder nor a change.",
    )
    created_at = models.DateTimeField(auto_now_add=True, editable=False)

    objects = EnvironmentRevisionQuerySet.as_manager()

    class Meta:
        ordering = ["environment", "-number"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["environment", "number"], name="environment_revision_number"
            ),
            models.CheckConstraint(
                condition=Q(number__gte=1), name="environment_revision_number_from_1"
            ),
            models.CheckConstraint(
                condition=~Q(image_id="") & Q(size_bytes__gte=0), name="environment_revision_image"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.environment} {self.number}"

    @property
    def prestart_state(self) -> str:
        """Whether its programs are pre-started: with how much memory, or why not. Empty where they
        are not to be.
        """
        if not self.definition.get("prestart"):
            return ""
        if self.prestart_problem:
            return f"no: {self.prestart_problem}"
        measured = self.prestart_bytes
        return "not tried yet" if measured is None else f"yes, {measured / 1_000_000:.0f} MB"

    def changes(self) -> list[str]:
        """Differences from the one before it: `limits.pids: 50 → 60`. Empty for the first."""
        before = type(self).objects.filter(environment=self.environment_id, number=self.number - 1)
        previous = before.first()
        if previous is None:
            return [self.cause] if self.cause else []
        old, new = _flat(previous.definition), _flat(self.definition)
        changed = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
        lines = [f"{name}: {old.get(name)} → {new.get(name)}" for name in changed]
        if self.cause:
            return [self.cause, *lines]
        return ["image built anew", *lines] if previous.image_id != self.image_id else lines


def _flat(definition: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Values as texts by dotted name, sizes as `256m`."""
    flat: dict[str, str] = {}
    for name, value in definition.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif name.endswith("_bytes"):
            flat[prefix + name.removesuffix("_bytes")] = format_size(value)
        else:
            flat[prefix + name] = f"{value:g}" if isinstance(value, float) else f"{value}"
    return flat


class EnvironmentBuild(models.Model):
    """A Dockerfile and the images that nodes built from it: a candidate until it is promoted."""

    environment = models.ForeignKey(
        Environment, on_delete=models.CASCADE, related_name="builds", editable=False
    )
    dockerfile = models.TextField(editable=False)
    created_at = models.DateTimeField(auto_now_add=True, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["-pk"]
        verbose_name = "build"

    def __str__(self) -> str:
        return f"{self.environment} build {self.pk}"

    @property
    def image_reference(self) -> str:
        return self.environment.image_of(self.pk)


class NodeBuildQuerySet(models.QuerySet["NodeBuild"]):
    def queued(self) -> NodeBuildQuerySet:
        return self.filter(status=NodeBuild.Status.QUEUED)

    def running(self) -> NodeBuildQuerySet:
        return self.filter(status=NodeBuild.Status.RUNNING)

    def unfinished(self) -> NodeBuildQuerySet:
        return self.filter(status__in=[NodeBuild.Status.QUEUED, NodeBuild.Status.RUNNING])

    def abandoned(self) -> NodeBuildQuerySet:
        """Those whose process has been silent for too long: it is gone."""
        return self.running().filter(beat_at__lt=Now() - SILENT_BUILD_AFTER)

    def with_image(self) -> NodeBuildQuerySet:
        """Those whose image is still there."""
        return self.exclude(image_id="").filter(image_removed_at=None)


class NodeBuild(models.Model):
    """A build on one node: queued → running → passed, failed or cancelled. It may be repeated."""

    class Status(models.TextChoices):
        QUEUED = "queued", "queued"
        RUNNING = "running", "running"
        PASSED = "passed", "passed"
        """Built, and the smoke test's program did what it should."""
        FAILED = "failed", "failed"
        CANCELLED = "cancelled", "cancelled"

    build = models.ForeignKey(EnvironmentBuild, on_delete=models.CASCADE, related_name="nodes")
    node = models.CharField(max_length=100)
    status = models.CharField(max_length=10, choices=Status, default=Status.QUEUED)
    image_id = models.CharField(max_length=100, blank=True, help_text="Empty before it is built.")
    size_bytes = models.BigIntegerField(default=0)
    reason = models.TextField(blank=True, help_text="Why it failed.")
    queued_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    beat_at = models.DateTimeField(null=True, help_text="The last sign of life of its process.")
    finished_at = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)
    image_removed_at = models.DateTimeField(null=True)

    objects = NodeBuildQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["node"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["build", "node"], name="node_build_once"),
            models.CheckConstraint(
                condition=Q(status__in=["queued", "running"], finished_at=None)
                | Q(status__in=["passed", "failed", "cancelled"], finished_at__isnull=False),
                name="node_build_finished_has_time",
            ),
            models.CheckConstraint(
                condition=~Q(status="passed") | ~Q(image_id=""), name="node_build_passed_has_image"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.build} on {self.node}"

    def start(self) -> bool:
        """queued → running. False: another process has started it, or it was cancelled."""
        queued = NodeBuild.objects.queued().filter(pk=self.pk)
        return queued.update(status=self.Status.RUNNING, started_at=Now(), beat_at=Now()) == 1

    def beat(self) -> bool:
        """A sign of life. False: it is to end."""
        wanted = NodeBuild.objects.running().filter(pk=self.pk, cancel_requested_at=None)
        return wanted.update(beat_at=Now()) == 1

    def cancel_was_requested(self) -> bool:
        asked = NodeBuild.objects.filter(pk=self.pk, cancel_requested_at__isnull=False)
        return asked.exists()

    def finish(self, status: Status, reason: str = "") -> bool:
        """queued or running → finished. False: it was ended already."""
        unfinished = NodeBuild.objects.unfinished().filter(pk=self.pk)
        return unfinished.update(status=status, reason=reason, finished_at=Now()) == 1

    def repeat(self) -> bool:
        """failed or cancelled → queued, with an empty log."""
        return self._queue_again([self.Status.FAILED, self.Status.CANCELLED])

    def requeue(self) -> bool:
        """running → queued, with an empty log: its process has died."""
        return self._queue_again([self.Status.RUNNING])

    def build_again(self) -> bool:
        """passed → queued: its image is gone."""
        gone = NodeBuild.objects.filter(pk=self.pk, status=self.Status.PASSED)
        gone.update(image_removed_at=Now())
        return self._queue_again([self.Status.PASSED])

    def _queue_again(self, expected: list[Status]) -> bool:
        ended = NodeBuild.objects.filter(pk=self.pk, status__in=expected)
        again = ended.update(
            status=self.Status.QUEUED,
            reason="",
            queued_at=Now(),
            started_at=None,
            finished_at=None,
            cancel_requested_at=None,
        )
        if again:
            self.output.all().delete()
        return again == 1


class BuildOutput(models.Model):
    """Some lines of a node's build, written together."""

    node_build = models.ForeignKey(NodeBuild, on_delete=models.CASCADE, related_name="output")
    text = models.TextField()

    class Meta:
        ordering: ClassVar[list[str]] = ["pk"]

    def __str__(self) -> str:
        return self.text
