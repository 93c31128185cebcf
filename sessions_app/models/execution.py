from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self
from uuid import UUID, uuid4

from django.contrib.postgres.indexes import GinIndex
from django.db import connection, models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from codeexec.db.notifications import CHANNEL, publish
from codeexec.sandbox.types import RunResult
from environments_app.models import EnvironmentRevision
from sessions_app.callers import Caller
from sessions_app.models import run_sql
from sessions_app.models.session import Session


class ExecutionStatus(models.TextChoices):
    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    COMPLETED = "completed", "completed"
    """The program was run; the verdict is how it ended."""
    ERROR = "error", "error"
    """The service failed; `error_reason` has the reason."""
    CANCELLED = "cancelled", "cancelled"


class Verdict(models.TextChoices):
    """How the program ended."""

    OK = "ok", "ok"
    RUNTIME_ERROR = "runtime_error", "runtime error"
    COMPILE_ERROR = "compile_error", "compile error"
    TIME_LIMIT = "time_limit", "time limit"
    MEMORY_LIMIT = "memory_limit", "memory limit"
    OUTPUT_LIMIT = "output_limit", "output limit"
    CANCELLED = "cancelled", "cancelled"
    INTERNAL_ERROR = "internal_error", "internal error"


OF_PROGRAMS = tuple(
    verdict.value
    for verdict in Verdict
    if verdict not in (Verdict.CANCELLED, Verdict.INTERNAL_ERROR)
)
"""Verdicts of completed executions."""

_VERDICT_OF: dict[str, str] = {"error": Verdict.INTERNAL_ERROR, "cancelled": Verdict.CANCELLED}

UNFINISHED = (ExecutionStatus.QUEUED, ExecutionStatus.RUNNING)
FINISHED = (ExecutionStatus.COMPLETED, ExecutionStatus.ERROR, ExecutionStatus.CANCELLED)


INPUTS = ("code", "stdin", "args", "env", "files")
OUTPUTS = ("stdout", "stderr", "compile_stdout", "compile_stderr")
"""Fields that may be large. `large_fields` reads them."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the run of an execution ended, as its row stores it."""

    verdict: Verdict
    compilation: RunResult | None
    run: RunResult | None
    """None when the compilation failed."""
    reason: str = ""
    """Why the program could not be started, where that is not a failure of the service."""


class ExecutionQuerySet(models.QuerySet["Execution"]):
    def visible_to(self, caller: Caller) -> Self:
        """Executions of the sessions that are visible to the caller."""
        if caller.sees_everything and caller.session_id is None:
            return self
        return self.filter(session__in=Session.objects.visible_to(caller))

    def without_large_fields(self) -> Self:
        """Large fields are read when they are used."""
        return self.defer(*INPUTS, *OUTPUTS)

    def queued(self) -> Self:
        return self.filter(status=ExecutionStatus.QUEUED)

    def running(self) -> Self:
        return self.filter(status=ExecutionStatus.RUNNING)

    def unfinished(self) -> Self:
        return self.filter(status__in=UNFINISHED)

    def in_status(self, status: ExecutionStatus | str) -> Self:
        """Rare statuses are found by their verdict, which is equivalent and has an index."""
        verdict = _VERDICT_OF.get(status)
        rows = self.filter(status=status)
        return rows if verdict is None else rows.filter(verdict=verdict)

    def abandoned(self) -> Self:
        """Running, but their worker has stopped renewing the lease."""
        return self.running().filter(lease_expires_at__lte=Now())

    def transition(
        self, to: ExecutionStatus, *, expected: tuple[ExecutionStatus, ...], **changes: Any
    ) -> bool:
        """Change status if it is still an expected one. False: another process was faster."""
        return self.filter(status__in=expected).update(status=to, **changes) > 0

    def requeue(self) -> bool:
        """running → queued: its worker claimed it and has not started it. Not if it is to end."""
        return self.filter(cancel_requested_at=None).transition(
            ExecutionStatus.QUEUED,
            expected=(ExecutionStatus.RUNNING,),
            worker="",
            revision=None,
            claimed_at=None,
            started_at=None,
            lease_expires_at=None,
        )


