"""The answer to "why has this task not run yet": causes with a stable code each.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from dispatcher.task_info import Shown

__all__ = ["Cause", "Code", "Explanation"]


class Code(StrEnum):
    """Stable names for programs; several can hold at once."""

    UNKNOWN = "unknown"
    """No task with this id was ever committed, or it was deleted."""
    NOT_COMMITTED = "not_committed"
    """The same, and transactions that wrote tasks are still open."""
    BLOCKED = "blocked"
    """It waits for other tasks."""
    WAITING_FOR_TIME = "waiting_for_time"
    WAITING_FOR_RETRY = "waiting_for_retry"
    PAUSED = "paused"
    """Its queue is paused."""
    PARKED = "parked"
    """Held back by a gate other than a pause that still holds."""
    EXPIRED = "expired"
    """Its expiry has passed before anybody started it."""
    IN_OUTBOX = "in_outbox"
    NO_RELAY = "no_relay"
    RELAY_SILENT = "relay_silent"
    """A relay holds the leader's lock but does not beat."""
    BROKER_UNREACHABLE = "broker_unreachable"
    """From where the question was asked."""
    STREAM_MISSING = "stream_missing"
    STREAM_FULL = "stream_full"
    OUTBOX_FULL = "outbox_full"
    """So much waits that new tasks are refused."""
    ON_STREAM = "on_stream"
    MESSAGE_LOST = "message_lost"
    """Published, but the stream does not hold it any more."""
    IN_TRANSIT = "in_transit"
    """Between two places at the moment of the question."""
    DELIVERED = "delivered"
    """A worker received it and has not claimed it yet."""
    NO_WORKER_FOR_QUEUE = "no_worker_for_queue"
    NO_WORKER_FOR_TYPE = "no_worker_for_type"
    WORKERS_BUSY = "workers_busy"
    RUNNING = "running"
    WAITING_FOR_SLOT = "waiting_for_slot"
    """Claimed by a worker whose slots are all taken."""
    CANCEL_REQUESTED = "cancel_requested"
    WORKER_SILENT = "worker_silent"
    """The worker that runs it does not answer."""
    LEASE_EXPIRED = "lease_expired"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Cause(Shown):
    """One reason.  ``since`` is when it began, where that is known; ``cure`` is what a person can do, if anything."""

    cause: Code
    text: str
    since: datetime | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    cure: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON data, the code as its name."""
        return Shown.to_json(self) | {"cause": self.cause.value}


@dataclass(frozen=True, slots=True)
class Explanation(Shown):
    """``state`` is ``None`` when there is no such task.  ``live``: whether NATS and the workers were asked too."""

    id: UUID
    state: str | None
    live: bool
    causes: tuple[Cause, ...]

    @property
    def codes(self) -> frozenset[str]:
        """The codes of all causes."""
        return frozenset(cause.cause.value for cause in self.causes)
