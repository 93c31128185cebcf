"""Request fields: what they may be, said once for the check and for the OpenAPI schema.

What is larger than `codeexec.bounds` has it ends the reading of the request, by OutOfBounds; what
else is wrong with a field is told together with the mistakes of the others.
"""

from __future__ import annotations

import json
import re
from typing import Any

from drf_spectacular.drainage import set_override
from rest_framework import serializers

from codeexec import bounds
from codeexec.errors import OutOfBounds, UnknownField
from sessions_app.api.inputs import unknown_name
from sessions_app.models.session import most_ttl_seconds
from sessions_app.workspace_paths import PATTERN as PATH_PATTERN
from sessions_app.workspace_paths import require_separate, workspace_path

WITHOUT_NUL = r"^[^\x00]*$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
BASE64_PATTERN = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_VARIABLE = re.compile(VARIABLE_PATTERN.strip("^$"))
_BASE64 = re.compile(BASE64_PATTERN.strip("^$"))
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL character in JSON. After another backslash it is six harmless characters."""


class _Field(serializers.Field[Any, Any, Any, Any]):
    """One whose schema is written here."""

    schema: dict[str, Any] = {}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        set_override(self, "field", self.schema)

    def to_representation(self, value: Any) -> Any:
        return value

    def refuse(self, why: str) -> serializers.ValidationError:
        return serializers.ValidationError(why)


class Text(_Field):
    """Text that is kept as it came, white space and all. A number is no text."""

    schema = {"type": "string", "pattern": WITHOUT_NUL}
    most_bytes: int | None = None
    takes_nul = False

    def to_internal_value(self, data: Any) -> str:
        _require_text(data, takes_nul=self.takes_nul)
        if self.most_bytes is not None:
            _require_size(str(self.field_name), data, self.most_bytes)
        return str(data)


class Code(Text):
    most_bytes = bounds.CODE_BYTES
    schema = {**Text.schema, "maxLength": bounds.CODE_BYTES}


class InputText(Text):
    """What a program reads: any character, NUL too."""

    takes_nul = True
    schema = {"type": "string"}


class Name(Text):
    """Of an environment. Whether there is one is not for this to say, for an empty one neither."""

    most_bytes = bounds.ENVIRONMENT_BYTES
    schema = {**Text.schema, "maxLength": bounds.ENVIRONMENT_BYTES, "format": "environment"}


class RuntimeName(Text):
    """Of an OCI runtime. Whether it may be chosen is not for this to say."""

    most_bytes = bounds.RUNTIME_BYTES
    schema = {**Text.schema, "maxLength": bounds.RUNTIME_BYTES, "format": "runtime"}


class WorkspacePath(_Field):
    """A file below the workspace; anything else is the error `invalid_path`."""

    schema = {"type": "string", "pattern": PATH_PATTERN, "maxLength": bounds.PATH_BYTES}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise self.refuse("Not a text.")
        return workspace_path(data, str(self.field_name))


class Arguments(_Field):
    schema = {
        "type": "array",
        "items": {**Text.schema, "maxLength": bounds.ARGUMENT_BYTES},
        "maxItems": bounds.ARGUMENTS,
    }

    def to_internal_value(self, data: Any) -> list[str]:
        if not isinstance(data, list):
            raise self.refuse("Not a list.")
        _require_count("args", data, bounds.ARGUMENTS)
        for argument in data:
            _require_text(argument)
            _require_size("args", argument, bounds.ARGUMENT_BYTES)
        return data


class Variables(_Field):
    """Environment variables."""

    schema = {
        "type": "object",
        "additionalProperties": Arguments.schema["items"],
        "propertyNames": {"pattern": VARIABLE_PATTERN, "maxLength": bounds.ARGUMENT_BYTES},
        "maxProperties": bounds.VARIABLES,
        "example": {"LANG": "C.UTF-8"},
    }

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if not isinstance(data, dict):
            raise self.refuse('Not an object: {"NAME": "value"}.')
        _require_count("env", data, bounds.VARIABLES)
        for name, value in data.items():
            if not _VARIABLE.fullmatch(name):
                raise self.refuse(f"{name[:50]!r} can't be a variable's name.")
            _require_text(value)
            _require_size("env", name, bounds.ARGUMENT_BYTES)
            _require_size("env", value, bounds.ARGUMENT_BYTES)
            _require_size("env", name + value, bounds.VARIABLE_BYTES)
        return data


class Files(_Field):
    """Path to text, or to {"base64": "..."}; paths come out in their plainest form."""

    schema = {
        "type": "object",
        "additionalProperties": {
            "oneOf": [
                Text.schema,
                {
                    "type": "object",
                    "properties": {
                        "base64": {
                            "type": "string",
                            "contentEncoding": "base64",
                            "pattern": BASE64_PATTERN,
                        }
                    },
                    "required": ["base64"],
                    "additionalProperties": False,
                },
            ]
        },
        "propertyNames": {"pattern": PATH_PATTERN, "maxLength": bounds.PATH_BYTES},
        "maxProperties": bounds.FILES,
        "example": {"data/numbers.txt": "1 2 3\n", "logo.png": {"base64": "iVBORw0KGgo="}},
    }

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise self.refuse('Expected an object: {"path": "text"}.')
        _require_count("files", data, bounds.FILES)
        files = {workspace_path(path, "files"): _file_content(path, data[path]) for path in data}
        if len(files) < len(data):
            raise self.refuse("Two of these paths are the same file.")
        require_separate(files)
        return files


def _file_content(path: str, content: Any) -> Any:
    if isinstance(content, str):
        _require_text(content)
        return content
    if isinstance(content, dict):
        _require_base64_only(path, content)
    if isinstance(content, dict) and content:
        encoded = content["base64"]
        if isinstance(encoded, str) and _BASE64.fullmatch(encoded):
            return content
        raise serializers.ValidationError(f"{path}: its base64 can't be decoded.")
    raise serializers.ValidationError(f'{path}: give text, or {{"base64": "..."}}.')


def _require_base64_only(path: str, content: dict[str, Any]) -> None:
    for name in content:
        if name != "base64":
            said = unknown_name(name, "field", ["base64"], f"the file {path!r}")
            raise UnknownField(f"files: {said}", field="files", errors={"files": [said]})


class Number(_Field):
    """Neither a text nor a truth value, and within its bounds."""

    least: float
    most: float

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float):
            raise self.refuse("Not a number.")
        if not self.least <= data:  # NaN neither
            raise self.refuse(f"It must be at least {self.least:g}.")
        if data > self.most:
            raise OutOfBounds(str(self.field_name), f"{data:.15g} is too large", int(self.most))
        return data


class Seconds(Number):
    least, most = bounds.LEAST_TIMEOUT_SECONDS, bounds.TIMEOUT_SECONDS
    schema = {"type": "number", "format": "double", "minimum": least, "maximum": most}

    def to_internal_value(self, data: Any) -> float:
        return float(super().to_internal_value(data))


class WholeSeconds(Number):
    least, most = 1, bounds.TTL_SECONDS
    schema = {"type": "integer", "minimum": least, "maximum": most}

    def to_internal_value(self, data: Any) -> int:
        number = super().to_internal_value(data)
        if number != int(number):
            raise self.refuse("Not a whole number.")
        return int(number)


class SessionSeconds(WholeSeconds):
    """How long a session may be asked to live."""

    schema = {**WholeSeconds.schema, "maximum": most_ttl_seconds()}

    def to_internal_value(self, data: Any) -> int:
        self.most = most_ttl_seconds()
        return super().to_internal_value(data)


JSON_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": ["number", "boolean", "null"]},
        Text.schema,
        {"type": "array", "items": {"$ref": "#/components/schemas/Json"}},
        {"$ref": "#/components/schemas/Metadata"},
    ],
}
METADATA_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"$ref": "#/components/schemas/Json"},
    "propertyNames": {"pattern": WITHOUT_NUL},
    "example": {"interview": "7F3A"},
}
"""Of whatever JSON has, to any depth, but for NUL."""


class Metadata(_Field):
    """A JSON object that the database can keep."""

    schema = {"$ref": "#/components/schemas/Metadata"}

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise self.refuse("Expected a JSON object.")
        try:
            text = json.dumps(data, ensure_ascii=False, allow_nan=False)
            size = len(text.encode())
        except ValueError:
            raise self.refuse("A number or a character in it can't be kept.") from None
        if size > bounds.METADATA_BYTES:
            raise OutOfBounds("metadata", f"{size} bytes of JSON", bounds.METADATA_BYTES)
        if _NUL.search(text):
            raise self.refuse("NUL characters in it can't be kept.")
        return data


def _require_text(data: Any, *, takes_nul: bool = False) -> None:
    if not isinstance(data, str):
        raise serializers.ValidationError("Not a text.")
    if "\0" in data and not takes_nul:
        raise serializers.ValidationError("NUL characters can't be in it.")
    if not data.isascii() and _HALF.search(data):
        raise serializers.ValidationError("Halves of surrogate pairs are no characters.")


_HALF = re.compile(r"[\ud800-\udfff]")


def _require_size(field: str, text: str, most_bytes: int) -> None:
    if 4 * len(text) > most_bytes and (size := len(text.encode())) > most_bytes:
        raise OutOfBounds(field, f"{size} bytes", most_bytes)


def _require_count(field: str, values: list[Any] | dict[str, Any], most: int) -> None:
    if len(values) > most:
        raise OutOfBounds(field, f"{len(values)} of them", most)
