"""The checker: facts, invariants and the course of a drill become one verdict that is printed whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dispatcher.drill.course import Course
from dispatcher.drill.drills import DRILLS
from dispatcher.drill.facts import Facts, gather
from dispatcher.drill.invariants import Invariant, verdict
from dispatcher.drill.place import Place, Plan, faults_of
from dispatcher.drill.recovery import NONE, recovery
from state.machine import FINAL

__all__ = ["Verdict", "check", "judge"]

_OF_TIME = ("G1 only", "I12 the broker", "A13 throughput")
"""A worker that gets no processor for a whole lease is rescued, a broker redelivers after its ``ack_wait``, and other
programs on the machine slow one stretch of a drill more than the other."""


@dataclass(frozen=True)
class Verdict:
    """Everything that was found; ``ok`` only when every invariant holds and every fault that was asked for was done."""

    plan: Plan
    invariants: tuple[Invariant, ...]
    faults: Mapping[str, int]
    """How often each kind was really done."""
    recovery: Mapping[str, dict[str, float | int | None]]
    """By kind and for ``all``; see ``dispatcher.drill.recovery``."""
    made: int
    stuck: int
    """Tasks that were not final in time, or are not now."""
    lost_sight_of: int
    """Of them those that were never final, however long the drill waited."""
    rescued: int
    refused: int
    """Effects of stale attempts that the sink refused."""
    counts: Mapping[str, float]
    """What was looked at, by the kind of work."""
    course: Course | None

    @property
    def kills_done(self) -> int:
        """Faults that were really done."""
        return sum(self.faults.values())

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.complaints

    @property
    def complaints(self) -> tuple[str, ...]:
        """What does not hold, each with its first violation; nothing when everything does."""
        found = [
            f"{invariant.name}: {invariant.wrong} wrong" + "".join(f" ({text})" for text in invariant.violations[:1])
            for invariant in self.invariants
            if not invariant.ok
        ]
        if self.stuck:
            found.append(f"{self.stuck} tasks stuck")
        if self.kills_done < self.plan.kills:
            found.append(f"only {self.kills_done} of {self.plan.kills} faults done")
        if self.made < self.plan.tasks:
            found.append(f"only {self.made} of {self.plan.tasks} tasks made")
        return tuple(found)

    @property
    def grave(self) -> bool:
        """Whether something is wrong that more time could not have mended."""
        safe = all(invariant.ok or invariant.name.startswith(_OF_TIME) for invariant in self.invariants)
        return not safe or self.lost_sight_of > 0

    def wrong(self, *names: str) -> int:
        """Violations of the invariants whose names begin so."""
        return sum(found.wrong for found in self.invariants if found.name.startswith(names))

    def to_json(self) -> dict[str, Any]:
        """One object."""
        course = self.course
        return {
            "ok": self.ok,
            "drill": self.plan.drill,
            "seed": self.plan.seed,
            "tasks": self.made,
            "kills_asked": self.plan.kills,
            "kills_done": self.kills_done,
            "lost": self.wrong("I1 "),
            "double_completed": self.wrong("I4 "),
            "illegal_transitions": self.wrong("I10 "),
            "stuck": self.stuck,
            **self.counts,
            "invariants": [
                {"name": i.name, "ok": i.ok, "facts": i.facts, "violations": list(i.violations), "wrong": i.wrong}
                for i in self.invariants
            ],
            "recovery_s": self.recovery.get("all", NONE),
            "recovery_by_fault_s": {kind: found for kind, found in self.recovery.items() if kind != "all"},
            "faults": dict(self.faults),
            "rescued": self.rescued,
            "stale_effects_refused": self.refused,
            "calm_after_s": None if course is None else course.calm_after,
            "processes_started": None if course is None else course.started,
            "left_by_fence": None if course is None else len(course.fenced),
        }


def check(place: Place, course: Course | None = None) -> Verdict:
    """Read everything that a drill left and judge it; without its course only what was kept."""
    plan = place.plan
    work = DRILLS[plan.drill].work
    facts = gather(
        place.direct.database_url or "", plan.schema, place.root, faults_of(place.root),
        lambda rows: work.own(rows, plan.seed),
    )  # fmt: skip
    return judge(plan, facts, course)


def judge(plan: Plan, facts: Facts, course: Course | None) -> Verdict:
    """The verdict about these facts."""
    work = DRILLS[plan.drill].work
    found = [invariant(facts) for invariant in work.invariants]
    if DRILLS[plan.drill].rescues_victims_only:
        victims = {str(fault["target"]) for fault in facts.faults}
        wrong = [f"{n} tasks taken from {worker}" for worker, n in facts.rescued.items() if worker not in victims]
        found.append(verdict("G1 only victims are rescued", len(facts.rescued) + len(facts.faults), wrong))
    if course is not None:
        left = [f"{what}: {n}" for what, n in course.broker.items() if n]
        found.append(verdict("I12 the broker holds nothing", len(course.broker), left))
        found.append(verdict("I17 no process ended by itself", course.started, course.wrong_ends))
    not_final = sum(1 for task in facts.tasks.values() if task.state not in FINAL)
    return Verdict(
        plan=plan,
        invariants=tuple(found),
        faults=Counter(str(fault["fault"]) for fault in facts.faults),
        recovery=recovery(facts),
        made=len(facts.tasks),
        stuck=not_final if course is None else max(course.stuck, not_final),
        lost_sight_of=not_final,
        rescued=sum(facts.rescued.values()),
        refused=sum(1 for _, _, accepted in facts.offers if not accepted),
        counts=work.counts(facts),
        course=course,
    )
