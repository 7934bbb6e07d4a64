"""``app.flows``: questions and requests about flows, on the caller's own session like those about tasks."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar, overload
from uuid import UUID

from dispatcher.awaiting import guarded
from dispatcher.flow_info import FlowEvent, FlowInfo, FlowNode
from dispatcher.flow_status import (
    again_steps,
    cancel_steps,
    delete_steps,
    history_steps,
    info_steps,
    retry_steps,
    tree_steps,
)
from dispatcher.installation import Installation
from dispatcher.task_info import Answer
from dispatcher.tx import AsyncTx, SyncTx, is_async, resolved, run_steps, run_steps_async

__all__ = ["Flows"]

R = TypeVar("R")
Awaitably = Coroutine[Any, Any, R]


class Flows:
    """The flows of an app.  Ids are those of the handles that ``enqueue`` of a composition returns."""

    def __init__(self, home: Installation) -> None:
        self._home = home

    @overload
    def get(self, tx: SyncTx, flow_id: UUID | str, /) -> FlowInfo: ...
    @overload
    def get(self, tx: AsyncTx, flow_id: UUID | str, /) -> Awaitably[FlowInfo]: ...
    def get(self, tx: Any, flow_id: UUID | str, /) -> Any:
        """The flow's state, and its tasks by state.  Raises ``FlowNotFound``."""
        return self._read(tx, info_steps(flow_id))

    @overload
    def tree(self, tx: SyncTx, flow_id: UUID | str, /) -> FlowNode: ...
    @overload
    def tree(self, tx: AsyncTx, flow_id: UUID | str, /) -> Awaitably[FlowNode]: ...
    def tree(self, tx: Any, flow_id: UUID | str, /) -> Any:
        """The flow with every part and its state.  Raises ``FlowNotFound``."""
        return self._read(tx, tree_steps(flow_id))

    @overload
    def history(self, tx: SyncTx, flow_id: UUID | str, /) -> list[FlowEvent]: ...
    @overload
    def history(self, tx: AsyncTx, flow_id: UUID | str, /) -> Awaitably[list[FlowEvent]]: ...
    def history(self, tx: Any, flow_id: UUID | str, /) -> Any:
        """Every change of the flow's state, oldest first.  Raises ``FlowNotFound``."""
        return self._read(tx, history_steps(flow_id))

    @overload
    def cancel(self, tx: SyncTx, flow_id: UUID | str, /, *, actor: str | None = None) -> list[Answer]: ...
    @overload
    def cancel(self, tx: AsyncTx, flow_id: UUID | str, /, *, actor: str | None = None) -> Awaitably[list[Answer]]: ...
    def cancel(self, tx: Any, flow_id: UUID | str, /, *, actor: str | None = None) -> Any:
        """Cancel every task of it that has not ended.  Raises ``FlowNotFound``."""
        return self._write(tx, "cancel of a flow", lambda: cancel_steps(flow_id, actor))

    @overload
    def retry(self, tx: SyncTx, flow_id: UUID | str, /, *, actor: str | None = None) -> list[Answer]: ...
    @overload
    def retry(self, tx: AsyncTx, flow_id: UUID | str, /, *, actor: str | None = None) -> Awaitably[list[Answer]]: ...
    def retry(self, tx: Any, flow_id: UUID | str, /, *, actor: str | None = None) -> Any:
        """Run its failed and cancelled parts again; tasks that wait for them follow.  Raises ``FlowNotFound``."""
        return self._write(tx, "retry of a flow", lambda: retry_steps(flow_id, actor))

    @overload
    def again(self, tx: SyncTx, flow_id: UUID | str, /) -> UUID: ...
    @overload
    def again(self, tx: AsyncTx, flow_id: UUID | str, /) -> Awaitably[UUID]: ...
    def again(self, tx: Any, flow_id: UUID | str, /) -> Any:
        """Run the whole again, also what succeeded, as a new flow; returns its id.  Raises ``FlowNotFound``."""
        return self._write(tx, "repetition of a flow", lambda: again_steps(flow_id))

    @overload
    def delete(self, tx: SyncTx, flow_id: UUID | str, /, *, actor: str | None = None) -> int: ...
    @overload
    def delete(self, tx: AsyncTx, flow_id: UUID | str, /, *, actor: str | None = None) -> Awaitably[int]: ...
    def delete(self, tx: Any, flow_id: UUID | str, /, *, actor: str | None = None) -> Any:
        """Remove one that has ended with every task of it and their history, or nothing; returns how many tasks.

        Raises ``FlowNotFound``, and ``FlowInUse`` while it runs or somebody needs one of its tasks.
        """
        return self._write(tx, "deletion of a flow", lambda: delete_steps(flow_id, actor))

    def _read(self, tx: Any, steps: Any) -> Any:
        run = run_steps_async if is_async(tx) else run_steps
        return run(tx, steps, self._home.schema, atomic=False)

    def _write(self, tx: Any, what: str, steps: Any) -> Any:
        tx = resolved(tx)
        if is_async(tx):
            return guarded(tx, what, lambda: run_steps_async(tx, steps(), self._home.schema))
        return run_steps(tx, steps(), self._home.schema)
