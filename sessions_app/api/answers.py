"""The bodies of answers, with the names that clients rely on."""

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
from sessions_app.services.runtimes import session_runtime
from sessions_app.services.warm_sandboxes import hit_rate


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
        help_text="OCI runtime of its sandbox. Empty: the Docker Engine's default."
    )
    container_id = serializers.SerializerMethodField()
    last_execution = serializers.DateTimeField(source="last_execution_at", allow_null=True)
    ttl = serializers.IntegerField(source="ttl_seconds")
    stored_bytes = serializers.IntegerField(
        help_text="Bytes stored of it: its metadata, and its runs' code, input, files and output."
    )
    metadata = Metadata(required=False, help_text="Hidden from candidates' and viewers' tokens.")
    stop_reason = serializers.SerializerMethodField()
    error = serializers.SerializerMethodField(help_text="Why the session failed.")

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
        """`without` in the context names the fields to leave out for this caller."""
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
    """A file, folder or link in a workspace."""

    path = serializers.CharField(help_text="Bytes that are not UTF-8 are replaced.")
    type = serializers.ChoiceField(choices=[kind.value for kind in EntryKind])
    size = serializers.IntegerField()
    modified_at = serializers.DateTimeField()


class WorkspaceSerializer(serializers.Serializer[Any]):
    """Answer to `GET /sessions/{id}/files`."""

    session_id = serializers.UUIDField()
    files = FileSerializer(many=True, help_text="Files and folders, sorted by path.")
    truncated = serializers.BooleanField(
        help_text="There are more files than listed, or folders that can't be read."
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
        """`stopping`, even where it has stopped already: clients rely on this word. A session that
        ended by itself is `stopped`.
        """
        return (Session.Status.STOPPED if _ended(session) else Session.Status.STOPPING).value

    def get_message(self, session: Session) -> str:
        if not _ended(session):
            return "Session is being stopped..."
        expired = session.stop_reason == Session.StopReason.EXPIRED
        return "Session has expired." if expired else "Session has ended with its run."


def _ended(session: Session) -> bool:
    """Whether it stopped by itself, without a request to stop it."""
    by_itself = (Session.StopReason.EXPIRED, Session.StopReason.FINISHED)
    return session.status == Session.Status.STOPPED and session.stop_reason in by_itself


class CompileSerializer(serializers.Serializer[Any]):
    """Result of the compilation."""

    stdout = serializers.CharField()
    stderr = serializers.CharField()
    exit_code = serializers.IntegerField()
    execution_time = serializers.FloatField(help_text="Seconds.")
    stdout_truncated = serializers.BooleanField()
    stderr_truncated = serializers.BooleanField()
    reused = serializers.BooleanField(
        help_text="The compiler was not started: an earlier compilation had the same inputs."
        " Output and exit code are that one's, and `execution_time` is what it took to find it."
    )


class ExecutionSerializer(serializers.Serializer[Any]):
    """An execution and its result, which is empty until the execution has ended."""

    session_id = serializers.UUIDField()
    execution_id = serializers.UUIDField()
    sequence = serializers.IntegerField(help_text="1, 2, 3 … within its session.")
    status = serializers.ChoiceField(choices=Execution.Status.choices)
    verdict = serializers.ChoiceField(choices=Execution.Verdict.choices, allow_null=True)
    stdout = serializers.CharField()
    stderr = serializers.CharField()
    exit_code = serializers.IntegerField(
        allow_null=True,
        help_text="The program's exit code; 124: it ran out of time, 137: it was killed (also for"
        " memory), 128 + N: signal N ended it. Null when no program ran to its end.",
    )
    execution_time = serializers.FloatField(help_text="Wall-clock seconds.")
    signal = serializers.CharField(allow_null=True, help_text="Name of the signal that ended it.")
    cpu_time = serializers.FloatField(allow_null=True, help_text="CPU seconds of all processes.")
    memory_peak = serializers.IntegerField(
        allow_null=True, help_text="Bytes: all its processes and the workspace's files together."
    )
    prestarted = serializers.BooleanField(
        allow_null=True,
        help_text="Whether its process had started before it was asked for. Null when no program"
        " ran to its end.",
    )
    stdout_truncated = serializers.BooleanField()
    stderr_truncated = serializers.BooleanField()
    compile = CompileSerializer(allow_null=True)
    error = serializers.CharField(
        allow_null=True,
        help_text="Why the service failed, when `status` is `error`; otherwise why the program"
        " could not be started.",
    )
    revision = serializers.IntegerField(
        allow_null=True, help_text="Number of the environment's revision in which it ran."
    )
    image_digest = serializers.CharField(
        allow_null=True, help_text="Digest of that revision's image."
    )
    queued_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)

    def to_representation(self, execution: Execution) -> dict[str, Any]:
        """By hand, because every run waits for this and fields would take a millisecond."""
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
            "prestarted": execution.prestarted,
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
    """An execution with its code and input."""

    code = serializers.CharField()
    filename = serializers.CharField()
    stdin = serializers.CharField()
    args = serializers.ListField(child=serializers.CharField())
    env = Variables()
    files = Files()
    timeout = serializers.FloatField(help_text="Seconds.")
    metadata = Metadata(help_text="As it was sent with the run; empty if nothing was.")
    interactive = serializers.BooleanField(help_text="It can be typed into while it runs.")

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
            "metadata": execution.metadata or {},
            "interactive": execution.interactive,
        }


