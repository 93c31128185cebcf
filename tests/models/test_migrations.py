"""The migrations that stand for many: a database that has applied those lacks nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.migration import Migration
from psycopg.conninfo import conninfo_to_dict

from codeexec.configuration import BASE_DIR
from tests.support.databases import database_of_its_own, migrated

OURS = ("audit", "environments_app", "sessions_app")
SCHEMA = (
    """SELECT relname, relpersistence, reloptions, attname, format_type(atttypid, atttypmod),
              attnotnull, attstorage, attidentity, pg_get_expr(adbin, adrelid)
       FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
       LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
       WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'""",
    """SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint
       WHERE connamespace = 'public'::regnamespace""",
    "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "SELECT tgrelid::regclass, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
)
CALL = "from django.core.management import call_command"
RAW = (
    "code_executor_queue",
    "code_executor_clients_changed",
    "event_of_execution",
    "autovacuum_analyze_scale_factor=0.02",
    "ON DELETE CASCADE",
)
"""What no model says, and the migrations must."""


def squashed() -> list[Migration]:
    found = MigrationLoader(None, ignore_no_migrations=True).disk_migrations.values()
    return [each for each in found if each.app_label in OURS and each.replaces]


def manage(url: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=BASE_DIR,
        env=os.environ | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
    )


def schema_of(url: str) -> list[str]:
    with psycopg.connect(url) as reader:
        return [str(row) for query in SCHEMA for row in sorted(map(str, reader.execute(query)))]


@pytest.fixture(scope="module")
def older_template() -> Iterator[str]:
    """Name of a database as the migrations left it that others now stand for."""
    with database_of_its_own("older") as url:
        targets = [(each.app_label, each.name) for each in squashed()]
        code = f"[call_command('migrate', *target, verbosity=0) for target in {targets}]"
        done = manage(url, "shell", "-v", "0", "-c", f"{CALL}; {code}")
        assert (done.returncode, done.stderr) == (0, "")
        with psycopg.connect(url, autocommit=True) as writer:
            for each in squashed():
                _forget(writer, each.app_label, each.name)
                for app, name in each.replaces:
                    _record(writer, app, name)
        yield conninfo_to_dict(url)["dbname"]


@pytest.fixture
def older(older_template: str) -> Iterator[str]:
    with database_of_its_own("older", template=older_template) as url:
        yield url


def _forget(writer: psycopg.Connection[Any], app: str, name: str) -> None:
    writer.execute("DELETE FROM django_migrations WHERE (app, name) = (%s, %s)", [app, name])


def _record(writer: psycopg.Connection[Any], app: str, name: str) -> None:
    values = "INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, now())"
    writer.execute(values, [app, name])


def test_each_app_has_one() -> None:
    assert sorted(each.app_label for each in squashed()) == list(OURS)


def test_an_older_database_gets_what_a_new_one_has(older: str) -> None:
    done = manage(older, "migrate", "--no-input")
    assert done.returncode == 0, done.stderr
    assert "squashed" not in done.stdout  # nothing is made twice
    with database_of_its_own("newer", template=migrated()) as newer:
        schema = schema_of(newer)
        assert schema_of(older) == schema
    assert all(any(raw in line for line in schema) for raw in RAW)


def test_a_database_that_is_older_still_is_refused(older: str) -> None:
    with psycopg.connect(older, autocommit=True) as writer:
        _forget(writer, "sessions_app", "0027_session_opening")
    before = schema_of(older)
    done = manage(older, "migrate", "--no-input")
    assert done.returncode == 1
    assert "some of the replaced migrations are already applied" in done.stderr
    assert schema_of(older) == before
