"""A campaign ends with what did not hold; one drill that cannot be done keeps no other from running."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dispatcher.cli import drill
from dispatcher.drill.checker import Verdict
from dispatcher.drill.invariants import Invariant
from dispatcher.drill.place import Plan
from dispatcher.errors import DispatcherError


def verdict_of(name: str, seed: int, **changes: Any) -> Verdict:
    fields: dict[str, Any] = {
        "plan": Plan(name, 100, 5, seed, False, ""),
        "invariants": (Invariant("I1 no task lost", 100, 0, ()),),
        "faults": {"kill-worker": 5}, "recovery": {}, "made": 100, "stuck": 0, "rescued": 0, "refused": 0,
        "counts": {}, "course": None,
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


def test_a_campaign_goes_on_and_says_at_its_end_what_did_not_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []

    def run(name: str, tasks: int, kills: int, seed: int, *_: object) -> Verdict:
        done.append((name, seed))
        if name == "kill-relay":
            raise DispatcherError("relay-1 does not start")
        return verdict_of(name, seed, stuck=2 if seed == 2 else 0)

    monkeypatch.setattr(drill, "_run", run)
    good = drill._campaign(
        [("kill-worker", 100, 5, 1), ("kill-relay", 100, 5, 1), ("mixed", 100, 5, 2)], None, None, True
    )
    assert not good
    assert done == [("kill-worker", 1), ("kill-relay", 1), ("mixed", 2)]
    out, err = capsys.readouterr()
    assert [json.loads(line)["error"] for line in out.splitlines()] == ["relay-1 does not start"]
    assert err.splitlines()[-3:] == [
        "1 of 3 drills hold",
        "  kill-relay, seed 1: relay-1 does not start",
        "  mixed, seed 2: 2 tasks stuck",
    ]
