"""The fields of an execution that may be large: what its client sent, and what its program wrote.

Answers read executions without them. `fill` adds those that are small to any number of executions,
and `pieces` reads a large one piece by piece. So no answer needs more memory than a page of a list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connection
from django.db.models import BigIntegerField
from django.db.models.expressions import RawSQL

from codeexec.bounds import FIELD_BYTES
from sessions_app.models.execution import INPUTS, OUTPUTS, Execution, ExecutionQuerySet

JSON_FIELDS = ("args", "env", "files")
PIECE_BYTES = 256 * 1024
_JSON_PIECE_BYTES = 4 * PIECE_BYTES
"""Larger, because the database writes the whole JSON anew for each piece."""
LARGE_FIELDS = (*INPUTS, *OUTPUTS)
_EMPTY: dict[str, Any] = {
    **dict.fromkeys(LARGE_FIELDS, b""),
    "code": "",
    "args": [],
    "env": {},
    "files": {},
}
_TABLE = Execution._meta.db_table


def size_of(name: str) -> str:
    """SQL for a field's bytes that reads no large field: the size of large JSON is its stored size,
    which only has to be above FIELD_BYTES.
    """
    column = f"{_TABLE}.{name}"
    if name not in JSON_FIELDS:
        return f"octet_length({column})"
    return (
        f"CASE WHEN pg_column_size({column}) > {FIELD_BYTES} THEN pg_column_size({column}) "
        f"ELSE octet_length({column}::text) END"
    )


def listed_bytes() -> RawSQL:
    """The bytes that an execution's large fields and its metadata add to a page of a list."""
    sizes = (f"({size_of(name)})" for name in LARGE_FIELDS)
    listed = tuple(f"CASE WHEN {size} > {FIELD_BYTES} THEN 0 ELSE {size} END" for size in sizes)
    listed = (*listed, f"COALESCE(octet_length({_TABLE}.metadata::text), 0)")
    return RawSQL(" + ".join(listed), [], BigIntegerField())  # noqa: S611 -- our own columns


_SMALL = (f"CASE WHEN {size_of(name)} <= {FIELD_BYTES} THEN {name} END" for name in LARGE_FIELDS)
_FILL = f"""
    SELECT id, {", ".join(_SMALL)}
    FROM {_TABLE} WHERE id = ANY(%s)
"""  # noqa: S608 -- our own columns


def read_beginnings(
    rows: ExecutionQuerySet,
    count: int,
    *,
    code_bytes: int,
    other_bytes: int,
    json_texts: bool = False,
) -> list[Execution]:
    """The first executions, with only the beginning of each field; JSON is whole or missing, or,
    with `json_texts`, the beginning of its text. `cut` of each has the full sizes of cut fields.
    """
    most = dict.fromkeys(LARGE_FIELDS, other_bytes) | {"code": code_bytes}
    columns = {f"size_of_{name}": size_of(name) for name in LARGE_FIELDS}
    if json_texts:
        columns |= {
            f"size_of_{name}": f"octet_length({_TABLE}.{name}::text)" for name in JSON_FIELDS
        }
    columns |= {
        f"beginning_of_{name}": _beginning(name, most[name], json_texts) for name in LARGE_FIELDS
    }
    annotations = {name: RawSQL(text, []) for name, text in columns.items()}  # noqa: S611
    found = list(rows.without_large_fields().annotate(**annotations)[:count])
    for execution in found:
        values = vars(execution)
        kept = {name: values.pop(f"beginning_of_{name}") for name in LARGE_FIELDS}
        sizes = {name: values.pop(f"size_of_{name}") for name in LARGE_FIELDS}
        # Characters may have several bytes: a beginning with fewer than were asked for is whole.
        execution.cut = {
            name: size
            for name, size in sizes.items()
            if size > most[name] and (kept[name] is None or len(kept[name]) >= most[name])
        }
        texts = {name: kept.pop(name) for name in JSON_FIELDS if name in execution.cut}
        _set(execution, kept)
        values |= {name: text for name, text in texts.items() if text is not None}
        execution.left_out = ()
    return found


def _beginning(name: str, most: int, json_texts: bool) -> str:
    if name not in JSON_FIELDS:
        return f"substring({_TABLE}.{name} FROM 1 FOR {most})"
    if json_texts:
        return f"substring({_TABLE}.{name}::text FROM 1 FOR {most})"
    return f"CASE WHEN {size_of(name)} <= {most} THEN {_TABLE}.{name} END"


def fill(executions: Sequence[Execution]) -> Sequence[Execution]:
    """Add the fields that are small. `left_out` of each names the others, which are empty."""
    with connection.cursor() as cursor:
        cursor.execute(_FILL, [[execution.pk for execution in executions]])
        found = {row[0]: row[1:] for row in cursor.fetchall()}
    for execution in executions:
        kept = dict(zip(LARGE_FIELDS, found.get(execution.pk, ()), strict=False))
        if not execution.is_finished:  # as it was read: it may have ended since
            kept |= dict.fromkeys(OUTPUTS, b"")
        _set(execution, kept)
    return executions


def _set(execution: Execution, kept: dict[str, Any]) -> None:
    for name in LARGE_FIELDS:
        value = kept.get(name)
        if isinstance(value, str) and name in JSON_FIELDS:
            value = json.loads(value)
        setattr(execution, name, _EMPTY[name] if value is None else value)
    execution.left_out = tuple(name for name in LARGE_FIELDS if kept.get(name) is None)


def pieces(execution: Execution, name: str) -> Iterator[bytes]:
    """A large field that is not empty, in pieces; texts as UTF-8, and JSON as its text.

    Raises Execution.DoesNotExist where it was deleted meanwhile.
    """
    column = f"convert_to({name}::text, 'UTF8')" if name in (*JSON_FIELDS, "code") else name
    statement = f"SELECT substring({column} FROM %s FOR %s) FROM {_TABLE} WHERE id = %s"  # noqa: S608
    most = _JSON_PIECE_BYTES if name in JSON_FIELDS else PIECE_BYTES
    position = 1
    while True:
        with connection.cursor() as cursor:
            cursor.execute(statement, [position, most, execution.pk])
            row = cursor.fetchone()
        if row is None:
            raise Execution.DoesNotExist
        piece = bytes(row[0])
        yield piece
        if len(piece) < most:
            return
        position += len(piece)


BIG_COLUMNS = (*LARGE_FIELDS, "error_reason")
