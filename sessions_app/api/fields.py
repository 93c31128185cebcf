"""Request fields that need more than REST framework checks by itself."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from django.core.validators import ProhibitNullCharactersValidator
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from sessions_app.paths import require_separate, workspace_path

MAX_ARGUMENT_BYTES = 64 * 1024
"""The kernel takes no single argument or variable above 128 KiB."""

MAX_METADATA_BYTES = 16 * 1024
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL character in JSON. After another backslash it is six harmless characters."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class VerbatimText(serializers.CharField):
    """Text that is kept as it came, white space and all. A number is no text."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, allow_blank=True, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Name(VerbatimText):
    """Of an environment. Whether there is one is not for this to say, for an empty one neither."""


class InputText(VerbatimText):
    """What a program reads: any character, NUL too."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.validators = [
            validator
            for validator in self.validators
            if not isinstance(validator, ProhibitNullCharactersValidator)
        ]


class ArgumentText(VerbatimText):
    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if len(text.encode(errors="replace")) > MAX_ARGUMENT_BYTES:
            raise serializers.ValidationError(f"At most {MAX_ARGUMENT_BYTES} bytes.")
        return text


class WorkspacePath(VerbatimText):
    """A file below the workspace; anything else is the error `invalid_path`."""

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if data == "":
            return self.to_internal_value(data)
        return super().run_validation(data)

    def to_internal_value(self, data: Any) -> str:
        return workspace_path(super().to_internal_value(data))


@extend_schema_field(
    {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "example": {"LANG": "C.UTF-8"},
    }
)
class Variables(serializers.DictField):
    """Environment variables."""

    child = ArgumentText()

    def to_internal_value(self, data: Any) -> dict[str, str]:
        variables: dict[str, str] = super().to_internal_value(data)
        for name in variables:
            if not _VARIABLE.fullmatch(name):
                raise serializers.ValidationError(f"{name!r} can't be a variable's name.")
        return variables


@extend_schema_field(
    {
        "type": "object",
        "additionalProperties": {
            "oneOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"base64": {"type": "string"}},
                    "required": ["base64"],
                    "additionalProperties": False,
                },
            ]
        },
        "example": {"data/numbers.txt": "1 2 3\n", "logo.png": {"base64": "iVBORw0KGgo="}},
    }
)
class Files(serializers.Field[Any, Any, Any, Any]):
    """Path to text, or to {"base64": "..."}; paths come out in their plainest form."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise serializers.ValidationError('Expected an object: {"path": "text"}.')
        files = {workspace_path(path): _file_content(path, data[path]) for path in data}
        if len(files) < len(data):
            raise serializers.ValidationError("Two of these paths are the same file.")
        require_separate(files)
        return files

    def to_representation(self, value: Any) -> Any:
        return value


def _file_content(path: str, content: Any) -> Any:
    if isinstance(content, str):
        return VerbatimText().run_validation(content)
    if isinstance(content, dict) and list(content) == ["base64"]:
        try:
            base64.b64decode(content["base64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise serializers.ValidationError(f"{path}: its base64 can't be decoded.") from None
        return content
    raise serializers.ValidationError(f'{path}: give text, or {{"base64": "..."}}.')


class Seconds(serializers.FloatField):
    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool | str):  # "nan" too
            self.fail("invalid")
        return super().to_internal_value(data)


@extend_schema_field(OpenApiTypes.OBJECT)
class Metadata(serializers.JSONField):
    """A JSON object that the database can keep."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise serializers.ValidationError("Expected a JSON object.")
        try:
            text = json.dumps(data, ensure_ascii=False, allow_nan=False)
            size = len(text.encode())
        except (ValueError, RecursionError):
            raise serializers.ValidationError(
                "A number or a character can't be kept, or it is nested too deeply."
            ) from None
        if _NUL.search(text) or size > MAX_METADATA_BYTES:
            raise serializers.ValidationError(
                f"At most {MAX_METADATA_BYTES} bytes of JSON, without NUL characters."
            )
        return data
