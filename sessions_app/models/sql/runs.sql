-- The statements of runs, a round trip each. `run_queries.py` calls them.
--
-- Each locks the session's row before the execution's, as all code does. Rows that a statement
-- reads besides a row that it had to wait for are as old as its beginning: so SUBMIT and FINISH
-- decide by columns of the locked session whether there is more to run, and never by reading
-- executions. All times are the database's. run_sql.py fills in the names in braces.


-- SUBMIT
-- By the API: inserts an execution as the last of its session and wakes the executor of its node.
WITH this AS (
    SELECT statement_timestamp() AS moment  -- it may be one of several in its transaction
), session AS MATERIALIZED (
    SELECT id, status, node_id, client_id, environment_id, ttl_seconds,
           last_sequence + 1 AS sequence, stored_bytes,
           status = 'executing' OR
           status IN ('pending', 'creating', 'ready') AND expires_at > this.moment AS is_open
    FROM sessions_app_session, this
    WHERE id = %(session)s AND (%(sees_everything)s OR client_id = %(client)s::bigint)
    FOR NO KEY UPDATE OF sessions_app_session
), environment AS (
    SELECT xmin::text AS version
    FROM environments_app_environment
    WHERE id = (SELECT environment_id FROM session)
), waiting AS (
    SELECT count(*) AS here
    FROM sessions_app_execution
    WHERE session_id = (SELECT id FROM session) AND status = 'queued'
), storage AS (
    SELECT session.stored_bytes AS of_session, (
        SELECT used_bytes FROM sessions_app_clientstorage WHERE client_id = session.client_id
    ) AS of_client
    FROM session
), queue AS (
    -- A session's first never waits to be counted: its client's sessions are bounded themselves.
    SELECT CASE
        WHEN waiting.here >= %(max_queued_per_session)s THEN 'session'
        WHEN waiting.here > 0 AND %(max_queued_per_client)s <= (
            SELECT count(*)
            FROM sessions_app_session AS own
            JOIN sessions_app_execution AS its ON its.session_id = own.id
            WHERE own.client_id = session.client_id AND own.closed_at IS NULL
              AND its.status = 'queued'
        ) THEN 'client'
        WHEN storage.of_session + %(input_bytes)s::bigint > %(most_bytes_of_session)s::bigint
            THEN 'session storage'
        WHEN storage.of_client + %(input_bytes)s::bigint > %(most_bytes_of_client)s::bigint
            THEN 'client storage'
        ELSE '' END AS full_of
    FROM session, waiting, storage
), execution AS (
    INSERT INTO sessions_app_execution (
        id, session_id, sequence, status, code, filename, stdin, args, env, files, timeout_seconds,
        metadata, received_at, queued_at,
        verdict, signal, stdout, stderr, stdout_truncated, stderr_truncated,
        compile_stdout, compile_stderr, error_reason, worker, request_id, keeps_file, interactive
    )
    SELECT
        %(id)s, session.id, session.sequence, 'queued', %(code)s, %(filename)s, %(stdin)s,
        %(args)s::jsonb, %(env)s::jsonb, %(files)s::jsonb, %(timeout_seconds)s,
        %(metadata)s::jsonb, this.moment - make_interval(secs => %(seconds_since_received)s), this.moment,
        '', '', '', '', false, false, '', '', '', '', %(request_id)s, %(keeps_file)s, %(interactive)s
    FROM this, session, environment, queue
    WHERE session.is_open AND environment.version = %(version)s AND queue.full_of = ''
    RETURNING sequence, received_at, queued_at
), touched AS (
    UPDATE sessions_app_session AS row
    SET last_sequence = session.sequence,
        stored_bytes = session.stored_bytes + %(input_bytes)s::bigint,
        last_activity_at = this.moment,
        expires_at = this.moment + make_interval(secs => session.ttl_seconds)
    FROM this, session, execution
    WHERE row.id = session.id
)
SELECT
    session.is_open, environment.version, queue.full_of, execution.sequence, execution.received_at,
    execution.queued_at,
    -- In any other status, the code that changes it to ready looks for queued executions then.
    CASE WHEN session.status = 'ready' AND execution.sequence IS NOT NULL
         THEN pg_notify(
             %(runs_channel)s || session.node_id, concat(session.id, ' ', session.client_id)
         ) END,
    CASE WHEN execution.sequence IS NOT NULL
         THEN pg_notify(%(channel)s, session.id::text) END,
    CASE WHEN NOT %(durable)s THEN set_config('synchronous_commit', 'off', true) END,
    storage.of_session, storage.of_client