class ListedExecutionSerializer(TimelineSerializer):
    """An execution in a list: without its large fields."""

    omitted = serializers.ListField(
        child=serializers.CharField(),
        help_text=f"Names of fields larger than {FIELD_BYTES // 1024} KiB, which are empty here"
        " (`stdout`, `files`, `compile.stderr`, …): `GET /executions/{id}` returns them.",
    )

    def to_representation(self, execution: Execution) -> dict[str, Any]:
        omitted = [omitted_name(name) for name in execution.left_out]
        return {**super().to_representation(execution), "omitted": omitted}


class ExecutionQueuedSerializer(serializers.Serializer[Any]):
    """Answer to a run with `wait=false`."""

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


class StdinStateSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField()
    offset = serializers.IntegerField(
        source="state.offset", help_text="Bytes accepted so far: where the next input begins."
    )
    open = serializers.BooleanField(source="state.is_open", help_text="Whether more can be sent.")


class EnvironmentInListSerializer(serializers.ModelSerializer[Environment]):
    """An environment in `GET /environments?detail=true`."""

    title = serializers.SerializerMethodField(help_text="What people call it.")
    limits = serializers.SerializerMethodField()

    class Meta:
        model = Environment
        fields: tuple[str, ...] = (
            "name",
            "title",
            "version",
            "editor_mode",
            "sample",
            "default_filename",
            "is_default",
            "limits",
        )
        read_only_fields = fields

    def get_title(self, environment: Environment) -> str:
        return environment.title or environment.name

    def get_limits(self, environment: Environment) -> dict[str, float]:
        return _limits(environment.limits())


class EnvironmentSerializer(EnvironmentInListSerializer):
    maxima = serializers.SerializerMethodField()
    network = serializers.BooleanField(source="network_enabled")
    revision = serializers.IntegerField(
        source="current_revision.number", allow_null=True, read_only=True
    )
    image = serializers.CharField(source="image_reference")
    image_digest = serializers.CharField(
        source="current_revision.image_id", allow_null=True, read_only=True
    )
    warm_pool_max = serializers.IntegerField(
        source="warm_pool_ceiling",
        help_text="How many warm sandboxes each node keeps at most, while many sessions are opened "
        "at once.",
    )
    warm_pool_hit_rate = serializers.SerializerMethodField(
        help_text="Share of the last day's sessions that got a warm sandbox, from 0 to 1. Null when"
        " none was opened."
    )

    class Meta:
        model = Environment
        fields = (
            "name",
            "title",
            "version",
            "description",
            "editor_mode",
            "sample",
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
            "warm_pool_max",
            "warm_pool_hit_rate",
            "image",
            "revision",
            "image_digest",
        )
        read_only_fields = fields

    def get_maxima(self, environment: Environment) -> dict[str, float]:
        return _limits(environment.maxima())

    def get_warm_pool_hit_rate(self, environment: Environment) -> float | None:
        return hit_rate(environment)


class ErrorSerializer(serializers.Serializer[Any]):
    """The body of every error."""

    detail = serializers.CharField(help_text="What is wrong, what is allowed and what to do.")
    code = serializers.CharField(help_text="Name of the error, for programs.")


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
    """The name that answers give to a large field: `stdout`, `compile.stdout`."""
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
        "reused": execution.compile_reused,
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
        "interactive_timeout": limits.interactive_seconds,
        "tmpfs": limits.tmpfs_bytes,
        "output": limits.output_bytes,
    }
