"""What a test has committed is deleted after it.

Django truncates every table and registers the models' permissions anew: sixty milliseconds and
more, a thousand times. Here rows are deleted where there are some, and permissions stay.
"""

from __future__ import annotations

from functools import cache

from django.db import connection, transaction
from django.test import TransactionTestCase

KEPT = {"django_migrations", "django_content_type", "auth_permission"}
"""Written when the database is made; the same for every test."""


def delete_rows(_case: TransactionTestCase) -> None:
    """In place of Django's `flush`. Like it, waits for transactions that a test left open."""
    tables = _tables()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {', '.join(tables)}")
        cursor.execute(_filled(tables))
        (filled,) = cursor.fetchone()
        for table in filled:
            cursor.execute(f"DELETE FROM {table}")  # noqa: S608 -- a quoted name


@cache
def _tables() -> tuple[str, ...]:
    """Quoted names, so that they can stand in statements."""
    names = set(connection.introspection.table_names()) - KEPT
    return tuple(connection.ops.quote_name(name) for name in sorted(names))


@cache
def _filled(tables: tuple[str, ...]) -> str:
    looked_at = (f"CASE WHEN EXISTS (SELECT FROM {each}) THEN '{each}' END" for each in tables)
    return f"SELECT array_remove(ARRAY[{', '.join(looked_at)}], NULL)"
