"""Extends django-q2: a broker on PostgreSQL, and a cluster in which any process may die."""