FROM session CROSS JOIN environment CROSS JOIN queue CROSS JOIN storage
LEFT JOIN execution ON true


-- CLAIM
-- By the executor: queued -> running, its session ready -> executing. Returns all that a run needs.
WITH begun AS (
    UPDATE sessions_app_session AS row
    SET status = 'executing'
    WHERE row.id = %(session)s AND row.status = 'ready' AND row.node_id = %(node)s
      AND EXISTS (
          SELECT FROM sessions_app_execution
          WHERE session_id = row.id AND status = 'queued'
      )
    RETURNING row.id, row.client_id, row.environment_id, row.one_shot
), next AS (
    SELECT execution.id
    FROM sessions_app_execution AS execution JOIN begun ON execution.session_id = begun.id
    WHERE execution.status = 'queued'
    ORDER BY execution.sequence
    LIMIT 1
    FOR NO KEY UPDATE OF execution
), claimed AS (
    UPDATE sessions_app_execution AS row
    SET status = 'running', worker = %(worker)s, claimed_at = now(), started_at = now(),
        lease_expires_at = now() + make_interval(secs => %(lease_seconds)s),
        revision_id = (SELECT revision_id FROM sessions_app_sandbox WHERE id = row.session_id)
    FROM next
    WHERE row.id = next.id
    RETURNING row.*
)
SELECT
    claimed.id, claimed.session_id, begun.client_id, claimed.request_id, begun.one_shot, begun.environment_id,
    environment.xmin::text, claimed.claimed_at,
    claimed.code, claimed.filename, claimed.keeps_file, claimed.interactive,
    claimed.stdin, claimed.args, claimed.env, claimed.files,
    claimed.timeout_seconds,
    sandbox.container_id, sandbox.token, sandbox.image_id, sandbox.workspace_dir
FROM begun
JOIN environments_app_environment AS environment ON environment.id = begun.environment_id
LEFT JOIN claimed ON true
LEFT JOIN sessions_app_sandbox AS sandbox ON sandbox.id = begun.id


