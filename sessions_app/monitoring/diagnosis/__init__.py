"""What is wrong with the service, and what to do about it: the one answer for `/health`, the
console, `manage.py check_stack`, `manage.py check_node` and a node's page.

    findings       what a check yields, and running one safely
    checks         which checks each of those callers makes
    workers, environments, executions, queue, isolation, storage     read from rows
    database, host, weaknesses                                       tried out from this host
"""
