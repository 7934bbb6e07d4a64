"""Ask for the state of flows, cancel them, retry their failed parts.  As in ``dispatcher.status``, on any session."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

from dispatcher.errors import FlowNotFound, OptionError
from dispatcher.flow_info import FLOW_STATES, FlowEvent, FlowInfo, FlowInUse, FlowNode
from dispatcher.flow_plan import CHILDREN
from dispatcher.status import change
from dispatcher.steps import Steps
from dispatcher.task_info import Answer
from state import flows, requests
from state.delete import DELETE_FINISHED, LOG_DELETION
from state.ids import new_ids

__all__ = ["again_steps", "cancel_steps", "delete_steps", "history_steps", "info_steps", "retry_steps", "tree_steps"]

_CHUNK = 500


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


def delete_steps(flow_id: UUID | str, actor: str | None) -> Steps[int]:
    """Remove it for good with all its tasks, or nothing: the number of tasks.  In a transaction of the caller.

    Raises ``FlowNotFound``, ``OptionError`` for a part of something else, and ``FlowInUse`` while it runs or somebody
    needs one of its tasks.
    """
    flow = _id(flow_id)
    rows = yield flows.LOCK_FLOW, {"id": flow}
    if not rows:
        raise FlowNotFound(flow)
    [(_, root, kind, state)] = rows
    if UUID(str(root)) != flow:
        raise OptionError(f"{flow} is a part of {root}: delete that")
    if kind == CHILDREN:
        raise OptionError(f"{flow} belongs to a handler's task and goes with it")
    if FLOW_STATES[state] == "running":
        raise FlowInUse(f"flow {flow} still runs: cancel it first")
    ids = [UUID(str(row[0])) for row in (yield flows.FORGET_ONE, {"id": flow})]
    gone = 0
    for start in range(0, len(ids), _CHUNK):
        gone += len((yield DELETE_FINISHED, {"ids": ids[start : start + _CHUNK]}))
    if gone < len(ids):
        raise FlowInUse(
            f"{len(ids) - gone} of the {len(ids)} tasks of flow {flow} cannot go yet: somebody changes them, or a"
            " message for them may still come; nothing was deleted, try again in a minute"
        )
    about = {"id": uuid4(), "actor": actor, "filter": json.dumps({"flow": str(flow)}), "deleted": gone}
    yield LOG_DELETION, about
    return gone


def _id(text: UUID | str) -> UUID:
    if isinstance(text, UUID):
        return text
    try:
        return UUID(text)
    except ValueError:
        raise OptionError(f"flow id {text!r} is not a UUID") from None
