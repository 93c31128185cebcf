"""The SQL of input that is typed into programs."""

INPUT_CHANNEL = "code_executor_input_"
"""Followed by a node's id; its executor listens from its first interactive run on. The payload is
the id of an execution that has more input."""

STATE = """
    SELECT
        execution.interactive, execution.status,
        COALESCE(input.accepted, 0), COALESCE(input.ended, false),
        GREATEST(0, COALESCE(input.accepted, 0) - execution.stdin_read),
        session.stored_bytes,
        COALESCE((
            SELECT used_bytes FROM sessions_app_clientstorage WHERE client_id = session.client_id
        ), 0)
    FROM sessions_app_execution AS execution
    JOIN sessions_app_session AS session ON session.id = execution.session_id
    LEFT JOIN LATERAL (
        SELECT start + octet_length(data) AS accepted, ends AS ended
        FROM sessions_app_inputpiece
        WHERE execution_id = execution.id
        ORDER BY start DESC
        LIMIT 1
    ) AS input ON true
    WHERE execution.id = %(execution)s
      AND (%(sees_everything)s OR session.client_id = %(client)s::bigint)
      AND (%(of_token)s::uuid IS NULL OR session.id = %(of_token)s::uuid)
"""
"""What has been accepted, and what bounds the rest. No row: the caller may not see it."""

ADD = """
    WITH added AS (
        INSERT INTO sessions_app_inputpiece (execution_id, start, data, ends, added_at)
        SELECT id, %(start)s, %(data)b, %(ends)s, statement_timestamp()
        FROM sessions_app_execution
        WHERE id = %(execution)s AND status IN ('queued', 'running')
        ON CONFLICT DO NOTHING
        RETURNING execution_id
    ), counted AS (
        UPDATE sessions_app_session AS session
        SET stored_bytes = session.stored_bytes + octet_length(%(data)b)
        FROM added JOIN sessions_app_execution AS execution ON execution.id = added.execution_id
        WHERE session.id = execution.session_id
        RETURNING session.node_id
    )
    SELECT CASE WHEN node_id IS NOT NULL
                THEN pg_notify(%(channel)s || node_id, %(execution)s::text) END
    FROM counted
"""
"""A piece, if none begins there. No row: one does, or the execution has ended."""

NEW = """
    SELECT start, data, ends
    FROM sessions_app_inputpiece
    WHERE execution_id = %s AND start >= %s
    ORDER BY start
"""
"""Of one execution, the pieces from a position on."""

READ = """
    UPDATE sessions_app_execution SET stdin_read = %s WHERE id = %s AND status = 'running'
"""
