"""The audit log: actions of users, clients and commands."""
