"""PostgreSQL: connections for threads and for the event loop, LISTEN and NOTIFY."""
