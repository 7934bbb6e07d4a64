"""The state machine is one table, and it says what the design says."""

from __future__ import annotations

import pytest

from state.machine import FINAL, LEGAL_MOVES, Flag, Reason, State, is_legal

# DESIGN section 4, written the other way round: by words
MOVES = """
created -> blocked scheduled queued
blocked -> queued scheduled failed cancelled
scheduled -> queued failed cancelled
queued -> running scheduled failed cancelled
running -> succeeded retrying scheduled queued blocked failed cancelled
retrying -> queued failed cancelled
failed -> queued scheduled
cancelled -> queued scheduled
"""


def _named() -> set[tuple[State | None, State]]:
    moves = set()
    for line in MOVES.strip().splitlines():
        before, after = line.split(" -> ")
        start = None if before == "created" else State[before.upper()]
        moves |= {(start, State[word.upper()]) for word in after.split()}
    return moves


def test_legal_moves_are_those_of_the_design() -> None:
    assert _named() == LEGAL_MOVES


@pytest.mark.parametrize("before", [None, *State])
def test_is_legal_answers_for_every_pair(before: State | None) -> None:
    assert {after for after in State if is_legal(before, after)} == {b for a, b in _named() if a == before}


def test_success_is_the_end() -> None:
    assert not [after for after in State if is_legal(State.SUCCEEDED, after)]


def test_a_final_state_is_left_only_by_a_persons_retry() -> None:
    left = {after for state in FINAL for after in State if is_legal(state, after)}
    assert left == {State.QUEUED, State.SCHEDULED}


def test_every_state_can_be_reached_and_ends() -> None:
    reached = {after for before, after in LEGAL_MOVES if before is None}
    while more := {after for before, after in LEGAL_MOVES if before in reached} - reached:
        reached |= more
    assert reached == set(State)
    ends = set(FINAL)
    while more := {before for before, after in LEGAL_MOVES if after in ends and before} - ends:
        ends |= more
    assert ends == set(State)


def test_only_queued_tasks_start_to_run() -> None:
    assert {before for before, after in LEGAL_MOVES if after is State.RUNNING} == {State.QUEUED}


def test_stored_numbers_never_change() -> None:
    assert {state.label: int(state) for state in State} == {
        "blocked": 1,
        "scheduled": 2,
        "queued": 3,
        "running": 4,
        "retrying": 5,
        "succeeded": 6,
        "failed": 7,
        "cancelled": 8,
    }
    assert [reason.label for reason in Reason] == [
        "exhausted",
        "rejected",
        "lease_expired",
        "timeout",
        "expired",
        "dependency_failed",
        "by_request",
        "undecodable",
        "disabled",
        "unserialisable",
        "error",
        "snoozed",
        "released",
        "redispatched",
        "deadline",
        "skipped",
        "children",
    ]
    assert [int(reason) for reason in Reason] == list(range(1, 18))
    assert {flag.name: int(flag) for flag in Flag} == {
        "CANCEL": 1,
        "KEYED": 2,
        "LABELLED": 4,
        "SECRET_RESULT": 8,
        "IN_FLOW": 16,
        "HAS_PARENTS": 32,
    }