-- FINISH
-- By the executor: running -> completed or cancelled, its session executing -> ready. Notifies the
-- waiting request, with the result where that is short, and the executor if more runs wait.
WITH session AS MATERIALIZED (
    SELECT id, status, node_id, client_id, ttl_seconds, last_sequence,
           stored_bytes + %(output_bytes)s::bigint AS stored_bytes
    FROM sessions_app_session
    WHERE id = %(session)s
    FOR NO KEY UPDATE
), finished AS (
    UPDATE sessions_app_execution AS row
    SET status = %(status)s, verdict = %(verdict)s, exit_code = %(exit_code)s,
        signal = %(signal)s, stdout = %(stdout)s, stderr = %(stderr)s,
        stdout_truncated = %(stdout_truncated)s, stderr_truncated = %(stderr_truncated)s,
        wall_seconds = %(wall_seconds)s, cpu_seconds = %(cpu_seconds)s,
        memory_peak_bytes = %(memory_peak_bytes)s, prestarted = %(prestarted)s,
        compile_exit_code = %(compile_exit_code)s, compile_stdout = %(compile_stdout)s,
        compile_stderr = %(compile_stderr)s, compile_wall_seconds = %(compile_wall_seconds)s,
        compile_stdout_truncated = %(compile_stdout_truncated)s,
        compile_stderr_truncated = %(compile_stderr_truncated)s,
        compile_reused = %(compile_reused)s,
        error_reason = %(reason)s,
        started_at = GREATEST(
            row.claimed_at, now() - make_interval(secs => %(seconds_since_started)s)
        ),
        finished_at = now(), lease_expires_at = NULL
    FROM session
    WHERE row.id = %(execution)s AND row.status = 'running'
    RETURNING row.*
), released AS (
    UPDATE sessions_app_session AS row
    SET status = 'ready', last_activity_at = now(), last_execution_at = now(),
        expires_at = now() + make_interval(secs => session.ttl_seconds),
        stored_bytes = session.stored_bytes
    FROM session, finished
    WHERE row.id = session.id AND session.status = 'executing'
    RETURNING row.id
), stopped AS (
    UPDATE sessions_app_session AS row
    SET stored_bytes = session.stored_bytes
    FROM session, finished
    WHERE row.id = session.id AND session.status <> 'executing'
)
SELECT
    finished.id IS NOT NULL, released.id IS NOT NULL,
    CASE WHEN finished.id IS NOT NULL
         THEN pg_notify(%(channel)s, finished.id || ' ' || session.id || result.text) END,
    CASE WHEN %(goes_on)s AND released.id IS NOT NULL
              AND session.last_sequence > finished.sequence
         THEN pg_notify(
             %(runs_channel)s || session.node_id, concat(session.id, ' ', session.client_id)
         ) END
FROM session LEFT JOIN finished ON true LEFT JOIN released ON true LEFT JOIN LATERAL (
    -- A notification holds less than 8000 bytes. JSON of a byte may take two.
    SELECT CASE WHEN length(finished.stdout) + length(finished.stderr)
                     + length(finished.compile_stdout) + length(finished.compile_stderr) < 3000
                THEN E'\n' || jsonb_build_array({finished_columns})::text
                ELSE '' END AS text
) AS result ON true


-- READ
-- One execution without its inputs; large outputs are null.
SELECT {row_columns} FROM sessions_app_execution AS row WHERE id = %s


-- END_QUEUED
-- Ends all queued executions of a session. The caller has locked the session's row, so that no more
-- arrive.
WITH ended AS (
    UPDATE sessions_app_execution
    SET status = %(status)s, verdict = %(verdict)s, error_reason = %(reason)s,
        finished_at = statement_timestamp()
    WHERE session_id = %(session)s AND status = 'queued'
    RETURNING id
), numbered AS (
    SELECT id::text, (row_number() OVER () - 1) / 200 AS part  -- one notification has room for 200
    FROM ended
), notified AS (
    SELECT count(*) AS number,
           pg_notify(%(channel)s, %(session)s || ' ' || string_agg(id, ' '))
    FROM numbered
    GROUP BY part
)
SELECT COALESCE(sum(number), 0)::int FROM notified


-- RENEW
-- Renews the leases of running executions, except of those that are to end.
UPDATE sessions_app_execution AS row
SET lease_expires_at = now() + make_interval(secs => %(lease_seconds)s)
FROM sessions_app_session AS session
WHERE row.id = ANY(%(executions)s) AND row.status = 'running'
  AND row.cancel_requested_at IS NULL
  AND session.id = row.session_id AND session.status = 'executing'
RETURNING row.id


-- ANNOUNCE
-- Wakes the executor of a node: the session may have something to run.
SELECT pg_notify(%(channel)s, concat(id, ' ', client_id))
FROM sessions_app_session
WHERE id = %(session)s


-- WAITING
-- The sessions of a node that have something to run, with their clients, longest waiting first.
SELECT session.id, session.client_id
FROM sessions_app_execution AS execution
JOIN sessions_app_session AS session ON session.id = execution.session_id
WHERE execution.status = 'queued' AND session.status = 'ready' AND session.node_id = %s
GROUP BY session.id
ORDER BY min(execution.queued_at)
