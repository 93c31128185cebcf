"""Attacks on a sandbox: what `manage.py check_isolation` proves.

    catalogue   what each attack tries and what must happen
    program/    the attacks themselves: one static C program, so that they run in any environment
    poison      files that the languages' tools read when they start
    subject     what is attacked: how its sandboxes are started, and a program that must still run
    host        what of this host must not be reached or seen: listeners, addresses, names
    judge       from what an attack said and how it ended to held, escaped or inconclusive
    suite       one after the other, with a bystander whose programs must run all the while

Knows no Django, as the rest of the sandbox package.
"""
