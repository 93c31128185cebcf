"""What stands around django-q2: a broker on PostgreSQL, and a cluster whose processes may die."""
