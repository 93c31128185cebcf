"""Attacks on a sandbox: what `manage.py check_isolation` proves.

    catalogue   what each attack tries and what must happen
    program/    the attacks themselves: one static C program, so that they run in any environment
    poison      files that the languages' tools read when they start
    subject     how the attacked sandboxes are started, and a program that must still run
    host        parts of this host that must not be reached or seen: listeners, addresses, names
    judge       turns an attack's report and its end into held, escaped, inconclusive or busy
    suite       runs the attacks, beside a bystander whose programs must run all the time

Like the rest of the sandbox package, it doesn't use Django.
"""
