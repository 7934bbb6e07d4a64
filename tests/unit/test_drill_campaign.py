"""A campaign ends with what did not hold; one drill that cannot be done keeps no other from running."""

from __future__ import annotations

from typing import Any

import pytest

from dispatcher.cli.campaign import Entry, campaign
from dispatcher.drill.checker import Verdict
from dispatcher.drill.invariants import Invariant
from dispatcher.drill.place import Plan
from dispatcher.errors import DispatcherError


def verdict_of(name: str, seed: int, **changes: Any) -> Verdict:
    fields: dict[str, Any] = {
        "plan": Plan(name, 100, 5, seed, False, ""),
        "invariants": (Invariant("I1 no task lost", 100, 0, ()),),
        "faults": {"kill-worker": 5}, "recovery": {}, "made": 100, "stuck": 0, "lost_sight_of": 0,
        "rescued": 0, "refused": 0, "counts": {}, "course": None,
    }  # fmt: skip
    return Verdict(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"invariants": (Invariant("I1 no task lost", 9, 2, ("7 gone", "8")),)}, "no task lost: 2 wrong (7 gone)"),
        ({"stuck": 3}, "3 tasks stuck"),
        ({"faults": {"kill-worker": 4}}, "only 4 of 5 faults done"),
        ({"made": 99}, "only 99 of 100 tasks made"),
    ],
)  # fmt: skip
def test_a_verdict_says_what_does_not_hold(changes: dict[str, Any], complaint: str) -> None:
    assert verdict_of("mixed", 1).ok
    assert not verdict_of("mixed", 1).complaints
    found = verdict_of("mixed", 1, **changes)
    assert not found.ok
    assert [complaint in each for each in found.complaints] == [True]


@pytest.mark.parametrize(
    ("changes", "grave"),
    [
        ({"invariants": (Invariant("I1 no task lost", 9, 2, ()),)}, True),
        ({"invariants": (Invariant("I17 no process ended by itself", 9, 1, ()),)}, True),
        ({"invariants": (Invariant("G1 only victims are rescued", 9, 1, ()),)}, False),
        ({"invariants": (Invariant("A13 throughput beside poison", 9, 1, ()),)}, False),
        ({"invariants": (Invariant("A13 poison ends as failed", 9, 1, ()),)}, True),
        ({"stuck": 3, "lost_sight_of": 1}, True),
        ({"stuck": 3}, False),
        ({"faults": {"kill-worker": 4}}, False),
    ],
)  # fmt: skip
def test_what_more_time_could_not_have_mended_is_grave(changes: dict[str, Any], grave: bool) -> None:
    assert not verdict_of("mixed", 1).grave
    assert verdict_of("mixed", 1, **changes).grave is grave


class Runs:
    """Verdicts by drill, in order; a text is a drill that could not be done."""

    def __init__(self, **verdicts: list[dict[str, Any] | str]) -> None:
        self.verdicts = verdicts
        self.done: list[str] = []
        self.failures: list[tuple[str, str]] = []

    def __call__(self, entry: Entry) -> Verdict:
        self.done.append(entry.drill)
        found = self.verdicts[entry.drill].pop(0)
        if isinstance(found, str):
            raise DispatcherError(found)
        return verdict_of(entry.drill, entry.seed, **found)

    def failed(self, entry: Entry, why: str) -> None:
        self.failures.append((entry.drill, why))


SLOW, LOST = {"stuck": 2}, {"invariants": (Invariant("I1 no task lost", 9, 1, ("7 gone",)),)}


def entries(*names: str) -> list[Entry]:
    return [Entry(name, None, None, 1) for name in names]


def test_a_campaign_goes_on_and_says_at_its_end_what_did_not_hold(capsys: pytest.CaptureFixture[str]) -> None:
    runs = Runs(a=[{}], b=["relay-1 does not start"], c=[SLOW])
    assert not campaign(entries("a", "b", "c"), runs, runs.failed)
    assert runs.done == ["a", "b", "c"]
    assert runs.failures == [("b", "relay-1 does not start")]
    assert capsys.readouterr().err.splitlines() == [
        "1 of 3 drills hold",
        "  b, seed 1: relay-1 does not start",
        "  c, seed 1: 2 tasks stuck",
    ]


def test_only_what_missed_a_limit_of_time_gets_a_second_try(capsys: pytest.CaptureFixture[str]) -> None:
    runs = Runs(a=[SLOW, {}], b=[LOST, {}], c=[SLOW, SLOW], d=["it ended", {}])
    assert not campaign(entries("a", "b", "c", "d"), runs, runs.failed, tries=2)
    assert runs.done == ["a", "a", "b", "c", "c", "d"]
    said = capsys.readouterr().err.splitlines()
    assert said[said.index("1 of 4 drills hold") :] == [
        "1 of 4 drills hold",
        "  b, seed 1: I1 no task lost: 1 wrong (7 gone)",
        "  c, seed 1: 2 tasks stuck",
        "  d, seed 1: it ended",
        "run once more, because only a limit of time was missed:",
        "  a, seed 1: 2 tasks stuck",
        "  c, seed 1: 2 tasks stuck",
    ]


def test_a_second_try_that_holds_is_enough_but_told(capsys: pytest.CaptureFixture[str]) -> None:
    runs = Runs(a=[SLOW, {}])
    assert campaign(entries("a"), runs, runs.failed, tries=2)
    assert "run once more" in capsys.readouterr().err
