"""What comes in, with the names that clients rely on."""

from __future__ import annotations

from itertools import chain
from typing import Any

from rest_framework import serializers

from sessions_app.api.fields import (
    ArgumentText,
    Files,
    InputText,
    Metadata,
    Name,
    Seconds,
    Variables,
    VerbatimText,
    WorkspacePath,
)
from sessions_app.services.executions import RunRequest

MAX_TTL_SECONDS = 30 * 86_400
MAX_ARGUMENTS_BYTES = 192 * 1024
"""All of `args` and `env`: the runner takes 256 KiB, the image's own environment included."""


class RequestSerializer(serializers.Serializer[Any]):
    """A request's fields. Others are ignored, but for those that would change what happens."""

    unsupported: tuple[str, ...] = ()

    def to_internal_value(self, data: Any) -> Any:
        given = [name for name in self.unsupported if isinstance(data, dict) and data.get(name)]
        if given:
            raise serializers.ValidationError(dict.fromkeys(given, "Not supported; leave it out."))
        return super().to_internal_value(data)


class OpenSessionSerializer(RequestSerializer):
    """Request of `POST /sessions`."""

    unsupported = ("limits", "files", "runtime")
    environment = Name(
        required=False, allow_null=True, help_text="Its name; default: the default environment."
    )
    ttl = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=MAX_TTL_SECONDS,
        help_text="Seconds that the session lives after its last activity.",
    )
    metadata = Metadata(
        required=False,
        allow_null=True,
        help_text="Any JSON object of yours; it can be filtered by.",
    )


class RunSerializer(RequestSerializer):
    """Request of `POST /sessions/{id}/execute`."""

    unsupported = ("memory",)
    code = VerbatimText(required=False, allow_null=True, help_text="The program.")
    filename = WorkspacePath(
        required=False,
        allow_null=True,
        help_text="Where the code goes in the workspace; default: the environment's own.",
    )
    stdin = InputText(required=False, allow_null=True, help_text="What the program reads.")
    args = serializers.ListField(
        child=ArgumentText(), required=False, allow_null=True, max_length=1000
    )
    env = Variables(required=False, allow_null=True)
    files = Files(required=False, allow_null=True, help_text="Files besides the code, or instead.")
    timeout = Seconds(
        required=False,
        allow_null=True,
        min_value=0.1,
        help_text="Wall-clock seconds, up to the environment's maximum.",
    )

    def validate(self, data: dict[str, Any]) -> dict[str, Any]:
        texts = [*(data.get("args") or ()), *chain.from_iterable((data.get("env") or {}).items())]
        size = sum(len(text.encode()) + 1 for text in texts)
        if size > MAX_ARGUMENTS_BYTES:
            raise serializers.ValidationError(
                {"args": f"With `env` they have {size} bytes; {MAX_ARGUMENTS_BYTES} at most."}
            )
        return data

    def run_request(self) -> RunRequest:
        data = self.validated_data
        return RunRequest(
            code=data.get("code"),
            filename=data.get("filename"),
            stdin=data.get("stdin") or "",
            args=data.get("args") or [],
            env=data.get("env") or {},
            files=data.get("files") or {},
            timeout_seconds=data.get("timeout"),
        )


class SingleRunSerializer(RunSerializer):
    """Request of `POST /execute`."""

    environment = Name(
        required=False, allow_null=True, help_text="Its name; default: the default environment."
    )
