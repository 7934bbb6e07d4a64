"""The life of a task as one pure table: states, reasons, legal moves.

Every guarded statement of this package takes its from-states from here, and the database repeats the same
table in ``task_moves`` so that the checker and the statements cannot drift apart.  Nothing here does I/O.

    blocked ──► scheduled ──► queued ──► running ──► succeeded
                    ▲            ▲          │├─────► failed ─┐
                    └─ retrying ─┴──────────┘└─────► cancelled ┴─► queued | scheduled (a person's retry)
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = ["FINAL", "LEGAL_MOVES", "Flag", "Reason", "State", "is_legal"]


class State(IntEnum):
    """What a task is doing.  The numbers are stored; they never change meaning."""

    BLOCKED = 1
    """Waits for other tasks."""
    SCHEDULED = 2
    """Waits for a time."""
    QUEUED = 3
    """In the outbox, on the stream, or parked by a pause or limit."""
    RUNNING = 4
    """A worker holds it under a lease."""
    RETRYING = 5
    """Failed once, waits for its back-off."""
    SUCCEEDED = 6
    """The handler returned and its result is stored."""
    FAILED = 7
    """Gave up; the reason says why."""
    CANCELLED = 8
    """Stopped on request."""

    @property
    def label(self) -> str:
        """The word people read, for example ``queued``."""
        return self.name.lower()


class Reason(IntEnum):
    """Why a move happened.  Stored next to the state; never another state."""

    EXHAUSTED = 1
    """Every try was used."""
    REJECTED = 2
    """The retry policy says that this error is not worth another try."""
    LEASE_EXPIRED = 3
    """The worker died or stopped answering."""
    TIMEOUT = 4
    """The handler ran longer than it may."""
    EXPIRED = 5
    """Nobody started it before its expiry."""
    DEPENDENCY_FAILED = 6
    """A task it waits for did not succeed."""
    BY_REQUEST = 7
    """A person or program asked for it."""
    UNDECODABLE = 8
    """The stored arguments do not fit the task type any more."""
    DISABLED = 9
    """The task type is switched off."""
    UNSERIALISABLE = 10
    """The handler's result cannot be stored."""
    ERROR = 11
    """The handler raised; more tries are left."""
    SNOOZED = 12
    """The handler asked for a later start; no try is consumed."""
    RELEASED = 13
    """A stopping worker gave it back; no try is consumed."""
    REDISPATCHED = 14
    """Its message was lost or held back and it is sent again."""
    DEADLINE = 15
    """It was not finished by its deadline."""
    SKIPPED = 16
    """Its condition did not hold: it was not needed."""
    CHILDREN = 17
    """Its handler waits for the tasks it spawned; no try is consumed."""

    @property
    def label(self) -> str:
        """The word people read, for example ``lease_expired``."""
        return self.name.lower()


class Flag(IntFlag):
    """Bits of ``tasks.flags``: they let hot statements skip side tables."""

    CANCEL = 1
    """Cancel was requested while it ran."""
    KEYED = 2
    """Has a row in ``task_keys``."""
    LABELLED = 4
    """Has rows in ``task_labels``."""
    SECRET_RESULT = 8
    """The result must never be shown to people."""
    IN_FLOW = 16
    """Somebody must be told when it ends: its flow, or tasks that wait for it."""
    HAS_PARENTS = 32
    """Waits, or waited, for others: has a row in ``joins``."""


FINAL: frozenset[State] = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})

LEGAL_MOVES: frozenset[tuple[State | None, State]] = frozenset(
    {
        (None, State.BLOCKED),
        (None, State.SCHEDULED),
        (None, State.QUEUED),
        (State.BLOCKED, State.QUEUED),
        (State.BLOCKED, State.SCHEDULED),
        (State.BLOCKED, State.FAILED),
        (State.BLOCKED, State.CANCELLED),
        (State.SCHEDULED, State.QUEUED),
        (State.SCHEDULED, State.FAILED),
        (State.SCHEDULED, State.CANCELLED),
        (State.QUEUED, State.RUNNING),
        (State.QUEUED, State.SCHEDULED),
        (State.QUEUED, State.FAILED),
        (State.QUEUED, State.CANCELLED),
        (State.RUNNING, State.SUCCEEDED),
        (State.RUNNING, State.RETRYING),
        (State.RUNNING, State.SCHEDULED),
        (State.RUNNING, State.QUEUED),
        (State.RUNNING, State.BLOCKED),
        (State.RUNNING, State.FAILED),
        (State.RUNNING, State.CANCELLED),
        (State.RETRYING, State.QUEUED),
        (State.RETRYING, State.FAILED),
        (State.RETRYING, State.CANCELLED),
        (State.FAILED, State.QUEUED),
        (State.FAILED, State.SCHEDULED),
        (State.CANCELLED, State.QUEUED),
        (State.CANCELLED, State.SCHEDULED),
    }
)


def is_legal(before: State | None, after: State) -> bool:
    """Whether a task may move from ``before`` (``None``: it is being created) to ``after``."""
    return (before, after) in LEGAL_MOVES
