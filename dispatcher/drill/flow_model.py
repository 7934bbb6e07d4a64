"""How every task of random compositions should have ended, given how those before it ended."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

from dispatcher.drill.facts import Facts, Task
from dispatcher.drill.flow_shapes import ENDED, FAILED, SUCCEEDED, Bundle, Edge, Job, Node, Shape
from dispatcher.drill.flow_tasks import merged
from state.machine import FINAL, Reason, State

__all__ = ["End", "Model", "jobs_of"]


class End(Enum):
    """How a task or flow ended, for those who wait for it."""

    GOOD = 1
    BAD = 2
    SKIPPED = 3
    OPEN = 4


class Model:
    """Compositions beside the rows of their tasks."""

    def __init__(self, facts: Facts) -> None:
        self._tasks = {task.order: task for task in facts.tasks.values()}
        self._facts = facts
        self._ends: dict[Node, End] = {}

    def task(self, job: Job) -> Task | None:
        """Its row."""
        return self._tasks.get(job.order)

    def reason(self, task: Task) -> int | None:
        """Why it is in its state."""
        events = self._facts.events.get(task.id)
        return events[-1].reason if events else None

    def end(self, node: Node) -> End:
        """A task as its row says; a flow by what is in it."""
        found = self._ends.get(node)
        if found is None:
            found = self._ends[node] = self._end_of(node)
        return found

    def _end_of(self, node: Node) -> End:
        if isinstance(node, Bundle):
            ends = {self.end(member) for member in node.members}
            if worst := next((end for end in (End.OPEN, End.BAD) if end in ends), None):
                return worst
            # what gives no result because all of it was skipped was not needed either
            return End.SKIPPED if {self.end(slot) for slot in node.slots} == {End.SKIPPED} else End.GOOD
        task = self.task(node)
        if task is None or task.state not in FINAL:
            return End.OPEN
        if task.state == State.SUCCEEDED:
            return End.GOOD
        return End.SKIPPED if self.reason(task) == Reason.SKIPPED else End.BAD

    def value(self, node: Node) -> Any:
        """Its result; ``None`` where there is none."""
        if isinstance(node, Bundle):
            if self.end(node) == End.SKIPPED:
                return None
            values = [self.value(slot) for slot in node.slots]
            return values if node.kind == "group" else values[0]
        task = self.task(node)
        return int(task.result) if task and task.state == State.SUCCEEDED and task.result is not None else None

    def holds(self, edge: Edge) -> bool:
        """Whether what it waits for has happened."""
        end = self.end(edge.parent)
        if edge.rule == ENDED:
            return end != End.OPEN
        if edge.rule == FAILED:
            return end == End.BAD
        return end == End.GOOD and (edge.wants is None or self.value(edge.parent) == edge.wants)

    def why_not(self, job: Job) -> set[tuple[int, int | None]]:
        """States and reasons in which a task may have ended that may not run; empty if it may.

        Where one parent failed and another was skipped, it depends on which of them ended first.
        """
        return {
            (State.FAILED, Reason.DEPENDENCY_FAILED)
            if edge.rule == SUCCEEDED and self.end(edge.parent) == End.BAD
            else (State.CANCELLED, Reason.SKIPPED)
            for edge in job.edges
            if not self.holds(edge)
        }

    def expected(self, job: Job) -> set[tuple[int, int | None]]:
        """State and reason in which it must have ended."""
        ran = (State.FAILED, Reason.REJECTED) if job.fails else (State.SUCCEEDED, None)
        return self.why_not(job) or {ran}

    def result(self, job: Job) -> int | None:
        """What it must have returned if it succeeded."""
        return merged(None if job.takes is None else self.value(job.takes)) if job.value is None else job.value

    def state(self, shape: Shape) -> int:
        """In which state the whole must be: 6 succeeded, 7 failed, 9 partly succeeded."""
        bad = sum(self.end(member) == End.BAD for member in shape.whole.members)
        if not bad:
            return 6
        return 7 if shape.whole.kind == "chain" or bad == len(shape.whole.members) else 9


def jobs_of(node: Node) -> Iterator[Job]:
    """Every task in it."""
    if isinstance(node, Job):
        yield node
    else:
        for member in node.members:
            yield from jobs_of(member)
