"""Handlers that spawn tasks and go on when those have ended, without holding a slot meanwhile.

The first call creates the children and blocks the task, in one commit; ``Suspended`` then leaves the handler.  When all
children have ended the task runs again **from its beginning**, and the same call returns their results.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any
from uuid import UUID

from dispatcher.compose import Composed, Group
from dispatcher.effect_sessions import open_async, open_sync
from dispatcher.effects import Work
from dispatcher.errors import DispatcherError, TaskFailed
from dispatcher.flow_plan import CHILDREN, decoder_of, plan_of
from dispatcher.flow_write import flow_steps
from dispatcher.steps import Steps
from dispatcher.tx import run_steps, run_steps_async
from state.effects import STEP_OPEN, STEP_WRITE, SUSPEND
from state.machine import FINAL, State
from state.outcomes import OUTCOMES

__all__ = ["Suspended", "children", "children_blocking"]


class Suspended(BaseException):
    """Leaves a handler that waits for its children.  Not an ``Exception``: let it pass."""


def _steps(work: Work, name: str, calls: Sequence[Composed[Any]]) -> Steps[list[Any] | None]:
    """The results; or ``None``, when the children were created and the task was blocked in this transaction."""
    if not isinstance(name, str) or not 1 <= len(name) <= 190:
        raise DispatcherError("the name of a handler's children must be text of 1 to 190 characters")
    members = Group(calls)
    params = work.params(step=f"~{name}")
    [(ours, stored)] = yield STEP_OPEN, params
    if not ours:
        raise work.stale()
    if stored is not None:
        return (yield from _results(UUID(bytes(stored).decode()), members))
    plan = plan_of(members)
    root = next(plan.flows())
    root.kind, root.name = CHILDREN, name
    yield from flow_steps(plan)
    yield STEP_WRITE, {**params, "result": str(root.id).encode()}
    [(blocked,)] = yield SUSPEND, work.params(flow=root.id)
    if not blocked:
        raise work.stale()
    return None


def _results(flow: UUID, members: Group[Any]) -> Generator[Any, Any, list[Any]]:
    from pydantic_core import from_json

    [(_, state, _, result, error)] = yield OUTCOMES, {"ids": [flow]}
    if State(state) not in FINAL:
        raise DispatcherError(f"the children {flow} have not ended: retry them, and their parent follows")
    if state != State.SUCCEEDED:
        raise TaskFailed(flow, "children", error)
    values: list[Any] = decoder_of(members)(from_json(bytes(result)))
    return values


async def children(work: Work, name: str, calls: Sequence[Composed[Any]]) -> list[Any]:
    """The children's results; raises ``Suspended`` when they have just been created."""
    schema = work.home.schema
    async with open_async(work.home, None) as session:
        results = await run_steps_async(session, _steps(work, name, calls), schema, atomic=False)
    return _or_leave(work, results)


def children_blocking(work: Work, name: str, calls: Sequence[Composed[Any]]) -> list[Any]:
    """The same for plain handlers."""
    schema = work.home.schema
    with open_sync(work.home, None) as session:
        results = run_steps(session, _steps(work, name, calls), schema, atomic=False)
    return _or_leave(work, results)


def _or_leave(work: Work, results: list[Any] | None) -> list[Any]:
    if results is None:
        work.completed, work.suspended = True, True
        raise Suspended
    return results
