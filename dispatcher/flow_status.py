"""Ask for the state of flows, cancel them, retry their failed parts.  As in ``dispatcher.status``, on any session."""

from __future__ import annotations

from uuid import UUID

from dispatcher.errors import FlowNotFound, OptionError
from dispatcher.flow_info import FLOW_STATES, FlowEvent, FlowInfo, FlowNode
from dispatcher.status import change
from dispatcher.steps import Steps
from dispatcher.task_info import Answer
from state import flows, requests
from state.ids import new_ids

__all__ = ["again_steps", "cancel_steps", "history_steps", "info_steps", "retry_steps", "tree_steps"]


def info_steps(flow_id: UUID | str) -> Steps[FlowInfo]:
    """One flow with the counts of its tasks by state.  Raises ``FlowNotFound``, ``OptionError`` for a bad id."""
    flow = _id(flow_id)
    rows = yield flows.STATE, {"id": flow}
    if not rows:
        raise FlowNotFound(flow)
    return FlowInfo.from_rows(rows)


def tree_steps(flow_id: UUID | str) -> Steps[FlowNode]:
    """The whole tree.  Raises the same."""
    flow = _id(flow_id)
    rows = yield flows.TREE, {"id": flow}
    if not rows:
        raise FlowNotFound(flow)
    return FlowNode.from_rows(rows, flow)


def history_steps(flow_id: UUID | str) -> Steps[list[FlowEvent]]:
    """Every change of a flow's state, oldest first.  Raises the same."""
    flow = _id(flow_id)
    rows = yield flows.HISTORY, {"id": flow}
    if not rows:
        raise FlowNotFound(flow)
    return [FlowEvent(seq, FLOW_STATES[state], at, actor) for seq, state, at, actor in rows]


def cancel_steps(flow_id: UUID | str, actor: str | None) -> Steps[list[Answer]]:
    """Cancel every task that has not ended; one answer for each.  Raises ``FlowNotFound``."""
    yield from info_steps(flow_id)
    yield flows.MARK_CANCELLED, {"id": _id(flow_id)}
    rows = yield flows.OPEN, {"id": _id(flow_id)}
    return (yield from change(requests.CANCEL, [row[0] for row in rows], actor))


def retry_steps(flow_id: UUID | str, actor: str | None) -> Steps[list[Answer]]:
    """Run the failed and cancelled parts again; those that wait for them follow.  Raises ``FlowNotFound``."""
    yield from info_steps(flow_id)
    rows = yield flows.FAILED, {"id": _id(flow_id)}
    yield flows.AGAIN, {"id": _id(flow_id)}
    return (yield from change(requests.RETRY, [row[0] for row in rows], actor))


def again_steps(flow_id: UUID | str) -> Steps[UUID]:
    """Run the whole again, also what succeeded: as a new flow, whose id this is.

    Raises ``FlowNotFound``, and ``OptionError`` for a part of another flow.
    """
    info = yield from info_steps(flow_id)
    if info.root_id != info.id:
        raise OptionError(f"{flow_id} is a part of {info.root_id}: run that again")
    rows = yield flows.NODES, {"id": info.id}
    new = new_ids(len(rows))
    yield flows.COPY, {"old": [UUID(str(row[0])) for row in rows], "new": new}
    return new[0]


def _id(text: UUID | str) -> UUID:
    if isinstance(text, UUID):
        return text
    try:
        return UUID(text)
    except ValueError:
        raise OptionError(f"flow id {text!r} is not a UUID") from None
