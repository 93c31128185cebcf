"""PostgreSQL itself: its server, the migrations, and whether clocks agree with it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models.functions import Now

from codeexec.cli import first_line
from codeexec.db.postgres import connection_parameters, database_now
from sessions_app.formats import duration
from sessions_app.models import Node
from sessions_app.models.node import TAKEN_DOWN_AFTER
from sessions_app.monitoring.diagnosis.findings import Finding, failure, ok, warning

LEAST_VERSION = 14
"""Of PostgreSQL, which Django 5.2 asks for."""
SLOW_MS = 20.0
CROWDED = 0.8
APART_SECONDS = (1.0, 5.0)
"""Differences of clocks from which on they are a warning, and a failure."""

_STATEMENT_TIMEOUT = "5s"


def check_database() -> Iterator[Finding]:
    try:
        with psycopg.connect(**connection_parameters("check_stack"), autocommit=True) as opened:
            yield from _server(opened)
    except psycopg.Error as error:
        yield failure(
            f"{_address()} can't be used: {first_line(error)}",
            "Start PostgreSQL, or set DATABASE_URL (and DATABASE_PASSWORD) to where it is; without "
            "DATABASE_URL, `scripts/server` starts a private one.",
        )


def _address() -> str:
    known = connection.settings_dict
    host, port = known.get("HOST") or "its local socket", known.get("PORT")
    return f"the database {known.get('NAME')!r} at {host}" + (f" port {port}" if port else "")


def _server(opened: psycopg.Connection) -> Iterator[Finding]:
    version = opened.info.server_version // 10_000
    began = time.monotonic()
    opened.execute("SELECT 1")
    milliseconds = (time.monotonic() - began) * 1000
    text = f"PostgreSQL {version} answers in {milliseconds:.1f} ms"
    if version < LEAST_VERSION:
        yield failure(f"{text}, and is too old", f"Upgrade it to {LEAST_VERSION} or newer.")
    elif milliseconds > SLOW_MS:
        yield warning(
            f"{text}, which every run pays several times",
            "Bring it closer to the API and the workers, or see what keeps it busy.",
        )
    else:
        yield ok(text)
    yield from _connections(opened)
    yield from _server_settings(opened)


def _connections(opened: psycopg.Connection) -> Iterator[Finding]:
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


def _server_settings(opened: psycopg.Connection) -> Iterator[Finding]:
    query = "SELECT current_setting('fsync'), current_setting('server_encoding')"
    fsync, encoding = opened.execute(query).fetchone() or ("", "")
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
    """No statement of these checks waits for a lock longer than this."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout TO '{_STATEMENT_TIMEOUT}'")


def check_migrations() -> Iterator[Finding]:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    missing = [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
    known = executor.loader.disk_migrations
    replaced = {name for migration in known.values() for name in migration.replaces}
    applied = set(executor.loader.applied_migrations)
    unknown = sorted(f"{app}.{name}" for app, name in applied - set(known) - replaced)
    if missing:
        yield failure(
            f"{len(missing)} not applied: {', '.join(missing[:5])}"
            + (" …" if len(missing) > 5 else ""),
            "`manage.py migrate` applies them; then start the API and the workers again.",
        )
    elif unknown:
        yield warning(
            f"the database has migrations that this version doesn't know: {', '.join(unknown[:5])}",
            "Run the version that made them, or a newer one.",
        )
    else:
        yield ok(f"all {len(applied - replaced)} are applied")


def check_clocks() -> Iterator[Finding]:
    connection.ensure_connection()
    before = time.time()
    there = database_now().timestamp()
    here = (before + time.time()) / 2
    yield _clock_difference("this host's clock and the database's", here - there)
    for node in Node.objects.filter(heartbeat_at__gt=Now() - TAKEN_DOWN_AFTER).order_by("name"):
        ahead = node.clock_ahead.total_seconds()
        if abs(ahead) >= APART_SECONDS[0]:
            yield _clock_difference(f"the clocks of node {node.name} and of the database", ahead)


def _clock_difference(whose: str, seconds: float) -> Finding:
    text = f"{whose} differ by {duration(abs(seconds))}"
    advice = "Have both hosts keep time: `timedatectl set-ntp true`, or chrony."
    if abs(seconds) >= APART_SECONDS[1]:
        return failure(f"{text}: sessions may expire too early or too late", advice)
    return warning(text, advice) if abs(seconds) >= APART_SECONDS[0] else ok(text)
