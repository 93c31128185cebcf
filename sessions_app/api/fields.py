"""Request fields: what they may hold, stated once for the check and for the OpenAPI schema.

A field above its bound in `codeexec.bounds` ends the reading of the request, by OutOfBounds. All
other mistakes are answered together with those of the other fields.
"""

from __future__ import annotations

import base64
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


_BASE64_OBJECT = {
    "type": "object",
    "properties": {
        "base64": {"type": "string", "contentEncoding": "base64", "pattern": BASE64_PATTERN}
    },
    "required": ["base64"],
    "additionalProperties": False,
}


class _Field(serializers.Field[Any, Any, Any, Any]):
    """A field whose schema is written here."""

    schema: dict[str, Any] = {}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        set_override(self, "field", self.schema)

    def to_representation(self, value: Any) -> Any:
        return value

    @property
    def name(self) -> str:
        return str(self.field_name)

    def refuse(self, what: str) -> serializers.ValidationError:
        """`what`: the sentence that begins with the field's name."""
        return serializers.ValidationError(f"{self.name} {what}")


class Text(_Field):
    """Text that is kept as it came, white space and all. A number is not text."""

    schema = {"type": "string", "pattern": WITHOUT_NUL}
    most_bytes: int | None = None
    takes_nul = False

    def to_internal_value(self, data: Any) -> str:
        _require_text(self.name, data, takes_nul=self.takes_nul)
        if self.most_bytes is not None:
            _require_size(self.name, data, self.most_bytes)
        return str(data)


class Code(Text):
    most_bytes = bounds.CODE_BYTES
    schema = {**Text.schema, "maxLength": bounds.CODE_BYTES}


class InputText(Text):
    """What a program reads: any characters, NUL included."""

    takes_nul = True
    schema = {"type": "string"}


class Name(Text):
    """Name of an environment. Whether there is such a one is checked later, by the service."""

    most_bytes = bounds.ENVIRONMENT_BYTES
    schema = {**Text.schema, "maxLength": bounds.ENVIRONMENT_BYTES, "format": "environment"}


class RuntimeName(Text):
    """Name of an OCI runtime. Whether it may be chosen is checked later, by the service."""

    most_bytes = bounds.RUNTIME_BYTES
    schema = {**Text.schema, "maxLength": bounds.RUNTIME_BYTES, "format": "runtime"}


class WorkspacePath(_Field):
    """A file below the workspace; anything else is the error `invalid_path`."""

    schema = {"type": "string", "pattern": PATH_PATTERN, "maxLength": bounds.PATH_BYTES}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise self.refuse("must be a string.")
        return workspace_path(data, self.name)


class Arguments(_Field):
    schema = {
        "type": "array",
        "items": {**Text.schema, "maxLength": bounds.ARGUMENT_BYTES},
        "maxItems": bounds.ARGUMENTS,
    }

    def to_internal_value(self, data: Any) -> list[str]:
        if not isinstance(data, list):
            raise self.refuse("must be a list of strings.")
        _require_count("args", data, bounds.ARGUMENTS, "arguments")
        for argument in data:
            _require_text("args: an argument", argument)
            _require_size("args", argument, bounds.ARGUMENT_BYTES, "args: an argument")
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
            raise self.refuse('must be an object: {"NAME": "value"}.')
        _require_count("env", data, bounds.VARIABLES, "variables")
        for name, value in data.items():
            if not _VARIABLE.fullmatch(name):
                raise self.refuse(
                    f"has a variable named {name[:50]!r}; names consist of letters, digits and "
                    "underscores, and don't begin with a digit."
                )
            _require_text("env: a value", value)
            _require_size("env", name, bounds.ARGUMENT_BYTES, "env: a name")
            _require_size("env", value, bounds.ARGUMENT_BYTES, "env: a value")
            _require_size("env", name + value, bounds.VARIABLE_BYTES, "env: a name with its value")
        return data


class Files(_Field):
    """Path to text, or to {"base64": "..."}; paths are returned in their plainest form."""

    schema = {
        "type": "object",
        "additionalProperties": {
            "oneOf": [
                Text.schema,
                _BASE64_OBJECT,
            ]
        },
        "propertyNames": {"pattern": PATH_PATTERN, "maxLength": bounds.PATH_BYTES},
        "maxProperties": bounds.FILES,
        "example": {"data/numbers.txt": "1 2 3\n", "logo.png": {"base64": "iVBORw0KGgo="}},
    }

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise self.refuse('must be an object: {"path": "text"}.')
        _require_count("files", data, bounds.FILES, "files")
        files = {workspace_path(path, "files"): _file_content(path, data[path]) for path in data}
        if len(files) < len(data):
            raise self.refuse("names a file twice, under two spellings of its path.")
        require_separate(files)
        return files


def _file_content(path: str, content: Any) -> Any:
    if isinstance(content, str):
        _require_text(f"files: the content of {path!r}", content)
        return content
    _base64_of("files", f"the content of {path!r}", content)
    return content


