"""Databases that are copies of templates: migrating one takes seconds, a copy takes none.

A template is made once in a test run, by the first of its processes that needs it, and dropped
when the run ends.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psycopg
from django.db import connection
from django.db.models import Model
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.parallel import locked
from tests.support.this_run import FIRST, RUN

ROOT = Path(__file__).resolve().parents[2]
MIGRATED, SEEDED = f"migrated_{RUN}", f"seeded_{RUN}"
ONE_WARM = """
UPDATE environments_app_environment
SET warm_pool_size = (name = 'python')::int, warm_pool_max = (name = 'python')::int
"""
"""What a deployment of the tests starts in advance: one sandbox, which some of them use."""


@contextmanager
def database_of_its_own(name: str, *, template: str = "template1") -> Iterator[str]:
    """URL of a new database, like the template, on the server of DATABASE_URL; dropped at the
    end. Its name begins as given.
    """
    name = f"{name}_{secrets.token_hex(4)}"
    _create(name, template)
    try:
        yield _url(name)
    finally:
        _drop(name)


def migrated() -> str:
    """Name of a template that has its tables and nothing else."""
    return _migrated(os.environ["DATABASE_URL"])


def seeded() -> str:
    """Name of a template that has the shipped environments, too."""
    return _seeded(os.environ["DATABASE_URL"])


@cache
def _migrated(_server_url: str) -> str:
    with _made_once(MIGRATED, "template1") as url:
        if url:
            _manage(url, "migrate", "--no-input")
    return MIGRATED


@cache
def _seeded(_server_url: str) -> str:
    template = migrated()
    with _made_once(SEEDED, template) as url:
        if url:
            _manage(url, "seed_environments")
            with psycopg.connect(url, autocommit=True) as writer:
                writer.execute(ONE_WARM)
    return SEEDED


@contextmanager
def _made_once(name: str, like: str) -> Iterator[str | None]:
    """The URL of what the caller is to fill; None where that has been done."""
    with locked(name):
        if _exists(name):
            yield None
            return
        _create(name, like)
        try:
            yield _url(name)
        except BaseException:
            _drop(name)
            raise


def _manage(url: str, *command: str) -> None:
    subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": url},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def rows_of(model: type[Model]) -> str:
    """All of them, as `insert_rows` takes them."""
    table = connection.ops.quote_name(model._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT json_agg(each) FROM {table} each")  # noqa: S608 -- a quoted name
        return json.dumps(cursor.fetchone()[0])


def insert_rows(rows: dict[type[Model], str]) -> None:
    """Rows again that `rows_of` has read, with one statement for all tables."""
    inserts = [_INSERT.format(connection.ops.quote_name(model._meta.db_table)) for model in rows]
    parts = [f"part{number} AS ({insert})" for number, insert in enumerate(inserts)]
    with connection.cursor() as cursor:
        cursor.execute(f"WITH {', '.join(parts)} SELECT", list(rows.values()))


_INSERT = "INSERT INTO {0} SELECT * FROM json_populate_recordset(NULL::{0}, %s)"


def copy_row(row: Model, count: int, **changed: str) -> None:
    """So many copies of a row. `changed`: SQL for columns that differ, which may use `number`."""
    table = connection.ops.quote_name(row._meta.db_table)
    columns = [field.column for field in row._meta.concrete_fields]
    values = [changed.get(column, column) for column in columns]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)}"  # noqa: S608
            f" FROM {table}, generate_series(1, %s) AS number WHERE id = %s",
            [count, row.pk],
        )


def _url(name: str) -> str:
    given = conninfo_to_dict(os.environ["DATABASE_URL"])
    user, password = given.get("user") or "postgres", given.get("password") or ""
    host, port = given.get("host") or "localhost", given.get("port", 5432)
    return f"postgresql://{user}:{password}@/{name}?host={host}&port={port}"


def _server() -> psycopg.Connection[tuple[object, ...]]:
    given = conninfo_to_dict(os.environ["DATABASE_URL"])
    return psycopg.connect(make_conninfo(**given | {"dbname": "postgres"}), autocommit=True)


def _exists(name: str) -> bool:
    with _server() as server:
        found = server.execute("SELECT FROM pg_database WHERE datname = %s", [name])
        return found.fetchone() is not None


def _create(name: str, template: str) -> None:
    with _server() as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")


def _drop(name: str) -> None:
    with _server() as server:
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@atexit.register
def _drop_templates() -> None:
    if not FIRST:
        return
    with suppress(KeyError, psycopg.OperationalError):  # no server, or none any more
        _drop(SEEDED)
        _drop(MIGRATED)
