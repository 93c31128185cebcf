"""What API, admin, commands and tasks call. A service changes rows and enqueues tasks in one
transaction; whatever touches Docker happens in the tasks of a worker.
"""
