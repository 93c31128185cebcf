"""Whose program begins next, and which have to wait for a place."""

from __future__ import annotations

from sessions_app.execution.fair_turns import FairTurns, Turn


def taken(turns: FairTurns) -> Turn:
    turn = turns.take()
    assert turn is not None
    return turn


def add(turns: FairTurns, *sessions: str) -> None:
    """A session's name begins with that of its client."""
    for session in sessions:
        turns.add(session, session[0])


def test_clients_take_turns_and_so_do_the_sessions_of_each() -> None:
    turns = FairTurns(places=100)
    add(turns, "A1", "A2", "A3", "A1", "B1")
    turns.add("of no client", "")
    add(turns, "B2")
    order = [taken(turns).session_id for _ in range(3)]
    add(turns, "A1", "B3")  # they have more to run
    while turn := turns.take():
        order.append(turn.session_id)
    assert order == ["A1", "B1", "of no client", "A2", "B2", "A3", "B3", "A1"]
    assert not turns.can_take()


def test_where_all_places_are_held_only_clients_that_run_nothing_begin() -> None:
    turns = FairTurns(places=2)
    add(turns, "A1", "A2", "A3", "A4")
    first, second = taken(turns), taken(turns)
    assert (first.has_place, second.has_place) == (True, True)
    assert not turns.can_take() and turns.take() is None
    add(turns, "B1", "B2", "C1")
    assert turns.can_take()
    strangers = [taken(turns), taken(turns)]
    assert [(each.session_id, each.has_place) for each in strangers] == [
        ("B1", False),
        ("C1", False),
    ]
    assert turns.take() is None  # each of the three runs something now
    turns.end(strangers[0])
    assert taken(turns).session_id == "B2"
    turns.end(first)
    next_one = taken(turns)
    assert (next_one.session_id, next_one.has_place) == ("A3", True)
    assert turns.take() is None


def test_a_turn_beyond_the_places_takes_none_from_others() -> None:
    turns = FairTurns(places=1)
    add(turns, "A1", "A2")
    holds = taken(turns)
    add(turns, "B1")
    beyond = taken(turns)
    turns.end(holds)
    assert taken(turns).session_id == "A2"  # B's program is no reason to wait
    turns.end(beyond)
    assert turns.take() is None


def test_sessions_without_a_client_count_as_one_clients() -> None:
    turns = FairTurns(places=1)
    for session in ("first", "second"):
        turns.add(session, "")
    taken(turns)
    assert turns.take() is None


def test_a_client_whose_programs_sleep_begins_at_once() -> None:
    turns = FairTurns(places=1)
    add(turns, "A1")
    holds = taken(turns)
    add(turns, "B1", "B2", "A2")
    sleeps = taken(turns)
    assert sleeps.session_id == "B1" and turns.take() is None
    sleeps.works = False
    beyond = taken(turns)
    assert (beyond.session_id, beyond.has_place) == ("B2", False)
    assert turns.take() is None  # A's program holds a place
    holds.has_place = False
    assert taken(turns).has_place


def test_a_program_that_still_works_counts_without_a_place_too() -> None:
    turns = FairTurns(places=1)
    add(turns, "A1", "A2", "A3")
    taken(turns).has_place = False
    assert taken(turns).has_place
    assert turns.take() is None
