"""What must never happen, judged by what was done, not by the guards: each step is looked at from outside.

The names in brackets are those of the reliability reference: I1 is by construction (rows are never deleted), I2 and
I17 are the checker's liveness, I3 to I8, I10 and I12 are here.
"""

from __future__ import annotations

from collections.abc import Iterator

from state.machine import FINAL, State, is_legal
from state.protocol.rows import Row
from state.protocol.world import Label, Setup, World

__all__ = ["broken"]


def broken(before: World, label: Label, after: World, setup: Setup) -> list[str]:
    """The invariants that this step breaks."""
    found: list[str] = []
    for task, (old, new) in enumerate(zip(before.db.tasks, after.db.tasks, strict=True)):
        if old is not new:
            found += _row(old, new)
            found += _message(before, label, after, task)
            found += _released(before, after, task)
        if after.promised[task] and new.state is not State.CANCELLED:
            found.append("cancelled was said and is not true (I8)")
    found += _start(before, label, after, setup)
    if len(label) == 5:  # the last words of an attempt
        found += _stale(before, label, after)
    found += _leader(before, label, after)
    return [what for what in found if what not in setup.waived]


def _row(old: Row, new: Row) -> Iterator[str]:
    if old.state is not new.state and not is_legal(old.state, new.state):
        yield f"illegal move {old.state.label} to {new.state.label} (I10)"
    if old.state in FINAL and new.state is not old.state and new.generation == old.generation:
        yield "a final state was left within its generation (I3)"
    if old.state in FINAL and new.generation == old.generation and new.cancel != old.cancel:
        yield "a final row was changed (I3)"
    if new.attempt < old.attempt:
        yield "the attempt number fell (I7)"
    if not 0 <= new.tries <= new.max_tries:
        yield "tries beyond their bounds (I5)"
    if (new.state is State.RUNNING) != (new.session != 0):
        yield "running and session disagree (I10)"


def _leader(before: World, label: Label, after: World) -> Iterator[str]:
    """The rescuer, the expiry and the full reconcile."""
    if label[0] == "rescue":
        if (label[1], False) in before.db.sessions:
            yield "rescued while the lease was alive (I6)"
        yield from _rescued(before, after, label[1])
    if label[0] == "expire":
        pairs = zip(before.db.tasks, after.db.tasks, strict=True)
        if any(old is not new and not old.expired for old, new in pairs):
            yield "failed as expired before its time (I13)"
    if label[0] == "full reconcile":
        yield from _forgotten(after)


def _rescued(before: World, after: World, session: object) -> Iterator[str]:
    """Only what the dead session runs is given back; who waits for that may end with it."""
    for old, new in zip(before.db.tasks, after.db.tasks, strict=True):
        if old != new and old.session != session and not old.remaining:
            yield "rescued from somebody else (I6)"


def _message(before: World, label: Label, after: World, task: int) -> Iterator[str]:
    """A new outbox row is for a queued task that waits for a message and has none."""
    if not any(message[0] == task for message in after.db.outbox - before.db.outbox):
        return
    old, new = before.db.tasks[task], after.db.tasks[task]
    if new.state is not State.QUEUED:
        yield "a message for a task that is not queued (I12)"
    if label[0] == "reconcile" and old.parked and old.parked == old.attempt:
        yield "a message for a parked task (I12)"
    waiting = before.stream | before.db.outbox
    if label[0] == "reconcile" and (task, old.attempt, old.dispatch) in waiting:
        yield "a waiting message was doubled (I12)"


def _released(before: World, after: World, task: int) -> Iterator[str]:
    """Who waits for others leaves that state in the step that ends the last of them, and only if all succeeded."""
    old, new = before.db.tasks[task], after.db.tasks[task]
    parents = [n for n, row in enumerate(after.db.tasks) if task in row.feeds]
    if not parents or new.state is not State.QUEUED or old.state not in (State.BLOCKED, State.FAILED, State.CANCELLED):
        return
    if any(after.db.tasks[n].state is not State.SUCCEEDED for n in parents):
        yield "queued before all that it waits for had succeeded (I9)"
    if old.state is State.BLOCKED and all(before.db.tasks[n] == after.db.tasks[n] for n in parents):
        yield "released by another step than the end of its parent (I9)"


def _start(before: World, label: Label, after: World, setup: Setup) -> Iterator[str]:
    """A handler was started, or would be as soon as the lost answer is read again."""
    if label[0] not in ("claim", "claim writes", "adopt", "claim, answer lost"):
        return
    worker = label[1]
    assert isinstance(worker, int)
    new = {s for s in after.workers[worker].slots if s.phase == "runs"} - before.workers[worker].slots
    for slot in new:
        old = before.db.tasks[slot.task]
        if before.started[slot.task] >= slot.attempt:
            yield "an attempt was started twice (I5)"
        if old.cancel:
            yield "started although cancel was requested (I8)"
        if label[0] != "adopt" and old.expired:
            yield "started after its expiry (I13)"
        if label[0] != "adopt" and before.db.paused:
            yield "started in a paused queue"
        if worker in setup.strangers:
            yield "started by a worker without its code"


def _stale(before: World, label: Label, after: World) -> Iterator[str]:
    """The last words of an attempt that is not the running one of that session."""
    _, _, task, attempt, session = label
    assert isinstance(task, int)
    row = before.db.tasks[task]
    owns = row.state is State.RUNNING and row.attempt == attempt and row.session == session
    if after.db.tasks[task] != row and not owns:
        yield "a stale write landed (I7)"


def _forgotten(after: World) -> Iterator[str]:
    """When a new stream is agreed to, each queued task has a message, or one on its way into the new stream."""
    on_its_way = after.db.outbox - {relay.message for relay in after.relays if relay.stored}
    for task, row in enumerate(after.db.tasks):
        waits = row.state is State.QUEUED and not row.parked
        if waits and not any(m[:2] == (task, row.attempt) for m in on_its_way | after.stream):
            yield "the full reconcile overlooked a queued task (I12)"
