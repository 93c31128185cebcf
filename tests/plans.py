"""Which indexes PostgreSQL uses for a query."""

from __future__ import annotations

import json
from typing import Any

from django.db.models import QuerySet


def indexes_used(query: QuerySet[Any, Any]) -> set[str]:
    """Names of the indexes in the query's plan. Fails where a whole table is read."""
    (plan,) = json.loads(query.explain(format="json"))
    nodes = list(_nodes(plan["Plan"]))
    scanned = [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"]
    assert not scanned, f"read from end to end: {scanned}"
    return {node["Index Name"] for node in nodes if "Index Name" in node}


def _nodes(plan: dict[str, Any]) -> Any:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
