"""What a worker node does besides running programs.

upkeep.py            the node's parent process: what it does every few seconds
tasks.py             what the task processes do, by message of the queue
sandboxes.py         the node's containers: starting, warm pools, replacing, removing
recovery.py          what a process that died was doing is given to others
registration.py      the node's row
cleanup.py           expired sessions and orphaned containers are removed
pruning.py           old history is deleted
image_builds.py      images are built and tested
isolation_checks.py  attacks on the node's own sandboxes
workspace_reader.py, workspace_answers.py, workspace_archive.py
                     the process that reads workspaces for API and console
"""
