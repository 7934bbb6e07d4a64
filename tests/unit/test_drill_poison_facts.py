"""The checker of the drill ``poison`` can fail: lies in facts that were good before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dispatcher.dev.ledger import Line, Mark, Writer
from dispatcher.drill import poison_facts
from dispatcher.drill.facts import Event, Facts, Task
from dispatcher.drill.poison_tasks import TRIES, ended_by, way_of
from state.machine import Reason, State
from tests.unit.made_facts import Lie, change, facts_with, put, wrong

ENDS, PACE = "A13 poison ends as failed", "A13 throughput beside poison"
POISON_INVARIANTS = (poison_facts.everything_ends, poison_facts.poison_fails, poison_facts.pace_kept)


def run_poison() -> Facts:
    """Ten tasks a second for 12 seconds, then seven beside two poison tasks ; some wait at any time."""
    facts = facts_with(None)
    times = [n / 10 for n in range(120)] + [12 + n / 7 for n in range(160)]
    for order, at in enumerate(times, 1):
        task = put(facts, order, "work", State.SUCCEEDED, None, 0)
        facts.tasks[task.id] = task._replace(finished=at)
        moves = ((None, State.QUEUED, at - 3), (State.QUEUED, State.RUNNING, at - 1),
                 (State.RUNNING, State.SUCCEEDED, at))  # fmt: skip
        facts.events[task.id] = [Event(task.id, n, *move[:2], None, 1, move[2]) for n, move in enumerate(moves, 1)]
    for order in (1001, 1002):
        _add_poison(facts, order, 12.0 + 10 * (order - 1001))
    return facts


def _add_poison(facts: Facts, order: int, begins: float) -> None:
    """Three attempts, each of which ends a process of its own."""
    task = Task(f"poison {order}", order, "poison", State.FAILED, TRIES, TRIES, TRIES, None, 1.0, begins + 10, None)
    facts.tasks[task.id], facts.events[task.id] = task, []
    for attempt in range(1, TRIES + 1):
        at, pid = begins + 3 * (attempt - 1), order * 10 + attempt
        after = State.FAILED if attempt == TRIES else State.QUEUED
        facts.events[task.id] += [
            Event(task.id, 2 * attempt, State.QUEUED, State.RUNNING, None, attempt, at),
            Event(task.id, 2 * attempt + 1, State.RUNNING, after, Reason.LEASE_EXPIRED, attempt, at + 2),
        ]
        facts.worker += [Line(mark, task.id, attempt, order, 0, pid) for mark in (Mark.START, Mark.FAULT)]
        facts.faults.append({"target": f"worker-{pid}", "detail": {"task": task.id, "attempt": attempt, "pid": pid}})


def judge_poison(facts: Facts) -> set[str]:
    return wrong([invariant(facts) for invariant in POISON_INVARIANTS])


def _thinned(facts: Facts, keeps: Callable[[float], bool]) -> None:
    """Only the ordinary tasks that ended at such times."""
    for task in list(facts.tasks.values()):
        if task.type == "work" and not keeps(task.finished or 0.0):
            del facts.tasks[task.id], facts.events[task.id]


def _never_waiting(facts: Facts, begins: float, ends: float) -> None:
    """As many tasks a second, and none was waiting between these times."""
    for task, events in facts.events.items():
        if facts.tasks[task].type == "work" and begins < events[-1].at < ends:
            events[0] = events[0]._replace(at=events[1].at)


def _given_back(facts: Facts, reason: Reason) -> None:
    """One more claim, which the worker gave back, or which it did not survive either."""
    more = [Event("poison 1001", 1, State.QUEUED, State.RUNNING, None, 0, 12.0),
            Event("poison 1001", 1, State.RUNNING, State.QUEUED, reason, 0, 12.1)]  # fmt: skip
    facts.events["poison 1001"][:0] = more


POISON_LIES: dict[str, tuple[str, Lie]] = {
    "poison succeeded": (ENDS, lambda f: change(f, f.tasks["poison 1001"], state=State.SUCCEEDED)),
    "poison runs still": (ENDS, lambda f: change(f, f.tasks["poison 1001"], state=State.RUNNING)),
    "failed by its handler": (ENDS, lambda f: f.events["poison 1001"].append(
        f.events["poison 1001"].pop()._replace(reason=Reason.EXHAUSTED))),
    "given up early": (ENDS, lambda f: change(f, f.tasks["poison 1002"], tries=TRIES - 1)),
    "one claim too many": (ENDS, lambda f: _given_back(f, Reason.LEASE_EXPIRED)),
    "a try that nobody made": (ENDS, lambda f: f.events["poison 1002"].__delitem__(slice(0, 2))),
    "an attempt that did not start": (ENDS, lambda f: f.worker.__delitem__(slice(0, 2))),
    "an attempt that came to its end": (ENDS, lambda f: f.worker.insert(
        2, Line(Mark.END, "poison 1001", 1, 1001, 0, 1))),
    "a worker that survived": (ENDS, lambda f: f.faults.pop()),
    "two workers for one attempt": (ENDS, lambda f: f.faults.append(f.faults[0])),
    "an ordinary task failed": ("I2 everything ends", lambda f: change(f, f.tasks["task 7"], state=State.FAILED)),
    "less than half beside it": (PACE, lambda f: _thinned(f, lambda at: at <= 12 or int(at * 7) % 3 == 0)),
    "no work before it": (PACE, lambda f: _never_waiting(f, 0, 12)),
    "no work beside it": (PACE, lambda f: _never_waiting(f, 20, 30)),
    "too short before": (PACE, lambda f: _thinned(f, lambda at: at > 7)),
    "no poison": (PACE, lambda f: [f.tasks.pop(id) for id in ("poison 1001", "poison 1002")]),
    "nothing else": (PACE, lambda f: _thinned(f, lambda at: False)),
}  # fmt: skip


@pytest.mark.parametrize("what", POISON_LIES)
def test_the_checker_of_poison_finds(what: str) -> None:
    facts = run_poison()
    assert judge_poison(facts) == set()
    name, lie = POISON_LIES[what]
    lie(facts)
    assert name in judge_poison(facts)


def test_what_was_given_back_before_its_turn_is_no_try_of_poison() -> None:
    facts = run_poison()
    _given_back(facts, Reason.RELEASED)
    assert judge_poison(facts) == set()


def test_the_pace_is_measured_over_its_two_stretches() -> None:
    counts = poison_facts.counts(run_poison())
    assert (counts["poison_tasks"], counts["poison_failed"], counts["poison_attempts"]) == (2, 2, 6)
    assert counts["throughput_before"] == pytest.approx(10, abs=0.1)
    assert counts["throughput_beside_poison"] == pytest.approx(7, abs=0.1)
    assert counts["throughput_ratio"] == pytest.approx(0.7, abs=0.01)
    assert (counts["seconds_before"], counts["seconds_beside_poison"]) == (10.0, 20.0)


def test_only_an_end_that_a_task_announced_is_its_doing(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    writer = Writer(ledger, "worker")
    [line_pid] = [int(path.stem.rpartition("-")[2]) for path in ledger.iterdir()]
    code, other = way_of(5, 1).code, way_of(5, 2).code
    writer.write(Mark.START, "task-5", 1, 5)
    assert ended_by(tmp_path, line_pid, code) is None, "it had only started"
    writer.write(Mark.FAULT, "task-5", 1, 5)
    found = ended_by(tmp_path, line_pid, code)
    assert found is not None and (found.task, found.attempt, found.order) == ("task-5", 1, 5)
    assert ended_by(tmp_path, line_pid, other) is None, "it ended otherwise"
    assert ended_by(tmp_path, line_pid + 1, code) is None, "another process"
    assert len({way_of(5, attempt).code for attempt in range(1, TRIES + 1)}) == TRIES
