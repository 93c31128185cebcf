"""What is in PostgreSQL, and what it says of the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models.functions import Now

from codeexec.cli import first_line
from codeexec.db.postgres import connection_parameters
from sessions_app.formats import duration, size
from sessions_app.models import Node
from sessions_app.models.node import TAKEN_DOWN_AFTER
from sessions_app.monitoring.diagnosis.findings import Found, failure, ok, warning

LEAST_VERSION = 14
"""Of PostgreSQL, which Django 5.2 asks for."""
SLOW_MS = 20.0
CROWDED = 0.8
BIG_BYTES = 20 * 1024**3
APART_SECONDS = (1.0, 5.0)
"""From when on clocks that differ are a warning, and a failure."""

_STATEMENT_TIMEOUT = "5s"


def look_at_database() -> Iterator[Found]:
    try:
        with psycopg.connect(**connection_parameters("check_stack"), autocommit=True) as opened:
            yield from _server(opened)
    except psycopg.Error as error:
        yield failure(
            f"{_place()} can't be used: {first_line(error)}",
            "Start PostgreSQL, or set DATABASE_URL (and DATABASE_PASSWORD) to where it is; without "
            "DATABASE_URL, `scripts/server` starts a private one.",
        )


def _place() -> str:
    known = connection.settings_dict
    host, port = known.get("HOST") or "its local socket", known.get("PORT")
    return f"the database {known.get('NAME')!r} at {host}" + (f" port {port}" if port else "")


def _server(opened: psycopg.Connection) -> Iterator[Found]:
    version = opened.info.server_version // 10_000
    began = time.monotonic()
    opened.execute("SELECT 1")
    milliseconds = (time.monotonic() - began) * 1000
    said = f"PostgreSQL {version} answers in {milliseconds:.1f} ms"
    if version < LEAST_VERSION:
        yield failure(f"{said}, and is too old", f"Upgrade it to {LEAST_VERSION} or newer.")
    elif milliseconds > SLOW_MS:
        yield warning(
            f"{said}, which every run pays several times",
            "Bring it closer to the API and the workers, or see what keeps it busy.",
        )
    else:
        yield ok(said)
    yield from _connections(opened)
    yield from _server_settings(opened)


def _connections(opened: psycopg.Connection) -> Iterator[Found]:
    row = opened.execute(
        "SELECT count(*), current_setting('max_connections')::int FROM pg_stat_activity"
        " WHERE backend_type = 'client backend'"
    ).fetchone()
    used, most = row or (0, 1)
    text = f"{used} of {most} connections are used"
    if used > most * CROWDED:
        yield warning(text, "Raise max_connections, or lower API_THREADS.")
    else:
        yield ok(text)


def _server_settings(opened: psycopg.Connection) -> Iterator[Found]:
    asked = "SELECT current_setting('fsync'), current_setting('server_encoding')"
    fsync, encoding = opened.execute(asked).fetchone() or ("", "")
    if fsync != "on":
        yield warning(
            "fsync is off: a crash of its host can destroy the database", "Set fsync = on."
        )
    if encoding != "UTF8":
        yield failure(
            f"its encoding is {encoding}, which can't hold what programs print",
            "Make a database with ENCODING 'UTF8'.",
        )


def bound_statements() -> None:
    """None of ours waits for a lock longer than this."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout TO '{_STATEMENT_TIMEOUT}'")


def look_at_migrations() -> Iterator[Found]:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    missing = [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
    applied = executor.loader.applied_migrations
    unknown = sorted(
        f"{app}.{name}" for app, name in set(applied) - set(executor.loader.disk_migrations)
    )
    if missing:
        yield failure(
            f"{len(missing)} not applied: {', '.join(missing[:5])}"
            + (" …" if len(missing) > 5 else ""),
            "`manage.py migrate` applies them; then start the API and the workers again.",
        )
    elif unknown:
        yield warning(
            f"the database has some that this version doesn't know: {', '.join(unknown[:5])}",
            "Run the version that made them, or a newer one.",
        )
    else:
        yield ok(f"all {len(applied)} are applied")


def look_at_clock() -> Iterator[Found]:
    with connection.cursor() as cursor:
        before = time.time()
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float")
        there = float(cursor.fetchone()[0])
        here = (before + time.time()) / 2
    yield _difference("this host's clock and the database's", here - there)
    for node in Node.objects.filter(heartbeat_at__gt=Now() - TAKEN_DOWN_AFTER).order_by("name"):
        ahead = node.clock_ahead.total_seconds()
        if abs(ahead) >= APART_SECONDS[0]:
            yield _difference(f"the clocks of node {node.name} and of the database", ahead)


def _difference(whose: str, seconds: float) -> Found:
    text = f"{whose} differ by {duration(abs(seconds))}"
    advice = "Have both hosts keep time: `timedatectl set-ntp true`, or chrony."
    if abs(seconds) >= APART_SECONDS[1]:
        return failure(f"{text}: sessions are taken for expired", advice)
    return warning(text, advice) if abs(seconds) >= APART_SECONDS[0] else ok(text)


def look_at_size() -> Iterator[Found]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        total = int(cursor.fetchone()[0])
    text = f"the database takes {size(total)}"
    if total > BIG_BYTES and not settings.CODE_EXECUTOR["HISTORY_DAYS"]:
        yield warning(
            f"{text}, and nothing of its history is ever deleted",
            "Set HISTORY_DAYS, or run `manage.py prune_history --older-than 90d`.",
        )
    else:
        yield ok(text)
