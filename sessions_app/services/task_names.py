"""The names of the workers' tasks.

A message holds the name of a function in `node/tasks.py`, and ids. So its sender needs only the
name, and imports nothing from the node.
"""

from __future__ import annotations

_TASKS = "sessions_app.node.tasks"

START_TASK = f"{_TASKS}.start_session"
STOP_TASK = f"{_TASKS}.stop_session"
WARM_TASK = f"{_TASKS}.warm_sandbox"
REFILL_TASK = f"{_TASKS}.refill_pool"
ASK_TASK = f"{_TASKS}.ask_sandbox"
REMOVE_TASK = f"{_TASKS}.remove_sandbox"
CLEAN_UP_TASK = f"{_TASKS}.clean_up_all_nodes"
CLEAN_UP_NODE_TASK = f"{_TASKS}.clean_up_node"
CHECK_TASK = f"{_TASKS}.check_isolation"
BUILD_TASK = f"{_TASKS}.build_image"
ECHO_TASK = f"{_TASKS}.echo"

ECHO_CHANNEL = "code_executor_echo"
"""The channel on which the echo task notifies."""
