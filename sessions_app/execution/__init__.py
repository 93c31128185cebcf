"""The executor's process: it takes up executions, runs them in their sandboxes and ends them."""
