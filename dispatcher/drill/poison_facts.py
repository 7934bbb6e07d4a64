"""What must be true after the drill ``poison``: it ends as failed, and the others keep at least half of their pace.

The pace is compared over two stretches of the same fleet under the same stream of ordinary work:

before  from two seconds after the first ordinary success until the first poison task is claimed
beside  from then until the last poison task has ended
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cached_property

from dispatcher.dev.ledger import Mark
from dispatcher.drill import invariants as every
from dispatcher.drill.facts import Facts, Task
from dispatcher.drill.invariants import Invariant, verdict
from dispatcher.drill.poison_tasks import NAME, TRIES
from dispatcher.drill.recovery import ready_times
from state.machine import Reason, State

__all__ = ["LEAST_RATIO", "Pace", "counts", "everything_ends", "pace_kept", "poison_fails"]

LEAST_RATIO = 0.5
"""Of the ordinary tasks' pace, that is kept beside poison."""
_WARM_UP_SECONDS = 2.0
_SHORTEST_SECONDS = 4.0
"""Of a stretch that says anything."""
_MOST_DRY = 0.05
"""The share of a stretch in which no ordinary task may be waiting: an idle fleet proves nothing."""


def _poison(facts: Facts) -> list[Task]:
    return [task for task in facts.tasks.values() if task.type == NAME]


def everything_ends(facts: Facts) -> Invariant:
    """I2: what is not poison succeeds, whoever died with it in hand."""
    return every.everything_ends(
        replace(facts, tasks={task.id: task for task in facts.tasks.values() if task.type != NAME})
    )


# how poison ends ------------------------------------------------------------------------------------------------------


def poison_fails(facts: Facts) -> Invariant:
    """A13: poison fails because its workers died, after all its tries, each of which cost one of them its life."""
    deaths = Counter((fault["detail"]["task"], fault["detail"]["attempt"]) for fault in facts.faults)
    marks: dict[tuple[str, int], list[str]] = defaultdict(list)
    for line in facts.worker:
        marks[line.task, line.attempt].append(line.mark)
    wrong = []
    for task in _poison(facts):
        events = facts.events.get(task.id, [])
        if task.state != State.FAILED or events[-1].reason != Reason.LEASE_EXPIRED:
            wrong.append(f"{task.id} is poison, and is {State(task.state).label}, not failed by dead workers")
        # an attempt that was claimed ahead of its turn and given back did not run, and cost no try
        ran = [e.attempt for e in events if e.from_state == State.RUNNING and e.reason != Reason.RELEASED]
        if not len(ran) == task.tries == task.max_tries == TRIES:
            wrong.append(f"{task.id} was run {len(ran)} times, {task.tries} of {task.max_tries} tries")
        wrong += [
            f"{task.id} attempt {attempt}: {deaths[task.id, attempt]} workers died of it, its ledger says {said}"
            for attempt in ran
            if (said := marks[task.id, attempt]) != [Mark.START, Mark.FAULT] or deaths[task.id, attempt] != 1
        ]
    return verdict("A13 poison ends as failed", len(_poison(facts)), wrong)


# the pace of the others -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stretch:
    """A time by the database's clock, and what ended in it."""

    begins: float
    ends: float
    tasks: int
    """Ordinary tasks that succeeded."""
    dry: float
    """Seconds in which no ordinary task was waiting."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.ends - self.begins

    @property
    def rate(self) -> float:
        """Tasks per second."""
        return self.tasks / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Pace:
    """Of the ordinary tasks."""

    before: Stretch
    beside: Stretch

    @cached_property
    def ratio(self) -> float:
        """What was kept of it."""
        return self.beside.rate / self.before.rate if self.before.rate else 0.0


def pace(facts: Facts) -> Pace | None:
    """Measured; ``None`` when there was no poison, or nothing else."""
    finished = sorted(
        task.finished
        for task in facts.tasks.values()
        if task.type != NAME and task.state == State.SUCCEEDED and task.finished is not None
    )
    claims = [e.at for task in _poison(facts) for e in facts.events.get(task.id, ()) if e.to_state == State.RUNNING]
    ends = [task.finished for task in _poison(facts) if task.finished is not None]
    if not finished or not claims or not ends:
        return None
    waiting = [
        (ready.begins, ready.ends)
        for ready in ready_times({id: facts.events[id] for id in facts.events if facts.tasks[id].type != NAME})
    ]

    def stretch(begins: float, ends: float) -> Stretch:
        tasks = sum(1 for at in finished if begins < at <= ends)
        return Stretch(begins, ends, tasks, _uncovered(waiting, begins, ends))

    first = min(claims)
    return Pace(stretch(finished[0] + _WARM_UP_SECONDS, first), stretch(first, max(ends)))


def _uncovered(times: list[tuple[float, float]], begins: float, ends: float) -> float:
    """Seconds between ``begins`` and ``ends`` that lie in none of these times."""
    free, at = 0.0, begins
    for begin, end in sorted(times):
        if begin >= ends:
            break
        free += max(0.0, begin - at)
        at = max(at, end)
    return free + max(0.0, ends - at)


def pace_kept(facts: Facts) -> Invariant:
    """A13: beside poison at least half as many ordinary tasks succeed per second as before, on a fleet that is busy."""
    name, found = "A13 throughput beside poison", pace(facts)
    if found is None:
        return verdict(name, 0, ["there was nothing to compare: no poison task ended, or no other succeeded"])
    wrong = []
    for what, stretch in (("before", found.before), ("beside", found.beside)):
        if stretch.seconds < _SHORTEST_SECONDS:
            wrong.append(f"the stretch {what} poison took {stretch.seconds:.1f} s, too short to compare")
        elif stretch.dry > _MOST_DRY * stretch.seconds:
            wrong.append(
                f"no ordinary task was waiting for {stretch.dry:.1f} of the {stretch.seconds:.1f} s {what} poison:"
                " the fleet was not busy"
            )
    if found.ratio < LEAST_RATIO:
        wrong.append(f"{found.beside.rate:.1f} tasks a second beside poison, {found.before.rate:.1f} before")
    return verdict(name, found.before.tasks + found.beside.tasks, wrong)


def counts(facts: Facts) -> dict[str, float]:
    """What the verdict says besides."""
    tasks = _poison(facts)
    found = pace(facts)
    ends = Counter(task.state for task in tasks)
    shown: dict[str, float] = {
        "poison_tasks": len(tasks),
        "poison_failed": ends[State.FAILED],
        "poison_attempts": sum(task.tries for task in tasks),
    }
    if found is not None:
        shown |= {
            "throughput_before": round(found.before.rate, 1),
            "throughput_beside_poison": round(found.beside.rate, 1),
            "throughput_ratio": round(found.ratio, 3),
            "seconds_before": round(found.before.seconds, 1),
            "seconds_beside_poison": round(found.beside.seconds, 1),
        }
    return shown
