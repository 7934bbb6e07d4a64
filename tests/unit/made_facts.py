"""Facts of a drill, made by hand: what a faultless system would leave, and lies about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dispatcher.drill.facts import Event, Facts, Task
from dispatcher.drill.invariants import Invariant
from state.machine import State

__all__ = ["Lie", "change", "facts_with", "put", "wrong"]

Lie = Callable[[Facts], object]


def facts_with(own: Any) -> Facts:
    return Facts({}, {}, [], {}, [], [], {}, {}, {}, {}, (0, []), [], own)


def put(facts: Facts, order: int, type: str, state: int, reason: int | None, result: int | None) -> Task:
    """A task in its last state, claimed once if it ran."""
    stored = None if result is None else str(result)
    task = Task(f"task {order}", order, type, state, 1, 1, 9, stored, 1.0, 2.0, None)
    facts.tasks[task.id] = task
    facts.events[task.id] = [Event(task.id, 2, State.RUNNING, state, reason, 1, 2.0)]
    return task


def change(facts: Facts, task: Task, **fields: Any) -> None:
    facts.tasks[task.id] = task._replace(**fields)
    if "state" in fields:
        facts.events[task.id][-1] = facts.events[task.id][-1]._replace(to_state=fields["state"])


def wrong(found: list[Invariant]) -> set[str]:
    return {invariant.name for invariant in found if not invariant.ok}
