"""The HTTP API: views that validate, call one service and serialize."""
