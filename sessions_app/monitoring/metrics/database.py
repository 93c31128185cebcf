"""The database: how many rows (its own estimate, which costs nothing), bytes and connections."""

from __future__ import annotations

from collections.abc import Iterator

from django.apps import apps
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from codeexec.db.postgres import fetch_all
from sessions_app.monitoring.metrics.present import gauge, single

_TABLES = """
SELECT relname, GREATEST(reltuples, 0), pg_total_relation_size(oid)
FROM pg_class
WHERE oid = ANY(SELECT to_regclass(name) FROM unnest(%s::text[]) AS name)
ORDER BY relname
"""
_CONNECTIONS = """
SELECT coalesce(state, 'unknown'), count(*)
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
GROUP BY 1 ORDER BY 1
"""
_APPS = ("environments_app", "sessions_app", "audit", "django_q")


class DatabaseCollector(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily]:
        rows = gauge("table_rows", "Rows, as the planner estimates them.", "table")
        size = gauge("table_bytes", "Bytes of a table and its indexes.", "table")
        models = (model for label in _APPS for model in apps.get_app_config(label).get_models())
        tables = [model._meta.db_table for model in models]
        for table, estimate, bytes_on_disk in fetch_all(_TABLES, [tables]):
            rows.add_metric([table], estimate)
            size.add_metric([table], bytes_on_disk)
        yield from (rows, size)
        connections = gauge("database_connections", "Of all processes, by state.", "state")
        for state, count in fetch_all(_CONNECTIONS):
            connections.add_metric([state], count)
        yield connections
        ((most,),) = fetch_all("SELECT current_setting('max_connections')::int")
        yield single("database_connections_max", "That the server takes.", most)