def _base64_of(field: str, what: str, content: Any) -> str:
    if not isinstance(content, dict) or not content:
        raise serializers.ValidationError(
            f'{field}: {what} must be a string or {{"base64": "..."}}.'
        )
    for name in content:
        if name != "base64":
            raise UnknownField(
                f"{field}: {unknown_name(name, 'field', ['base64'], what)}", field=field
            )
    encoded = content["base64"]
    if not isinstance(encoded, str) or not _BASE64.fullmatch(encoded):
        raise serializers.ValidationError(f"{field}: {what} is not valid base64.")
    return encoded


class InputData(_Field):
    """Text, NUL included, or {"base64": "..."}."""

    schema = {
        "oneOf": [{"type": "string"}, _BASE64_OBJECT],
        "example": "42\n",
    }

    def to_internal_value(self, data: Any) -> bytes:
        if isinstance(data, str):
            _require_text(self.name, data, takes_nul=True)
            content = data.encode()
        else:
            content = base64.b64decode(_base64_of(self.name, self.name, data))
        if len(content) > bounds.STDIN_PIECE_BYTES:
            raise OutOfBounds(
                f"{self.name} must be at most {bounds.STDIN_PIECE_BYTES} bytes; it has "
                f"{len(content)}.",
                field=self.name,
                maximum=bounds.STDIN_PIECE_BYTES,
            )
        return content


class Seconds(_Field):
    """A number of seconds within bounds; neither a string nor true or false."""

    least: float
    most: float

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float):
            raise self.refuse("must be a number of seconds.")
        if not self.least <= data:  # nor is NaN
            unit = "second" if self.least == 1 else "seconds"
            raise self.refuse(f"must be at least {self.least:g} {unit}.")
        if data > self.most:
            detail = f"{self.name} must be at most {self.most} seconds."
            raise OutOfBounds(detail, field=self.name, maximum=int(self.most))
        return data


class TimeoutSeconds(Seconds):
    least, most = bounds.LEAST_TIMEOUT_SECONDS, bounds.TIMEOUT_SECONDS
    schema = {"type": "number", "format": "double", "minimum": least, "maximum": most}

    def to_internal_value(self, data: Any) -> float:
        return float(super().to_internal_value(data))


class WholeSeconds(Seconds):
    least, most = 1, bounds.TTL_SECONDS
    schema = {"type": "integer", "minimum": least, "maximum": most}

    def to_internal_value(self, data: Any) -> int:
        number = super().to_internal_value(data)
        if number != int(number):
            raise self.refuse("must be a whole number of seconds.")
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
"""Any JSON object, to any depth, without NUL."""


class Metadata(_Field):
    """A JSON object that the database can keep."""

    schema = {"$ref": "#/components/schemas/Metadata"}
    most_bytes = bounds.METADATA_BYTES

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise self.refuse("must be a JSON object.")
        try:
            text = json.dumps(data, ensure_ascii=False, allow_nan=False)
            size = len(text.encode())
        except ValueError:
            raise self.refuse(
                "must hold finite numbers and valid Unicode only: no NaN, no Infinity, no half of "
                "a surrogate pair."
            ) from None
        if size > self.most_bytes:
            raise OutOfBounds(
                f"metadata must be at most {self.most_bytes} bytes of JSON; it has {size}.",
                field="metadata",
                maximum=self.most_bytes,
            )
        if _NUL.search(text):
            raise self.refuse("must not contain NUL characters.")
        return data


class RunMetadata(Metadata):
    most_bytes = bounds.RUN_METADATA_BYTES


def _require_text(what: str, data: Any, *, takes_nul: bool = False) -> None:
    """`what` must be text; raises ValidationError with a sentence that begins with it."""
    if not isinstance(data, str):
        raise serializers.ValidationError(f"{what} must be a string.")
    if "\0" in data and not takes_nul:
        raise serializers.ValidationError(f"{what} must not contain NUL characters.")
    if not data.isascii() and _HALF.search(data):
        raise serializers.ValidationError(
            f"{what} must be valid Unicode: it contains half of a surrogate pair."
        )


_HALF = re.compile(r"[\ud800-\udfff]")


def _require_size(field: str, text: str, most_bytes: int, what: str = "") -> None:
    """`what`: the part of the field that `text` is, where it is not the whole."""
    if 4 * len(text) > most_bytes and (size := len(text.encode())) > most_bytes:
        detail = f"{what or field} must be at most {most_bytes} bytes; it has {size}."
        raise OutOfBounds(detail, field=field, maximum=most_bytes)


def _require_count(field: str, values: list[Any] | dict[str, Any], most: int, plural: str) -> None:
    if len(values) > most:
        detail = f"{field} must have at most {most} {plural}; it has {len(values)}."
        raise OutOfBounds(detail, field=field, maximum=most)
