-- The statements of events: the output of running programs, for their viewers.


-- WRITE_EVENTS
-- Stores a batch of running programs' output, and notifies the viewers of the sessions.
WITH written AS (
    INSERT INTO sessions_app_event (execution_id, number, stage, stream, start, data)
    SELECT * FROM unnest(
        %(executions)s::uuid[], %(numbers)s::integer[], %(stages)s::text[], %(streams)s::text[],
        %(starts)s::integer[], %(data)b::bytea[]
    )
    ON CONFLICT DO NOTHING  -- it was sent before, and its answer was lost
)
SELECT pg_notify(%(channel)s, session), set_config('synchronous_commit', 'off', true)
FROM unnest(%(sessions)s::text[]) AS session


-- REMOVE_EVENTS
-- Removes the events of executions that have a result.
WITH removed AS (DELETE FROM sessions_app_event WHERE execution_id = ANY(%s))
SELECT set_config('synchronous_commit', 'off', true)


-- KEEP_EVENTS
-- The events of an execution without a result become its output.
WITH event AS (
    DELETE FROM sessions_app_event WHERE execution_id = %(execution)s
    RETURNING number, data, stage || ' ' || stream AS written
), joined AS (
    SELECT
        string_agg(data, ''::bytea ORDER BY number) FILTER (WHERE written = 'run stdout')
            AS stdout,
        string_agg(data, ''::bytea ORDER BY number) FILTER (WHERE written = 'run stderr')
            AS stderr,
        string_agg(data, ''::bytea ORDER BY number) FILTER (WHERE written = 'compile stdout')
            AS compile_stdout,
        string_agg(data, ''::bytea ORDER BY number) FILTER (WHERE written = 'compile stderr')
            AS compile_stderr
    FROM event
), kept AS (
    UPDATE sessions_app_execution AS row
    SET stdout = COALESCE(joined.stdout, ''), stderr = COALESCE(joined.stderr, ''),
        compile_stdout = COALESCE(joined.compile_stdout, ''),
        compile_stderr = COALESCE(joined.compile_stderr, '')
    FROM joined
    WHERE row.id = %(execution)s AND EXISTS (SELECT FROM event)
    RETURNING row.session_id
)
UPDATE sessions_app_session AS row
SET stored_bytes = row.stored_bytes + (SELECT sum(octet_length(data)) FROM event)
FROM kept
WHERE row.id = kept.session_id


-- WATCH
-- A session, one of its executions, and the output written since: a row for each event.
SELECT
    statement_timestamp(), session.status, session.expires_at, session.last_sequence,
    {execution_columns},
    event.number, event.stage, event.stream, event.start, event.data
FROM sessions_app_session AS session
LEFT JOIN sessions_app_execution AS execution
    ON execution.session_id = session.id AND execution.sequence = %(sequence)s
LEFT JOIN LATERAL (
    SELECT number, stage, stream, start, data,
           sum(octet_length(data)) OVER (ORDER BY number) - octet_length(data) AS bytes_before
    FROM sessions_app_event
    WHERE execution_id = execution.id AND execution.status = 'running' AND number > %(row)s
    ORDER BY number
    LIMIT %(limit)s
) AS event ON event.bytes_before < %(most_bytes)s
WHERE session.id = %(session)s
ORDER BY event.number


-- WATCH_REST
-- Of each output of an ended execution: its length, and the bytes from a position on.
SELECT {output_columns}
FROM sessions_app_execution
WHERE id = %(execution)s


-- WATCH_QUEUED
-- The executions behind another one in its session.
SELECT sequence, id, queued_at
FROM sessions_app_execution
WHERE session_id = %(session)s AND sequence > %(after)s
ORDER BY sequence
LIMIT %(limit)s


-- LATEST
-- The number of the execution that runs, or runs next.
SELECT LEAST(
    session.last_sequence + 1,
    (SELECT sequence FROM sessions_app_execution
     WHERE session_id = session.id AND status = 'running'),
    (SELECT min(sequence) FROM sessions_app_execution
     WHERE session_id = session.id AND status = 'queued')
)
FROM sessions_app_session AS session
WHERE session.id = %(session)s