class Execution(models.Model):
    """One program that was sent to be run: its inputs and its result."""

    Status = ExecutionStatus
    Verdict = Verdict

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    session = models.ForeignKey(
        Session, on_delete=models.PROTECT, related_name="executions", db_index=False
    )
    sequence = models.PositiveIntegerField(help_text="1, 2, 3 … within its session.")
    status = models.CharField(
        max_length=10, choices=ExecutionStatus, default=ExecutionStatus.QUEUED
    )

    code = models.TextField()
    filename = models.CharField(max_length=255)
    keeps_file = models.BooleanField(
        default=False, db_default=False, help_text="The workspace's own file of that name is run."
    )
    stdin = models.BinaryField(default=bytes)
    args = models.JSONField(default=list)
    env = models.JSONField(default=dict)
    files = models.JSONField(
        default=dict, help_text='Path to text, or to {"base64": "..."}, besides the code.'
    )
    timeout_seconds = models.FloatField()
    metadata = models.JSONField(
        null=True, help_text="Whatever its client wants to find it by. Null: nothing was given."
    )
    interactive = models.BooleanField(
        default=False, db_default=False, help_text="It can be typed into while it runs."
    )
    stdin_read = models.BigIntegerField(
        default=0,
        db_default=0,
        help_text="Of an interactive one: bytes of its input that its program was given at least.",
    )

    verdict = models.CharField(max_length=20, choices=Verdict, blank=True)
    exit_code = models.IntegerField(null=True)
    signal = models.CharField(max_length=20, blank=True)
    stdout = models.BinaryField(default=bytes)
    stderr = models.BinaryField(default=bytes)
    stdout_truncated = models.BooleanField(default=False)
    stderr_truncated = models.BooleanField(default=False)
    wall_seconds = models.FloatField(null=True)
    cpu_seconds = models.FloatField(null=True)
    memory_peak_bytes = models.BigIntegerField(null=True)
    prestarted = models.BooleanField(
        "pre-started",
        null=True,
        help_text="Whether its process had started before the run. Empty: no program ran.",
    )

    compile_exit_code = models.IntegerField(null=True)
    compile_stdout = models.BinaryField(default=bytes)
    compile_stderr = models.BinaryField(default=bytes)
    compile_stdout_truncated = models.BooleanField(default=False, db_default=False)
    compile_stderr_truncated = models.BooleanField(default=False, db_default=False)
    compile_wall_seconds = models.FloatField(null=True)
    compile_reused = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Its inputs were those of an earlier compilation, whose program was run.",
    )

    repeats = models.UUIDField(null=True, help_text="Id of the execution whose input is run again.")
    error_reason = models.TextField(blank=True)
    revision = models.ForeignKey(
        EnvironmentRevision,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        db_index=False,  # no query uses it, and each run would pay for it
        help_text="The environment's revision, and so the image, that it ran in.",
    )
    worker = models.CharField(max_length=120, blank=True, help_text="Node and process id.")
    request_id = models.CharField(
        max_length=64,
        blank=True,
        default="",
        db_default="",
        help_text="Of the HTTP request that asked for it; the log's lines about it have it too.",
    )
    received_at = models.DateTimeField(null=True, help_text="When the API received the request.")
    queued_at = models.DateTimeField(default=timezone.now)
    claimed_at = models.DateTimeField(null=True, help_text="When a node's executor claimed it.")
    started_at = models.DateTimeField(
        null=True, help_text="When the program or its compiler began."
    )
    finished_at = models.DateTimeField(null=True, help_text="When the result was stored.")
    lease_expires_at = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(
        null=True, help_text="When its worker was asked to end it."
    )

    objects = ExecutionQuerySet.as_manager()

    left_out: tuple[str, ...] = ()
    """Large fields that were not read with the others."""
    cut: Mapping[str, int] = MappingProxyType({})
    """The full size in bytes of fields of which only the beginning was read."""

    class Meta:
        ordering = ("-queued_at",)
        permissions = [
            ("cancel_execution", "Can cancel execution"),
            ("run_again_execution", "Can run an execution's input again"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["session", "sequence"], name="execution_sequence"),
            models.UniqueConstraint(
                fields=["session"], condition=Q(status="running"), name="execution_one_at_a_time"
            ),
            models.CheckConstraint(
                condition=Q(status__in=UNFINISHED, finished_at__isnull=True)
                | Q(status__in=FINISHED, finished_at__isnull=False),
                name="execution_finished_has_time",
            ),
            models.CheckConstraint(
                condition=Q(status="queued", started_at__isnull=True)
                | Q(status="running", started_at__isnull=False, lease_expires_at__isnull=False)
                | Q(status__in=FINISHED),
                name="execution_running_has_lease",
            ),
            models.CheckConstraint(
                condition=Q(status="completed", exit_code__isnull=False, verdict__in=OF_PROGRAMS)
                | Q(status="error", verdict="internal_error") & ~Q(error_reason="")
                | Q(status="cancelled", verdict="cancelled")
                | Q(status__in=UNFINISHED, verdict=""),
                name="execution_verdict_fits_status",
            ),
        ]
        indexes = [
            models.Index(
                fields=["session", "sequence"],
                condition=Q(status="queued"),
                name="execution_queued",
            ),
            models.Index(fields=["-queued_at", "id"], name="execution_newest"),
            GinIndex(
                fields=["metadata"],
                opclasses=["jsonb_path_ops"],
                fastupdate=False,
                condition=Q(metadata__isnull=False),  # other runs don't pay for it
                name="execution_metadata",
            ),
            models.Index(
                fields=["verdict", "-queued_at", "id"],
                condition=~Q(verdict__in=["", "ok"]),
                name="execution_not_ok",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    @property
    def was_compiled(self) -> bool:
        return self.compile_exit_code is not None

    @staticmethod
    def row(execution_id: UUID | str) -> ExecutionQuerySet:
        return Execution.objects.filter(pk=execution_id)

    def fail(self, reason: str) -> bool:
        """queued or running → error."""
        return self._finish(
            ExecutionStatus.ERROR,
            expected=UNFINISHED,
            verdict=Verdict.INTERNAL_ERROR,
            error_reason=reason,
        )

    def abandon(self, reason: str) -> bool:
        """running → error, if its lease has expired: a worker that renews it late wins."""
        return self._finish(
            ExecutionStatus.ERROR,
            among=Execution.objects.abandoned(),
            expected=(ExecutionStatus.RUNNING,),
            verdict=Verdict.INTERNAL_ERROR,
            error_reason=reason,
        )

    def cancel(self, *, expected: tuple[ExecutionStatus, ...] = UNFINISHED) -> bool:
        """queued or running → cancelled."""
        return self._finish(ExecutionStatus.CANCELLED, expected=expected, verdict=Verdict.CANCELLED)

    @staticmethod
    def cancel_queued(session_id: UUID) -> int:
        """queued → cancelled, all queued executions of a session; returns how many. The caller has
        locked the session's row.
        """
        return _end_queued(session_id, ExecutionStatus.CANCELLED, Verdict.CANCELLED)

    @staticmethod
    def fail_queued(session_id: UUID, reason: str) -> int:
        """queued → error, as `cancel_queued`."""
        return _end_queued(session_id, ExecutionStatus.ERROR, Verdict.INTERNAL_ERROR, reason)

    def request_cancel(self) -> bool:
        """Asks the worker to end a running execution. False: not running, or asked before."""
        unasked = Execution.row(self.pk).running().filter(cancel_requested_at=None)
        if not unasked.update(cancel_requested_at=Now()):
            return False
        with connection.cursor() as cursor:
            channel = run_sql.CANCELS_CHANNEL
            cursor.execute("SELECT pg_notify(%s, %s)", [channel, str(self.pk)])
        return True

    def _finish(
        self,
        to: ExecutionStatus,
        *,
        expected: tuple[ExecutionStatus, ...],
        among: ExecutionQuerySet | None = None,
        **changes: Any,
    ) -> bool:
        rows = Execution.objects.all() if among is None else among
        finished = rows.filter(pk=self.pk).transition(
            to, expected=expected, finished_at=Now(), lease_expires_at=None, **changes
        )
        if finished:
            with connection.cursor() as cursor:  # there will be no result with the output so far
                cursor.execute(run_sql.KEEP_EVENTS, {"execution": self.pk})
            publish(self.pk, self.session_id)
        return finished


def _end_queued(
    session_id: UUID, status: ExecutionStatus, verdict: Verdict, reason: str = ""
) -> int:
    parameters = {
        "session": str(session_id),
        "status": status.value,
        "verdict": verdict.value,
        "reason": reason,
        "channel": CHANNEL,
    }
    with connection.cursor() as cursor:
        cursor.execute(run_sql.END_QUEUED, parameters)
        return int(cursor.fetchone()[0])
