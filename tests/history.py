"""A year of history, made by the database itself: what the tables hold when a service has grown.

    python -m tests.history --sessions 100000 --executions 1000000
    python -m tests.history --remove

The one fills the database of DATABASE_URL, that of a running service too, which must have been
seeded; the other takes out again what was put in. Rows are as the service leaves them, in the order
of their time: some sessions have many executions and some few, most programs end well, code and
output have about 200 bytes each.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import django
from django.db import connection
from django.db.models import Model

DAYS = 365
ORIGIN = '{"origin": "tests.history"}'
"""Part of the metadata of every session that is made here."""

# How many executions each of four sessions in a row has, of which the average is asked for.
_SOURCE = """
    SELECT n,
           gen_random_uuid() AS id,
           clock_timestamp() - %(days)s * interval '1 day' * (1 - n / %(sessions)s::float) AS made,
           (ARRAY[%(few)s, %(some)s, %(average)s, %(many)s])[n %% 4 + 1] AS executions,
           n > %(sessions)s - %(live)s AS live,
           n %% 100 = 7 AS failed,
           (ARRAY['client', 'client', 'expired', 'finished'])[n / 4 %% 4 + 1] AS reason
      FROM generate_series(1, %(sessions)s) AS n
"""

_SESSION = {
    "id": "id",
    "environment_id": """
        (SELECT array_agg(id ORDER BY name) FROM environments_app_environment)[
            1 + n %% (SELECT count(*) FROM environments_app_environment)]
    """,
    "node_id": """
        (SELECT array_agg(id ORDER BY name) FROM sessions_app_node)[
            1 + n %% nullif((SELECT count(*) FROM sessions_app_node), 0)]
    """,
    "status": "CASE WHEN live THEN 'ready' WHEN failed THEN 'error' ELSE 'stopped' END",
    "one_shot": "reason = 'finished'",
    "metadata": f"""
        '{ORIGIN}'::jsonb || jsonb_build_object(
            'interview', to_hex(n), 'candidate', 'Candidate ' || n, 'position', n %% 40)
    """,
    "ttl_seconds": "3600",
    "container_id": "CASE WHEN live THEN repeat(md5(n::text), 2) ELSE '' END",
    "last_sequence": "executions",
    "created_at": "made",
    "ready_at": "made + interval '10 ms'",
    "last_activity_at": "made + executions * interval '30 s'",
    "last_execution_at": "made + executions * interval '30 s'",
    "expires_at": """
        CASE WHEN live THEN now() ELSE made + executions * interval '30 s' END + interval '1 h'
    """,
    "closed_at": "CASE WHEN NOT live THEN made + executions * interval '30 s' END",
    "stop_reason": "CASE WHEN live OR failed THEN '' ELSE reason END",
    "error_reason": "CASE WHEN failed AND NOT live THEN 'Its sandbox did not start.' ELSE '' END",
}

_RUNS = """
    SELECT id AS session_id, n, sequence,
           made + (sequence - 1) * interval '30 s' AS queued,
           (n * 37 + sequence * 11) %% 100 AS dice
      FROM source, generate_series(1, executions) AS sequence
"""

_EXECUTION = {
    "id": "gen_random_uuid()",
    "session_id": "session_id",
    "sequence": "sequence",
    "status": """
        CASE WHEN dice < 98 THEN 'completed' WHEN dice < 99 THEN 'cancelled' ELSE 'error' END
    """,
    "code": """ 'x = ' || n || repeat(E'\\nprint("a line of the program", x)', 6) """,
    "filename": "'main.py'",
    "timeout_seconds": "30",
    "verdict": """
        CASE WHEN dice < 80 THEN 'ok' WHEN dice < 91 THEN 'runtime_error'
             WHEN dice < 94 THEN 'compile_error' WHEN dice < 97 THEN 'time_limit'
             WHEN dice < 98 THEN 'memory_limit' WHEN dice < 99 THEN 'cancelled'
             ELSE 'internal_error' END
    """,
    "exit_code": "CASE WHEN dice < 80 THEN 0 ELSE 1 END",
    "stdout": "convert_to(repeat(sequence || E' is a line of the output\\n', 7), 'UTF8')",
    "wall_seconds": "0.01 + dice / 500.0",
    "cpu_seconds": "0.01 + dice / 1000.0",
    "memory_peak_bytes": "9000000 + dice * 100000",
    "prestarted": "CASE WHEN dice < 98 THEN dice %% 3 > 0 END",
    "error_reason": "CASE WHEN dice = 99 THEN 'The worker that ran it has died.' ELSE '' END",
    "worker": "'node/' || 1000 + n %% 4",
    "received_at": "queued - interval '1 ms'",
    "queued_at": "queued",
    "claimed_at": "queued + interval '1 ms'",
    "started_at": "queued + interval '3 ms'",
    "finished_at": "queued + interval '20 ms'",
}


def fill(*, sessions: int, executions: int, live: int = 0) -> None:
    """Add so much history. The last `live` sessions are ready, which takes a node.

    Not for a node whose worker is up: it would look for their containers, and start others.
    """
    from sessions_app.models import Execution, Session

    average = executions // sessions
    few, some = average // 4, average // 2
    numbers = {"sessions": sessions, "live": live, "days": DAYS, "average": average}
    numbers |= {"few": few, "some": some, "many": 3 * average - few - some}
    statement = f"""
        WITH source AS ({_SOURCE}), made AS ({_insert(Session, _SESSION, "source")})
        {_insert(Execution, _EXECUTION, f"({_RUNS}) AS runs")}
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, numbers)
    tidy()


def remove() -> None:
    """Take out what `fill` has put in."""
    theirs = "(SELECT id FROM sessions_app_session WHERE metadata @> %s)"
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM sessions_app_execution WHERE session_id IN {theirs}", [ORIGIN])
        cursor.execute("DELETE FROM sessions_app_session WHERE metadata @> %s", [ORIGIN])
    tidy()


def tidy() -> None:
    """What autovacuum does in its own time: the planner is told what there is now."""
    command = "ANALYZE" if connection.in_atomic_block else "VACUUM (ANALYZE)"
    with connection.cursor() as cursor:
        cursor.execute(f"{command} sessions_app_session, sessions_app_execution")


def _insert(model: type[Model], expressions: dict[str, str], source: str) -> str:
    """Columns without an expression get what a new object has in them."""
    values = _defaults(model)
    values |= {column: text for column, text in expressions.items() if column in values}
    columns = ", ".join(values)
    return f"""
        INSERT INTO {model._meta.db_table} ({columns}) SELECT {", ".join(values.values())}
          FROM {source}
    """


def _defaults(model: type[Model]) -> dict[str, str]:
    """SQL for the default of each column: all that are not told by an expression are empty."""
    empty = {"CharField": "''", "TextField": "''", "BinaryField": "''::bytea"}
    found = {}
    for field in model._meta.concrete_fields:
        default: Any = field.get_default()
        text = empty.get(field.get_internal_type(), "NULL")
        if isinstance(default, bool | int):
            text = str(default)
        elif isinstance(default, dict | list):
            text = f"'{default!r}'"
        found[field.column] = "NULL" if field.null else text
    return found


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "codeexec.settings")
    django.setup()
    parser = argparse.ArgumentParser(prog="python -m tests.history", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=0, help="of the sessions; 0 while a node is up")
    parser.add_argument("--remove", action="store_true")
    options = vars(parser.parse_args())
    started = time.monotonic()
    if options.pop("remove"):
        remove()
    else:
        fill(**options)
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
