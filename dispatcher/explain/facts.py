"""What is known about one task: from the database, read in a few statements on any session, and from NATS."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from dispatcher.steps import Steps
from state import explain
from state.locks import LEADER, advisory_key
from state.machine import Flag, Reason, State

__all__ = ["Facts", "Live", "read"]

_NAMES = (
    "state", "reason", "attempt", "tries", "max_attempts", "dispatch", "flags", "created_at", "due_at", "expires_at",
    "started_at", "finished_at", "now", "type", "queue", "stream", "paused", "paused_at", "paused_by", "lane_id",
    "lane", "gate", "worker", "boot_id", "lease_until", "moved_at", "actor", "detail", "error", "outbox_id", "progress",
    "waits_for",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """A task's row under the names above, and what else was read for its state."""

    id: UUID
    row: Mapping[str, Any] | None
    """``None``: no such task."""
    writers: Sequence[Mapping[str, Any]] = ()
    """Open transactions that wrote tasks; only read when there is no such task."""
    leader: Mapping[str, Any] | None = None
    """The leading relay; ``None`` when there is none."""
    outbox: Mapping[str, int] = field(default_factory=dict)
    """``before``, ``waiting`` and ``limit``, for a task in the outbox."""
    published_at: datetime | None = None
    before: int | None = None
    """Tasks of its lane that were published before it and have not started."""

    @property
    def state(self) -> State:
        """The state; only with a row."""
        assert self.row is not None
        return State(self.row["state"])

    @property
    def reason(self) -> str | None:
        """The reason's label."""
        assert self.row is not None
        return None if self.row["reason"] is None else Reason(self.row["reason"]).label

    @property
    def is_cancel_requested(self) -> bool:
        """Whether somebody asked the running task to stop."""
        assert self.row is not None
        return bool(self.row["flags"] & Flag.CANCEL)


@dataclass(frozen=True)
class Live:
    """What NATS and the workers know, see ``dispatcher.explain.live``.

    ``None`` in a field: not asked, because it does not matter in the task's state.
    """

    error: str | None = None
    """Why NATS could not be asked; everything else is empty then."""
    workers: Sequence[Mapping[str, Any]] = ()
    beats: bool | None = None
    stream: Mapping[str, Any] | None = None
    """``messages``, ``bytes``, ``max_messages``, ``max_bytes``; empty: there is no such stream."""
    consumer: Mapping[str, Any] | None = None
    """``pending``, ``outstanding``, ``limit``; empty: no worker ever served the lane."""
    first_message_at: datetime | None = None
    """When the first message that the lane still holds was stored."""
    lane_empty: bool | None = None


def read(task_id: UUID, schema: str) -> Steps[Facts]:
    """Read them.  The statements see one moment each, not one moment together."""
    rows = yield explain.FACTS, {"id": task_id}
    if not rows:
        found = yield explain.WRITERS, {}
        return Facts(task_id, None, [dict(zip(("pid", "program", "since"), one, strict=True)) for one in found])
    row = dict(zip(_NAMES, rows[0], strict=True))
    row["detail"] = json.loads(row["detail"]) if row["detail"] else None
    row["progress"] = json.loads(row["progress"]) if row["progress"] else None
    leader = yield from _leader(schema)
    if row["state"] != State.QUEUED or row["gate"] is not None:
        return Facts(task_id, row, leader=leader)
    if row["outbox_id"] is not None:
        ((before, waiting, limit),) = yield explain.OUTBOX, {"outbox_id": row["outbox_id"]}
        outbox = {"before": int(before), "waiting": max(int(waiting), int(before) + 1), "limit": int(limit)}
        return Facts(task_id, row, leader=leader, outbox=outbox)
    place = {name: row[name] for name in ("lane_id", "attempt", "dispatch")}
    published = yield explain.PUBLISHED, {"id": task_id, **place}
    if not published:
        return Facts(task_id, row, leader=leader)
    batch, n, at = published[0]
    ((before,),) = yield explain.BEFORE, {"lane_id": row["lane_id"], "batch": batch, "n": n}
    return Facts(task_id, row, leader=leader, published_at=at, before=int(before))


def _leader(schema: str) -> Steps[Mapping[str, Any] | None]:
    keys = dict(zip(("k1", "k2"), advisory_key(schema, LEADER), strict=True))
    rows = yield explain.LEADER, keys
    return dict(zip(("pid", "name", "since"), rows[0], strict=True)) if rows else None
