"""What must be true after the drill ``flows``: every task ran once if and only if what it waits for happened.

Judged by the model of ``flow_model`` from how the tasks before it ended, not by the tables that the product counts in;
those are checked against themselves besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dispatcher.dev.ledger import Mark
from dispatcher.drill.facts import Facts, Rows, Task
from dispatcher.drill.flow_model import Model, jobs_of
from dispatcher.drill.flow_shapes import MOST, Job, Shape, shape_of
from dispatcher.drill.invariants import Invariant, verdict
from state.flow_audit import FLOW_VIOLATIONS
from state.machine import FINAL, Reason, State

__all__ = [
    "Flows", "counts", "everything_ends", "gather", "in_order", "no_flow_lost", "one_completion", "ran_if_and_only_if",
    "results_kept", "tables_agree",
]  # fmt: skip

_ROOTS = "SELECT id::text, state FROM {s}.flows WHERE id = root_id"
_NUMBERS = f"""
SELECT DISTINCT (convert_from(args, 'UTF8')::jsonb ->> 'order')::bigint / {MOST} FROM {{s}}.tasks ORDER BY 1
"""


@dataclass(frozen=True)
class Flows:
    """What only this drill has."""

    shapes: Mapping[int, Shape]
    """Of every composition of which there is a task, by its number."""
    roots: Mapping[str, int]
    """State of each flow that is no part of another, by its id."""
    violations: list[str]
    """What the checks of ``state.flow_audit`` found."""

    def jobs(self) -> Iterator[Job]:
        """Every task that there should be."""
        return (job for shape in self.shapes.values() for job in shape.jobs)


def gather(rows: Rows, seed: int) -> Flows:
    """Read it."""
    return Flows(
        {int(row[0]): shape_of(seed, int(row[0])) for row in rows(_NUMBERS)},
        {row[0]: int(row[1]) for row in rows(_ROOTS)},
        [f"{row[1]}: {row[0]}: {row[2]}" for row in rows(FLOW_VIOLATIONS.text)],
    )


def no_flow_lost(facts: Facts) -> Invariant:
    """I1: committed exists whole and once, rolled back and failed never, unknown whole or not at all."""
    flows: Flows = facts.own
    rows = Counter(task.order for task in facts.tasks.values())
    committed = {line.order: line.task for line in facts.lines(Mark.COMMITTED)}
    tried = {line.order for line in facts.lines(Mark.TRY)}
    never = [line for line in facts.lines(Mark.ROLLED_BACK, Mark.FAILED) if line.order not in committed]
    wrong = [f"flow {n} ({id}) was committed and is not there" for n, id in committed.items() if id not in flows.roots]
    wrong += [
        f"flow {line.order}: {line.mark}, and yet there are tasks" for line in never if line.order in flows.shapes
    ]
    wrong += [f"flow {n}: nobody tried to create it" for n in flows.shapes if n not in tried]
    for n in committed.keys() | flows.shapes.keys():
        shape = flows.shapes.get(n)
        missing = [job.order for job in shape.jobs if rows[job.order] != 1] if shape else ["every task"]
        wrong += [f"flow {n}: not there exactly once: {missing}"] if missing else []
    wanted = {job.order for job in flows.jobs()}
    wrong += [f"{task.id}: a task of no flow" for task in facts.tasks.values() if task.order not in wanted]
    return verdict("I1 no flow lost", len(tried | set(committed)), wrong)


def everything_ends(facts: Facts) -> Invariant:
    """I2: every task is final, and every flow is over and says so rightly."""
    flows: Flows = facts.own
    model = Model(facts)
    wrong = [
        f"{task.id} is still {State(task.state).label}" for task in facts.tasks.values() if task.state not in FINAL
    ]
    wrong += [f"{id}: flow in state 4 for ever" for id, state in flows.roots.items() if state == 4]
    for line in facts.lines(Mark.COMMITTED):
        state, shape = flows.roots.get(line.task), flows.shapes.get(line.order)
        if state is not None and shape is not None and state != model.state(shape):
            wrong.append(f"{line.task}: flow {line.order} in state {state}, not {model.state(shape)}")
    return verdict("I2 everything ends", len(facts.tasks) + len(flows.roots), wrong)


def one_completion(facts: Facts) -> Invariant:
    """I4: one success or planned failure at most, by an attempt that wrote its end down."""
    ends = {(line.task, line.attempt, line.mark) for line in facts.lines(Mark.END, Mark.FAULT)}
    ran, wrong = 0, list[str]()
    for task in facts.tasks.values():
        events = facts.events.get(task.id, [])
        wins = [event for event in events if event.to_state == State.SUCCEEDED]
        if len(wins) > 1:
            wrong.append(f"{task.id} succeeded {len(wins)} times")
        failed = task.state == State.FAILED and events and events[-1].reason == Reason.REJECTED
        if task.state != State.SUCCEEDED and not failed:
            continue
        ran += 1
        if (task.id, task.attempt, Mark.FAULT if failed else Mark.END) not in ends:
            wrong.append(f"{task.id} attempt {task.attempt} is over and its handler did not come to its end")
    return verdict("I4 one effective completion", ran, wrong)


def ran_if_and_only_if(facts: Facts) -> Invariant:
    """I9: a task whose condition holds ran and ended as told; any other never started, and says why."""
    flows: Flows = facts.own
    model, looked_at = Model(facts), 0
    wrong: list[str] = []
    started = {line.task for line in facts.lines(Mark.START)}
    started |= {event.task for event in facts.all_events if event.to_state == State.RUNNING}
    for job in flows.jobs():
        task = model.task(job)
        if task is None:
            continue
        looked_at += bool(job.edges)
        may, expected = not model.why_not(job), model.expected(job)
        found = (task.state, model.reason(task))
        if found not in expected:
            wrong.append(f"{task.id}: ended as {_said(found)}, not as {' or '.join(map(_said, sorted(expected)))}")
        if may != (task.id in started):
            wrong.append(f"{task.id}: {'may run and did not' if may else 'may not run, and started'}")
    return verdict("I9 ran if and only if it may", looked_at, wrong)


def _said(found: tuple[int, int | None]) -> str:
    state, reason = found
    return State(state).label + (f" ({Reason(reason).label})" if reason else "")


def in_order(facts: Facts) -> Invariant:
    """I9: nothing starts before everything it waits for has ended."""
    flows: Flows = facts.own
    model, looked_at = Model(facts), 0
    wrong: list[str] = []
    last = {(line.task, line.attempt): line.ns for line in facts.lines(Mark.END, Mark.FAULT)}
    first: dict[str, int] = {}
    for line in facts.lines(Mark.START):
        first[line.task] = min(line.ns, first.get(line.task, line.ns))
    for job in flows.jobs():
        task = model.task(job)
        if task is None or task.id not in first:
            continue
        for parent in {parent for edge in job.edges for parent in jobs_of(edge.parent)}:
            before = model.task(parent)
            looked_at += 1
            if before is None or last.get((before.id, before.attempt), 0) > first[task.id]:
                wrong.append(f"{task.id} started before {before.id if before else parent.order} had ended")
    return verdict("I9 nothing before its parents", looked_at, wrong)


def tables_agree(facts: Facts) -> Invariant:
    """I9: counters, members and histories of flows agree with the tasks."""
    flows: Flows = facts.own
    return verdict("I9 flow tables agree", len(facts.tasks) + len(flows.roots), flows.violations)


def results_kept(facts: Facts) -> Invariant:
    """I18: every result is the right one, also of those that take over the results of others."""
    flows: Flows = facts.own
    model = Model(facts)
    done: list[tuple[Job, Task]] = []
    for job in flows.jobs():
        task = model.task(job)
        if task is not None and task.state == State.SUCCEEDED:
            done.append((job, task))
    wrong = [f"{task.id}: result {task.result}" for job, task in done if task.result != str(model.result(job))]
    return verdict("I18 results kept", len(done), wrong)


def counts(facts: Facts) -> dict[str, int]:
    """What the verdict says besides."""
    flows: Flows = facts.own
    model = Model(facts)
    reasons = Counter((task.state, model.reason(task)) for task in facts.tasks.values())
    return {
        "flows_checked": len(flows.shapes),
        "dependants_checked": sum(bool(job.edges) for job in flows.jobs()),
        "dependants_ran": sum(bool(job.edges) and not model.why_not(job) for job in flows.jobs()),
        "succeeded": reasons[State.SUCCEEDED, None],
        "failed_as_planned": reasons[State.FAILED, Reason.REJECTED],
        "dependency_failed": reasons[State.FAILED, Reason.DEPENDENCY_FAILED],
        "skipped": reasons[State.CANCELLED, Reason.SKIPPED],
        "flow_violations": len(flows.violations),
    }
