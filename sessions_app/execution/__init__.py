"""All that runs in the executor's process: it claims executions, runs them in their sandboxes and
stores how they ended.

    executor.py             the process: its threads, its upkeep, how it stops
    run_listener.py         learns which sessions have something to run
    fair_turns.py           whose program begins next
    current_runs.py         what runs now, and when a long run gives its place to another
    run_execution.py        one run, from the claim to its result
    not_started.py          the result of a program that could not be started
    live_output.py          output becomes events while the program runs
    typed_input.py          what is typed into a running program reaches it
    cancellations.py        a cancelled run is ended
    leases.py               the leases of the runs are renewed
    sandbox_connections.py  the open connections to the sandboxes
"""
