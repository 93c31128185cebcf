"""What `manage.py check_stack` looks at: each part of a deployment, with what to do about it.

Nothing here may keep anything else from being looked at: a part that can't be is a finding like any
other.
"""
