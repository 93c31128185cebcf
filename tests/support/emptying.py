"""What a test has committed is deleted after it.

Django truncates every table and registers the models' permissions anew: sixty milliseconds and
more, a thousand times. Here rows are deleted where there are some, and permissions stay. Only where
dead rows have piled up, in a test that wrote many, all tables are truncated: each later test would
read through them.
"""

from __future__ import annotations

from functools import cache

from django.db import connection, transaction
from django.test import TransactionTestCase

KEPT = {"django_migrations", "django_content_type", "auth_permission"}
"""Written when the database is made; the same for every test."""


LARGE_BYTES = 2_000_000


def delete_rows(_case: TransactionTestCase) -> None:
    """In place of Django's `flush`. Like it, waits for transactions that a test left open."""
    tables = _tables()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {', '.join(tables)}")
        cursor.execute(_filled(tables))
        (filled,) = cursor.fetchone()
        if filled is None:
            truncate()
            return
        for table in filled:
            cursor.execute(f"DELETE FROM {table}")  # noqa: S608 -- a quoted name


def truncate() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(_tables())}")


@cache
def _tables() -> tuple[str, ...]:
    """Quoted names, so that they can stand in statements."""
    names = set(connection.introspection.table_names()) - KEPT
    return tuple(connection.ops.quote_name(name) for name in sorted(names))


@cache
def _filled(tables: tuple[str, ...]) -> str:
    """The tables that have rows; NULL where all together are large."""
    sizes = (f"pg_relation_size('{each}')" for each in tables)
    looked_at = (f"CASE WHEN EXISTS (SELECT FROM {each}) THEN '{each}' END" for each in tables)
    return f"""
        SELECT CASE WHEN {" + ".join(sizes)} < {LARGE_BYTES}
               THEN array_remove(ARRAY[{", ".join(looked_at)}], NULL) END
    """
