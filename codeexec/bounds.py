"""The limits of what the service accepts, each defined only here.

They are checked before data is kept in memory, and the OpenAPI schema has them. They respect the
limits of other parts: a frame of the runner (256 KiB for all arguments and variables, 8192 of
either), the kernel (128 KiB for one argument), PostgreSQL (no NUL in a text or in jsonb). Limits
that operators set are not here: MAX_REQUEST_SIZE for a whole body, TMPFS_SIZE for all files.
"""

from __future__ import annotations

# ---- HTTP

HEAD_BYTES = 64 * 1024
"""Request line and headers together."""
HEADERS = 100
QUERY_BYTES = 32 * 1024
PIPELINED_REQUESTS = 16
"""Sent on one connection without waiting for an answer."""
BODY_BYTES_IN_MEMORY = 64 * 1024
"""A larger body is kept in a temporary file until it is complete."""
BODIES_BYTES = 128 * 1024 * 1024
"""All bodies in temporary files that a process holds, and half of it for one client. If this is
more, the limit is so many times MAX_REQUEST_SIZE instead:
"""
BODIES_OF_MOST_SIZE = 8

# ---- JSON

JSON_DEPTH = 32
"""Nested arrays and objects."""
JSON_VALUES = 20_000
"""Strings, numbers, arrays, …: each takes up to 64 bytes of memory for 2 bytes of text."""

# ---- a run

CODE_BYTES = 2 * 1024 * 1024
PATH_BYTES = 255
PATH_DEPTH = 16
ARGUMENTS = 1000
VARIABLES = 1000
ARGUMENT_BYTES = 64 * 1024
"""Of one argument, one variable's name, one variable's value."""
VARIABLE_BYTES = 128 * 1024 - 2
"""Of one variable's name and value together: the kernel takes no more as one text."""
ARGUMENTS_BYTES = 192 * 1024
"""Of all arguments and variables; the runner's frame holds the image's own variables as well."""
FILES = 1000
TIMEOUT_SECONDS = 86_400
"""The most that an environment's own maximum can be."""
LEAST_TIMEOUT_SECONDS = 0.1

# ---- a session

ENVIRONMENT_BYTES = 100
RUNTIME_BYTES = 64
TTL_SECONDS = 30 * 86_400
METADATA_BYTES = 16 * 1024
RUN_METADATA_BYTES = 4 * 1024

# ---- repeated calls

IDEMPOTENCY_KEY_BYTES = 255

# ---- waiting

WAIT_SECONDS = 60
"""That `GET /executions/{id}?wait=` may wait: proxies give up a silent request after that."""

# ---- lists

PAGE_SIZE = 200
PAGE_BYTES = 1024 * 1024
"""Of what the entries of one page hold: it ends before there is more."""
FIELD_BYTES = 64 * 1024
"""Of one field in a list's entry, or in an event: a longer one is left out, and named in `omitted`.
"""
METADATA_FILTERS = 16
"""Each is a search in an index of its own."""

# ---- what operators give

CONFIGURATION_BYTES = 1024 * 1024
"""Of code-executor.conf, and of environments.yaml."""

STDIN_PIECE_BYTES = 64 * 1024
"""What one call may add to the input of an interactive program."""
STDIN_WAITING_BYTES = 64 * 1024
"""How much of it may wait until the program reads it."""
STDIN_BYTES = 1024 * 1024
"""Of one execution altogether: it is kept as long as the execution."""
