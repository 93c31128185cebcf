"""The Django project of Code Executor."""

__version__ = "0.1.0"
