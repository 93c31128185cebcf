"""How fast a running service answers, beside what the same machine does without it.

    measuring   the whole run: what is measured, in which order
    turns       calls in turn with one another, and side by side
    service     the service, as a client meets it
    bare        the floor: the program as a plain process of the same image, without limits
    starter/    the program that starts and times these processes, in a container of its own
    everyday    programs as candidates write them, back to back and as a person presses Run
    containers  the runner alone and Docker by itself, where its Engine is reached
    processor   processor time of the service's processes, where they are on this host
    machine     what the figures were taken on
    figures     the values that all of these give, and their statistics
    tables, rendering, picture, words   how they are shown

Only ratios mean something on another machine, so things that are compared are measured in turn.
"""
