"""Flows as people and programs see them: one with its counts, or the whole tree with every state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from dispatcher.errors import CallError
from dispatcher.task_info import jsonable
from state.machine import Reason, State

__all__ = ["FLOW_STATES", "FlowEvent", "FlowInUse", "FlowInfo", "FlowNode"]

FLOW_STATES = {4: "running", 6: "succeeded", 7: "failed", 8: "cancelled", 9: "partly_succeeded", 10: "skipped"}
_KINDS = {1: "chain", 2: "group", 3: "flow", 4: "children"}


class FlowInUse(CallError):
    """The flow cannot be deleted now; nothing was changed."""


@dataclass(frozen=True, slots=True)
class FlowInfo:
    """One flow without its parts."""

    id: UUID
    root_id: UUID
    """The outermost flow that it is part of; its own id when it is that."""
    kind: str
    """``chain``, ``group``, ``flow`` (a graph by names) or ``children`` of a handler."""
    name: str | None
    state: str
    """``running``, ``succeeded``, ``failed``, ``cancelled`` or ``partly_succeeded``; a part of another flow may also be
    ``skipped``: the condition of the tasks that give its result did not hold."""
    total: int
    """Direct parts, tasks and flows."""
    created_at: datetime
    finished_at: datetime | None
    counts: dict[str, int]
    """Tasks at any depth by state; ``skipped`` are those whose condition did not hold."""

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[Any, ...]]) -> FlowInfo:
        """Of the rows of ``state.flows.STATE``."""
        id, root, kind, name, state, total, created, finished, *_ = rows[0]
        counts = {
            "skipped" if reason == Reason.SKIPPED else State(task_state).label: int(n)
            for *_, task_state, reason, n in rows
            if n is not None
        }
        return cls(
            UUID(str(id)), UUID(str(root)), _KINDS[kind], name, FLOW_STATES[state], total, created, finished, counts
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        data: dict[str, Any] = jsonable(self)
        return data


@dataclass(frozen=True, slots=True)
class FlowEvent:
    """One row of a flow's history."""

    seq: int
    state: str
    at: datetime
    actor: str | None


@dataclass(slots=True)
class FlowNode:
    """A flow or a task in the tree."""

    id: UUID
    kind: str
    """``task``, or the kind of the flow."""
    name: str | None
    type: str | None
    """The task type; of a task only."""
    state: str
    reason: str | None
    attempt: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    waits_for: tuple[UUID, ...]
    """The tasks and flows that it waits, or waited, for."""
    parts: list[FlowNode] = field(default_factory=list)

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[Any, ...]], root: UUID) -> FlowNode:
        """The tree of the rows of ``state.flows.TREE``."""
        nodes: dict[UUID, FlowNode] = {}
        places: list[tuple[UUID, FlowNode]] = []
        for id, parent, _, name, kind, type_, state, reason, attempt, created, started, finished, waits in rows:
            node = nodes[UUID(str(id))] = cls(
                UUID(str(id)), "task" if kind is None else _KINDS[kind], name, type_,
                State(state).label if kind is None else FLOW_STATES[state],
                None if reason is None else Reason(reason).label, attempt, created, started, finished,
                tuple(UUID(str(one)) for one in waits or ()),
            )  # fmt: skip
            if parent is not None and node.id != root:
                places.append((UUID(str(parent)), node))
        for above, node in places:
            nodes[above].parts.append(node)
        return nodes[root]

    def to_json(self) -> dict[str, Any]:
        """Plain data, the whole tree."""
        data: dict[str, Any] = jsonable(self)
        return data

    def tasks(self) -> Iterator[FlowNode]:
        """Every task, at any depth."""
        for part in self.parts:
            yield from [part] if part.kind == "task" else part.tasks()
