"""The bodies of requests, with the names that clients rely on."""

from __future__ import annotations

from itertools import chain
from typing import Any, cast

from rest_framework import serializers

from codeexec.bounds import ARGUMENTS_BYTES, STDIN_BYTES, STDIN_PIECE_BYTES
from codeexec.errors import OutOfBounds
from sessions_app.access.tokens import DEFAULT_SECONDS as DEFAULT_TOKEN_SECONDS
from sessions_app.access.tokens import MAX_SECONDS as MAX_TOKEN_SECONDS
from sessions_app.api.fields import (
    Arguments,
    Code,
    Files,
    InputData,
    InputText,
    Metadata,
    Name,
    RunMetadata,
    RuntimeName,
    SessionSeconds,
    TimeoutSeconds,
    Variables,
    WorkspacePath,
)
from sessions_app.callers import Role
from sessions_app.services.executions import RunRequest

ENVIRONMENT_HELP = "Name of the environment. Default: the service's default environment."
RUNTIME_HELP = "OCI runtime to use instead of the environment's own, such as runsc (gVisor)."


_OPTIONAL: dict[str, Any] = {"required": False, "allow_null": True}


class OpenSessionSerializer(serializers.Serializer[Any]):
    """Request of `POST /sessions`."""

    environment = Name(**_OPTIONAL, help_text=ENVIRONMENT_HELP)
    runtime = RuntimeName(**_OPTIONAL, help_text=RUNTIME_HELP)
    ttl = SessionSeconds(
        **_OPTIONAL, help_text="Seconds that the session lives after its last activity."
    )
    metadata = Metadata(
        **_OPTIONAL, help_text="Any JSON object of your own; sessions can be filtered by it."
    )


class ChangeSessionSerializer(serializers.Serializer[Any]):
    """Request of `PATCH /sessions/{id}`."""

    ttl = SessionSeconds(
        **_OPTIONAL,
        help_text="Seconds that the session lives from now on, and after each later activity.",
    )
    metadata = Metadata(**_OPTIONAL, help_text="Replaces the session's whole metadata.")


class TokenRequestSerializer(serializers.Serializer[Any]):
    """Request of `POST /sessions/{id}/tokens`."""

    role = serializers.ChoiceField(
        choices=[role.value for role in Role],
        help_text="`candidate` runs code and sees the timeline. `interviewer` also sees the"
        " metadata, and may change, empty and stop the session. `viewer` only watches.",
    )
    expires_in = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=MAX_TOKEN_SECONDS,
        help_text=f"Seconds until the token expires. Default: {DEFAULT_TOKEN_SECONDS}.",
    )


class RunSerializer(serializers.Serializer[Any]):
    """Request of `POST /sessions/{id}/execute`."""

    code = Code(**_OPTIONAL, help_text="The program's source code.")
    filename = WorkspacePath(
        **_OPTIONAL, help_text="File that the code is written to. Default: the environment's own."
    )
    stdin = InputText(**_OPTIONAL, help_text="What the program reads from standard input.")
    args = Arguments(**_OPTIONAL)
    env = Variables(**_OPTIONAL)
    files = Files(**_OPTIONAL, help_text="Files besides the code, or instead of it.")
    timeout = TimeoutSeconds(
        **_OPTIONAL,
        help_text="Wall-clock seconds that the program may run, up to the environment's maximum."
        " Of an interactive program, seconds of processor time.",
    )
    interactive = serializers.BooleanField(
        **_OPTIONAL,
        help_text="Keep standard input open: `POST /executions/{id}/stdin` adds to it while the"
        " program runs. The program may then run for the environment's `interactive_timeout`.",
    )
    metadata = RunMetadata(
        **_OPTIONAL,
        help_text="Any JSON object of your own, of 4 KiB at most. It is shown with the execution, "
        "to session tokens as well; executions can be filtered by it.",
    )

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """As REST framework does it, which takes most of its time for the fields that weren't sent.
        None of them has a default.
        """
        if not isinstance(data, dict):
            return cast(dict[str, Any], super().to_internal_value(data))
        values, errors = {}, {}
        for name, field in self.fields.items():
            if name in data:
                try:
                    values[name] = field.run_validation(data[name])
                except serializers.ValidationError as error:
                    errors[name] = error.detail
        if errors:
            raise serializers.ValidationError(errors)
        return values

    def validate(self, data: dict[str, Any]) -> dict[str, Any]:
        args, env = data.get("args"), data.get("env")
        if args or env:
            texts = chain(args or (), chain.from_iterable((env or {}).items()))
            size = sum(len(text.encode()) + 1 for text in texts)
            if size > ARGUMENTS_BYTES:
                raise OutOfBounds(
                    f"args and env together must be at most {ARGUMENTS_BYTES} bytes; they have "
                    f"{size}.",
                    field="args",
                    maximum=ARGUMENTS_BYTES,
                )
        return data


class SingleRunSerializer(RunSerializer):
    """Request of `POST /execute`."""

    environment = Name(**_OPTIONAL, help_text=ENVIRONMENT_HELP)
    runtime = RuntimeName(**_OPTIONAL, help_text=RUNTIME_HELP)


class StdinSerializer(serializers.Serializer[Any]):
    """Request of `POST /executions/{id}/stdin`."""

    data = InputData(  # type: ignore[assignment]  # the serializer's own `data` stays
        required=False, help_text=f"What is typed, at most {STDIN_PIECE_BYTES} bytes."
    )
    offset = serializers.IntegerField(
        **_OPTIONAL,
        min_value=0,
        max_value=STDIN_BYTES,
        help_text="Where `data` begins, in bytes of all input that was sent by this call. What was"
        " accepted before is left out, so that a call can be repeated. Default: at the end.",
    )
    eof = serializers.BooleanField(**_OPTIONAL, help_text="Nothing follows: end of input.")


_RUN = RunSerializer()
_SINGLE_RUN = SingleRunSerializer()
"""Shared by all requests: copying a serializer's fields takes longer than checking with them."""


def read_run(data: Any) -> RunRequest:
    """What a body of `POST /sessions/{id}/execute` asks for. Raises ValidationError."""
    return _run_request(checked(_RUN, data))


def read_single_run(data: Any) -> tuple[str | None, str | None, RunRequest]:
    """The environment and the runtime that a body of `POST /execute` names, and the run. Raises
    ValidationError.
    """
    wanted = checked(_SINGLE_RUN, data)
    return wanted.get("environment"), wanted.get("runtime"), _run_request(wanted)


def checked(serializer: serializers.Serializer[Any], data: Any) -> dict[str, Any]:
    """What the body asks for. Raises ValidationError."""
    if data is None:
        raise serializers.ValidationError({"non_field_errors": ["The body must be a JSON object."]})
    wanted: dict[str, Any] = serializer.run_validation(data)
    return wanted


def _run_request(wanted: dict[str, Any]) -> RunRequest:
    return RunRequest(
        code=wanted.get("code"),
        filename=wanted.get("filename"),
        stdin=wanted.get("stdin") or "",
        args=wanted.get("args") or [],
        env=wanted.get("env") or {},
        files=wanted.get("files") or {},
        timeout_seconds=wanted.get("timeout"),
        metadata=wanted.get("metadata"),
        interactive=wanted.get("interactive") or False,
    )
