"""Which indexes PostgreSQL uses for a query, and how much of the history it reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from django.db import connection
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext

HISTORY = ("sessions_app_session", "sessions_app_execution")


def indexes_used(query: QuerySet[Any, Any]) -> set[str]:
    """Names of the indexes in the query's plan. Fails where a whole table is read."""
    (plan,) = json.loads(query.explain(format="json"))
    nodes = list(_nodes(plan["Plan"]))
    scanned = [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"]
    assert not scanned, f"read from end to end: {scanned}"
    return {node["Index Name"] for node in nodes if "Index Name" in node}


def history_read(call: Callable[[], Any]) -> dict[str, int]:
    """The SELECTs that `call` sends, each with the number of sessions and executions that
    PostgreSQL reads for it, whether they are in the result or not.
    """
    with CaptureQueriesContext(connection) as queries:
        call()
    sent = [query["sql"] for query in queries.captured_queries]
    return {sql: rows_read(sql) for sql in sent if sql.startswith("SELECT")}


def rows_read(sql: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
        answer = cursor.fetchone()[0]
    (plan,) = json.loads(answer) if isinstance(answer, str) else answer
    return sum(_looked_at(node) for node in _nodes(plan["Plan"]))


def _looked_at(node: dict[str, Any]) -> int:
    if node.get("Relation Name") not in HISTORY or node["Node Type"] == "ModifyTable":
        return 0
    thrown_away = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    rows = node["Actual Rows"] + sum(node.get(name, 0) for name in thrown_away)
    return round(rows * node["Actual Loops"])


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
