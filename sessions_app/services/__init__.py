"""What API, admin, commands and tasks call. A service changes rows and enqueues tasks in one
transaction; the tasks, in a worker, do what needs Docker.
"""
