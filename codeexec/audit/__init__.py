"""The audit log: who did what to what, from the console, the API and the commands."""
