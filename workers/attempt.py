"""One claimed attempt on its way through the worker: delivery, session, handler, outcome."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

from dispatcher.context import Context
from dispatcher.task import TaskType
from state.machine import Reason, State
from workers.capture import LogLines
from workers.messages import Parcel
from workers.session import Session

__all__ = ["Attempt", "Delivery", "Home", "Outcome", "Stop"]


@dataclass(slots=True)
class Delivery:
    """An attempt that a message named, and that waits here to be claimed."""

    task_id: UUID
    attempt: int
    parcels: tuple[Parcel, ...]
    """The message, and further ones for the same attempt: all share its fate."""

    @property
    def only_hinted(self) -> bool:
        """Whether no message of the stream is behind it: the relay will publish it, if it is still needed."""
        return not any(parcel.reply for parcel in self.parcels)

    def join(self, parcels: tuple[Parcel, ...]) -> None:
        """Another message for the same attempt came; it may be one that was given back, once more."""
        self.parcels = (*(parcel for parcel in self.parcels if not parcel.gone), *parcels)


class Stop(Enum):
    """Who stopped a handler, which decides what its end means."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    RELEASE = "release"
    FENCE = "fence"


@dataclass(slots=True)
class Outcome:
    """How an attempt ended, as the settle statement wants it."""

    to: State
    result: bytes | None = None
    reason: Reason | None = None
    delay: float = 0.0
    refund: int = 0
    detail: dict[str, Any] | None = None
    committed: bool = False
    """The handler's own transaction has written it already: only acknowledge, count and tell."""


class Home(Protocol):
    """What an attempt needs of the executor that runs it."""

    def make_context(self, attempt: Attempt, /) -> Context:
        """The context of the attempt's handler."""

    def make_lines(self, attempt: Attempt, /) -> LogLines:
        """Where the attempt's log lines go."""


@dataclass(slots=True, eq=False)
class Attempt:
    """A task this worker runs.  ``outcome`` is set exactly once.  It stands in ``dispatcher.context.current``."""

    delivery: Delivery
    session: Session
    batch: int
    tries: int
    max_tries: int
    task_type: TaskType[Any, Any, Any]
    queue_id: int
    args: bytes
    meta: dict[str, Any]
    claimed_at: float
    inputs: bytes | None = None
    """The results it takes over, if they are small: members of a JSON object."""
    home: Home | None = None
    context: Context | None = None
    lines: LogLines | None = None
    job: asyncio.Future[Any] | None = None
    stop: Stop | None = None
    outcome: Outcome | None = None
    started_at: float = 0.0
    hard_at: float | None = None
    """When it is ended, in monotonic seconds."""
    soft_at: float | None = None
    in_thread: bool = False
    has_slot: bool = False
    stuck: bool = False
    """Its slot was given to others although its handler still runs."""
    decided: bool = False
    """Settled, or refused for good."""
    in_flow: bool = False
    """Others may wait for its end: it is settled by the statement that lets them go on."""

    @property
    def task_id(self) -> UUID:
        """The task's id."""
        return self.delivery.task_id

    @property
    def number(self) -> int:
        """The attempt number: the fence."""
        return self.delivery.attempt

    def __call__(self) -> Context:
        """The context, made when first asked for."""
        if self.context is None:
            assert self.home is not None
            self.context = self.home.make_context(self)
        return self.context

    def log(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        if self.lines is None:
            assert self.home is not None
            self.lines = self.home.make_lines(self)
        self.lines.add_record(record)
