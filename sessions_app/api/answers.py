"""What goes out, with the names that clients rely on."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from codeexec.bounds import FIELD_BYTES
from codeexec.sandbox.types import EntryKind
from environments_app.models import Environment
from sessions_app.api.fields import Files, Metadata, Variables
from sessions_app.callers import Role
from sessions_app.models import Execution, Session
from sessions_app.models.session import CLOSED
from sessions_app.services.pool import hit_rate
from sessions_app.services.runtimes import session_runtime


class SessionOpenedSerializer(serializers.ModelSerializer[Session]):
    """Answer to `POST /sessions`."""

    session_id = serializers.UUIDField(source="id")
    environment = serializers.CharField(source="environment.name")
    message = serializers.SerializerMethodField()

    class Meta:
        model = Session
        fields = ("session_id", "status", "environment", "message", "expires_at")
        read_only_fields = fields

    def get_message(self, session: Session) -> str:
        if session.status == Session.Status.READY:
            return "Session is ready."
        return "Session created. Container is starting..."


class SessionSerializer(serializers.ModelSerializer[Session]):
    session_id = serializers.UUIDField(source="id")
    environment = serializers.CharField(source="environment.name")
    runtime = serializers.SerializerMethodField(
        help_text="OCI runtime of its sandbox; empty: the Docker Engine's default."
    )
    container_id = serializers.SerializerMethodField()
    last_execution = serializers.DateTimeField(source="last_execution_at", allow_null=True)
    ttl = serializers.IntegerField(source="ttl_seconds")
    stored_bytes = serializers.IntegerField(
        help_text="Its metadata, and what is stored of its runs: code, input, files and output."
    )
    metadata = Metadata(required=False, help_text="Not for tokens of candidates and viewers.")
    stop_reason = serializers.SerializerMethodField()
    error = serializers.SerializerMethodField(help_text="Why it was given up.")

    class Meta:
        model = Session
        fields = (
            "session_id",
            "status",
            "environment",
            "runtime",
            "container_id",
            "created_at",
            "last_execution",
            "ready_at",
            "workspace_since",
            "expires_at",
            "closed_at",
            "ttl",
            "stored_bytes",
            "metadata",
            "stop_reason",
            "error",
        )
        read_only_fields = fields

    def to_representation(self, session: Session) -> dict[str, Any]:
        """`without` in the context names fields that the caller is not shown."""
        shown = super().to_representation(session)
        for name in self.context.get("without", ()):
            del shown[name]
        return shown

    def get_runtime(self, session: Session) -> str:
        return session_runtime(session)

    def get_container_id(self, session: Session) -> str | None:
        return None if session.status in CLOSED else session.container_id or None

    def get_stop_reason(self, session: Session) -> str | None:
        return session.stop_reason or None

    def get_error(self, session: Session) -> str | None:
        return session.error_reason or None


class FileSerializer(serializers.Serializer[Any]):
    """What a workspace has under a name."""

    path = serializers.CharField(help_text="Bytes that are no UTF-8 are replaced.")
    type = serializers.ChoiceField(choices=[kind.value for kind in EntryKind])
    size = serializers.IntegerField()
    modified_at = serializers.DateTimeField()


class WorkspaceSerializer(serializers.Serializer[Any]):
    """Answer to `GET /sessions/{id}/files`."""

    session_id = serializers.UUIDField()
    files = FileSerializer(many=True, help_text="And folders, sorted by path.")
    truncated = serializers.BooleanField(
        help_text="There are more than are listed, or folders that can't be read."
    )


class TokenSerializer(serializers.Serializer[Any]):
    """Answer to `POST /sessions/{id}/tokens`."""

    token = serializers.CharField(help_text="For `Authorization: Bearer <token>`.")
    session_id = serializers.UUIDField()
    role = serializers.ChoiceField(choices=[role.value for role in Role])
    expires_at = serializers.DateTimeField()


class SessionStoppedSerializer(serializers.ModelSerializer[Session]):
    """Answer to `DELETE /sessions/{id}`."""

    session_id = serializers.UUIDField(source="id")
    status = serializers.SerializerMethodField()
    message = serializers.SerializerMethodField()

    class Meta:
        model = Session
        fields = ("session_id", "status", "message")
        read_only_fields = fields

    def get_status(self, session: Session) -> str:
        """What was asked for, however far it has come: clients rely on this word. But a session
        that had ended by itself is being stopped by nobody.
        """
        return (Session.Status.STOPPED if _ended(session) else Session.Status.STOPPING).value

    def get_message(self, session: Session) -> str:
        if not _ended(session):
            return "Session is being stopped..."
        expired = session.stop_reason == Session.StopReason.EXPIRED
        return "Session has expired." if expired else "Session has ended with its run."


def _ended(session: Session) -> bool:
    """Whether it has stopped, and nobody had asked for it."""
    by_itself = (Session.StopReason.EXPIRED, Session.StopReason.FINISHED)
    return session.status == Session.Status.STOPPED and session.stop_reason in by_itself


class CompileSerializer(serializers.Serializer[Any]):
    """How the compilation went."""

    stdout = serializers.CharField()
    stderr = serializers.CharField()
    exit_code = serializers.IntegerField()
    execution_time = serializers.FloatField(help_text="Seconds.")
    stdout_truncated = serializers.BooleanField()
    stderr_truncated = serializers.BooleanField()


class ExecutionSerializer(serializers.Serializer[Any]):
    """A run and how it ended. Before its end the results are empty."""

    session_id = serializers.UUIDField()
    execution_id = serializers.UUIDField()
    sequence = serializers.IntegerField(help_text="1, 2, 3 … within its session.")
    status = serializers.ChoiceField(choices=Execution.Status.choices)
    verdict = serializers.ChoiceField(choices=Execution.Verdict.choices, allow_null=True)
    stdout = serializers.CharField()
    stderr = serializers.CharField()
    exit_code = serializers.IntegerField(
        allow_null=True,
        help_text="The program's own; 124 out of time, 137 killed (memory too), 128 + N by signal"
        " N; null where no program ran to its end.",
    )
    execution_time = serializers.FloatField(help_text="Wall-clock seconds.")
    signal = serializers.CharField(allow_null=True, help_text="Name of what ended it.")
    cpu_time = serializers.FloatField(allow_null=True, help_text="CPU seconds, all processes.")
    memory_peak = serializers.IntegerField(
        allow_null=True, help_text="Bytes, all processes and the workspace's files together."
    )
    stdout_truncated = serializers.BooleanField()
    stderr_truncated = serializers.BooleanField()
    compile = CompileSerializer(allow_null=True)
    error = serializers.CharField(
        allow_null=True,
        help_text="Why we failed, where `status` is `error`; else why the program was not started.",
    )
    revision = serializers.IntegerField(
        allow_null=True, help_text="Number of the environment's revision that it ran in."
    )
    image_digest = serializers.CharField(
        allow_null=True, help_text="Digest of that revision's image."
    )
    queued_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)

    def to_representation(self, execution: Execution) -> dict[str, Any]:
        """By hand: every Run waits for this, and fields take a millisecond to do it."""
        return {
            "session_id": execution.session_id,
            "execution_id": execution.pk,
            "sequence": execution.sequence,
            "status": execution.status,
            "verdict": execution.verdict or None,
            "stdout": _text(execution.stdout),
            "stderr": _text(execution.stderr),
            "exit_code": execution.exit_code,
            "execution_time": execution.wall_seconds or 0.0,
            "signal": execution.signal or None,
            "cpu_time": execution.cpu_seconds,
            "memory_peak": execution.memory_peak_bytes,
            "stdout_truncated": execution.stdout_truncated,
            "stderr_truncated": execution.stderr_truncated,
            "compile": _compilation(execution),
            "error": execution.error_reason or None,
            "revision": execution.revision.number if execution.revision else None,
            "image_digest": execution.revision.image_id if execution.revision else None,
            "queued_at": execution.queued_at,
            "started_at": execution.started_at,
            "finished_at": execution.finished_at,
        }


class TimelineSerializer(ExecutionSerializer):
    """A run with what was asked for."""

    code = serializers.CharField()
    filename = serializers.CharField()
    stdin = serializers.CharField()
    args = serializers.ListField(child=serializers.CharField())
    env = Variables()
    files = Files()
    timeout = serializers.FloatField(help_text="Seconds.")

    def to_representation(self, execution: Execution) -> dict[str, Any]:
        return {
            **super().to_representation(execution),
            "code": execution.code,
            "filename": execution.filename,
            "stdin": _text(execution.stdin),
            "args": execution.args,
            "env": execution.env,
            "files": execution.files,
            "timeout": execution.timeout_seconds,
        }


class ListedExecutionSerializer(TimelineSerializer):
    """A run as a list has it: without what is large."""

    omitted = serializers.ListField(
        child=serializers.CharField(),
        help_text=f"Names of fields that are larger than {FIELD_BYTES // 1024} KiB, and therefore"
        " empty here (`stdout`, `files`, `compile.stderr`, …): `GET /executions/{id}` has them.",
    )

    def to_representation(self, execution: Execution) -> dict[str, Any]:
        omitted = [omitted_name(name) for name in execution.left_out]
        return {**super().to_representation(execution), "omitted": omitted}


class ExecutionQueuedSerializer(serializers.Serializer[Any]):
    """Answer to a run that nobody waits for."""

    execution_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=Execution.Status.choices)
    session_id = serializers.UUIDField()
    sequence = serializers.IntegerField()

    def to_representation(self, execution: Execution) -> dict[str, Any]:
        return {
            "execution_id": execution.pk,
            "status": execution.status,
            "session_id": execution.session_id,
            "sequence": execution.sequence,
        }


class EnvironmentSerializer(serializers.ModelSerializer[Environment]):
    limits = serializers.SerializerMethodField()
    maxima = serializers.SerializerMethodField()
    network = serializers.BooleanField(source="network_enabled")
    revision = serializers.SerializerMethodField()
    image = serializers.CharField(source="image_reference")
    image_digest = serializers.SerializerMethodField()
    warm_pool_hit_rate = serializers.SerializerMethodField(
        help_text="How many of the last day's sessions a warm sandbox was there for: 0 to 1, null"
        " where none was opened."
    )

    class Meta:
        model = Environment
        fields = (
            "name",
            "description",
            "is_default",
            "default_filename",
            "file_extension",
            "run_command",
            "compile_command",
            "limits",
            "maxima",
            "network",
            "runtime",
            "warm_pool_size",
            "warm_pool_hit_rate",
            "image",
            "revision",
            "image_digest",
        )
        read_only_fields = fields

    def get_limits(self, environment: Environment) -> dict[str, float]:
        return _limits(environment.limits())

    def get_maxima(self, environment: Environment) -> dict[str, float]:
        return _limits(environment.maxima())

    def get_revision(self, environment: Environment) -> int | None:
        revision = environment.current_revision
        return revision.number if revision else None

    def get_image_digest(self, environment: Environment) -> str | None:
        revision = environment.current_revision
        return revision.image_id if revision else None

    def get_warm_pool_hit_rate(self, environment: Environment) -> float | None:
        return hit_rate(environment)


class ErrorSerializer(serializers.Serializer[Any]):
    """The body of every error."""

    detail = serializers.CharField(help_text="One sentence.")
    code = serializers.CharField(help_text="A name for programs.")


class HealthSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["healthy", "degraded", "unhealthy"])
    service = serializers.CharField()
    checks = serializers.DictField(child=serializers.CharField())


class LivenessSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["alive"])


class ReadinessSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ready", "not_ready"])
    checks = serializers.DictField(child=serializers.ChoiceField(choices=["ok", "not ok"]))


def omitted_name(column: str) -> str:
    """Where answers have a large field: `stdout`, `compile.stdout`."""
    return column.replace("compile_", "compile.")


def _compilation(execution: Execution) -> dict[str, Any] | None:
    if not execution.was_compiled:
        return None
    return {
        "stdout": _text(execution.compile_stdout),
        "stderr": _text(execution.compile_stderr),
        "exit_code": execution.compile_exit_code,
        "execution_time": execution.compile_wall_seconds,
        "stdout_truncated": execution.compile_stdout_truncated,
        "stderr_truncated": execution.compile_stderr_truncated,
    }


def _text(data: bytes | memoryview) -> str:
    return bytes(data).decode(errors="replace")


def _limits(limits: Any) -> dict[str, float]:
    """In the units of requests: bytes, cores, seconds."""
    return {
        "memory": limits.memory_bytes,
        "cpu": limits.cpus,
        "pids": limits.pids,
        "timeout": limits.timeout_seconds,
        "tmpfs": limits.tmpfs_bytes,
        "output": limits.output_bytes,
    }
