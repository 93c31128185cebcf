"""Sandboxes: hardened containers that run untrusted programs.

This package knows no Django and is the only importer of `docker`. It takes and returns the frozen
values of `types`, raises the errors of `errors`, and is entered through a `driver.Driver`.
"""
