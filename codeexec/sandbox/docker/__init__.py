"""Sandboxes as Docker containers. The only package that imports `docker`."""
