"""The whole system as one immutable value: database, stream, relays, workers, and the faults that are left."""

from __future__ import annotations

from typing import NamedTuple

from state.protocol.guards import NONE, Dropped
from state.protocol.rows import Db, Message, Row

__all__ = ["Faults", "Label", "Relay", "Setup", "Slot", "Worker", "World", "begin"]

Label = tuple[object, ...]
"""What happened, for the printed path: name, then its arguments."""


class Faults(NamedTuple):
    """How often each may still happen on a path; choices of people and handlers are counted like faults."""

    crash: int = 0
    """A worker dies and starts again with nothing remembered."""
    freeze: int = 0
    """The lease of a living worker ends."""
    relay_crash: int = 0
    wipe: int = 0
    """The stream is emptied and made anew."""
    hint: int = 0
    """A worker is told of an entry past the stream, at any time from its commit on."""
    repeat: int = 0
    """Any message that was ever sent arrives again."""
    lose_reply: int = 0
    """A claim or settle is committed and its answer lost."""
    lose_tail: int = 0
    """The database forgets the last claim (only with the guard ``claim.durable`` dropped)."""
    fail: int = 0
    """A handler fails and may be tried again."""
    give_back: int = 0
    """A snooze or an orderly stop, which consumes no try."""
    cancel: int = 0
    retry: int = 0
    pause: int = 0
    expire: int = 0


class Slot(NamedTuple):
    """What one worker believes to hold."""

    task: int
    attempt: int
    session: int
    phase: str = "runs"
    """``runs``; ``doubt``: the answer to its claim was lost; ``looked``: half a claim, if it does not lock;
    ``owes``: it still has to tell others of the end, if that is no part of the settle."""


class Worker(NamedTuple):
    """One process: its session, 0 for none, and its slots."""

    session: int = 0
    slots: frozenset[Slot] = frozenset()


class Relay(NamedTuple):
    """An open drain: the row it has locked, and whether the stream has confirmed it."""

    message: Message | None = None
    stored: bool = False


class World(NamedTuple):
    """One state of everything."""

    db: Db
    left: Faults
    workers: tuple[Worker, ...]
    relays: tuple[Relay, ...]
    stream: frozenset[Message] = frozenset()
    sent: frozenset[Message] = frozenset()
    """Every message ever stored: what a repeat may bring, and what the stream takes for a duplicate."""
    stream_known: bool = True
    """The installation agrees with the stream's creation time."""
    rescuing: int = 0
    """A session that a rescuer without a lock has read as expired."""
    last_session: int = 0
    started: tuple[int, ...] = ()
    """The ledger of the handlers: the highest attempt of each task that was started."""
    promised: tuple[bool, ...] = ()
    """Somebody was told that this task is cancelled."""
    before_claim: Db | None = None
    """What a database that loses its tail goes back to."""


class Setup(NamedTuple):
    """One configuration of the checker."""

    tasks: tuple[Row, ...]
    faults: Faults
    workers: int = 2
    relays: int = 1
    slots: int = 2
    reconciler: bool = True
    """Without it only the full reconcile of a new stream sends lost messages again."""
    strangers: frozenset[int] = frozenset()
    """Workers that do not know the task type."""
    forged: frozenset[Message] = frozenset()
    """Messages on the stream that nobody sent."""
    waived: frozenset[str] = frozenset()
    """Invariants that are not asked for."""
    dropped: Dropped = NONE


def begin(setup: Setup) -> World:
    """The tasks are just committed, nobody has done anything."""
    outbox = frozenset((n, row.attempt, row.dispatch) for n, row in enumerate(setup.tasks) if row.state == 3)
    return World(
        db=Db(tasks=setup.tasks, outbox=outbox),
        left=setup.faults,
        workers=(Worker(),) * setup.workers,
        relays=(Relay(),) * setup.relays,
        stream=setup.forged,
        started=(0,) * len(setup.tasks),
        promised=(False,) * len(setup.tasks),
    )
