"""Sandboxes: hardened containers that run untrusted programs.

This package doesn't use Django, and only it imports `docker`. It takes and returns the frozen
values of `types`, raises the errors of `errors`, and is used through a `driver.Driver`.
"""
