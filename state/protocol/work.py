"""What workers do: claim what is delivered, start, settle, renew, and die or sleep over their lease."""

from __future__ import annotations

from collections.abc import Iterator

from state.machine import State
from state.protocol import steps
from state.protocol.guards import Dropped, allowed
from state.protocol.rows import Ask, Message
from state.protocol.world import Label, Setup, Slot, Worker, World

__all__ = ["Move", "work"]

Move = tuple[Label, World, bool]


def work(world: World, setup: Setup) -> Iterator[Move]:
    """Every step of every worker."""
    for n, worker in enumerate(world.workers):
        if len(worker.slots) < setup.slots:
            yield from _arrivals(world, setup, n)
        for slot in worker.slots:
            yield from _slot(world, setup, n, slot)
        yield from _session(world, n, worker)
    yield from _time(world)


def _arrivals(world: World, setup: Setup, n: int) -> Iterator[Move]:
    for message in world.stream:
        yield from _deliver(world, setup, n, message, fault=False)
    if world.left.repeat:
        left = world.left._replace(repeat=world.left.repeat - 1)
        for message in world.sent:
            yield from _deliver(world._replace(left=left), setup, n, message, fault=True)
    if world.left.hint:
        left = world.left._replace(hint=world.left.hint - 1)
        for message in world.db.outbox | world.sent:
            yield from _deliver(world._replace(left=left), setup, n, message, fault=True, hint=True)


def _set(world: World, n: int, worker: Worker) -> World:
    return world._replace(workers=(*world.workers[:n], worker, *world.workers[n + 1 :]))


def _drop(world: World, n: int, slot: Slot) -> World:
    worker = world.workers[n]
    return _set(world, n, worker._replace(slots=worker.slots - {slot}))


def _ack(world: World, slot: Slot) -> World:
    """All messages of that attempt: later ones join the first."""
    return world._replace(stream=frozenset(m for m in world.stream if m[:2] != (slot.task, slot.attempt)))


def _starts(world: World, slot: Slot) -> World:
    highest = max(world.started[slot.task], slot.attempt)
    return world._replace(started=(*world.started[: slot.task], highest, *world.started[slot.task + 1 :]))


def _run(world: World, n: int, slot: Slot) -> World:
    worker = world.workers[n]
    return _starts(_set(world, n, worker._replace(slots=worker.slots | {slot})), slot)


def _deliver(world: World, setup: Setup, n: int, message: Message, fault: bool, hint: bool = False) -> Iterator[Move]:
    task, attempt, _ = message
    worker = world.workers[n]
    if task >= len(world.db.tasks):
        yield from _refused(world, setup, n, message, fault)
        return
    if any(slot[:2] == message[:2] and slot.session == worker.session for slot in worker.slots):
        return  # it joins the one that runs here
    opened = world
    if not worker.session:
        number = world.last_session + 1
        opened = _set(world, n, worker._replace(session=number))._replace(last_session=number)
        opened = opened._replace(db=steps.open_session(world.db, number))
    session, slots = opened.workers[n].session, worker.slots
    if "claim.session locked" in setup.dropped and (session, False) in opened.db.sessions:
        slot = Slot(task, attempt, session, "looked")
        if slot not in slots:
            yield ("claim looks", n, message), _set(opened, n, Worker(session, slots | {slot})), fault
    db = steps.claim(opened.db, task, attempt, session, n not in setup.strangers, setup.dropped)
    if db is opened.db:
        yield from () if hint else _refused(world, setup, n, message, fault)  # behind a hint there is no message
        return
    claimed = opened._replace(db=db, before_claim=None if "claim.durable" not in setup.dropped else opened.db)
    slot = Slot(task, attempt, session)
    yield ("claim", n, message), _starts(_set(claimed, n, Worker(session, slots | {slot})), slot), fault
    if claimed.left.lose_reply:
        left = claimed.left._replace(lose_reply=claimed.left.lose_reply - 1)
        doubt = _set(claimed, n, Worker(session, slots | {slot._replace(phase="doubt")}))
        yield ("claim, answer lost", n, message), doubt._replace(left=left), True


def _refused(world: World, setup: Setup, n: int, message: Message, fault: bool) -> Iterator[Move]:
    """Read the row and decide about the message; a claim that was refused has changed nothing."""
    task, attempt, _ = message
    acked = world._replace(stream=world.stream - {message})
    row = world.db.tasks[task] if task < len(world.db.tasks) else None
    dropped = setup.dropped
    if row is None or attempt > row.attempt:
        if "message.quarantine" not in dropped and acked != world:
            yield ("quarantine", n, message), acked, fault
        return
    session = world.workers[n].session
    if allowed("adopt", row, Ask(attempt, session), dropped) and "adopt" not in dropped:
        if row.state is State.RUNNING:
            slot, worker = Slot(task, attempt, session), world.workers[n]
            yield (
                ("adopt", n, message),
                _starts(_set(world, n, worker._replace(slots=worker.slots | {slot})), slot),
                fault,
            )
        return
    if row.state is State.QUEUED and row.attempt == attempt and "message.kept while queued" not in dropped:
        yield from _kept(world, n, message, dropped, fault)
    elif "message.stale is acked" not in dropped and acked != world:
        yield ("stale, acked", n, message), acked, fault


def _kept(world: World, n: int, message: Message, dropped: Dropped, fault: bool) -> Iterator[Move]:
    """Its row is queued: the message may go only if the task ends here or gets a parking place."""
    task, attempt, _ = message
    if world.db.tasks[task].expired:
        yield ("expire at claim", n, message), world._replace(db=steps.expire(world.db, task, attempt)), fault
    elif world.db.paused:
        parked = world._replace(db=steps.park(world.db, task, attempt, dropped), stream=world.stream - {message})
        yield ("park", n, message), parked, fault


def _slot(world: World, setup: Setup, n: int, slot: Slot) -> Iterator[Move]:
    if slot.phase == "looked":
        dropped = setup.dropped | {"claim.session lives"}
        db = steps.claim(world.db, slot.task, slot.attempt, slot.session, n not in setup.strangers, dropped)
        after = _drop(world, n, slot)
        if db is not world.db:
            after = _run(after, n, slot._replace(phase="runs"))
        yield ("claim writes", n, slot.task, slot.attempt), after._replace(db=db), False
        return
    if slot.phase == "doubt":
        row, after = world.db.tasks[slot.task], _drop(world, n, slot)
        mine = allowed("adopt", row, Ask(slot.attempt, slot.session), setup.dropped) and "adopt" not in setup.dropped
        if mine:
            after = _run(after, n, slot._replace(phase="runs"))
        yield ("adopt" if mine else "give back", n, slot.task, slot.attempt), after, False
        return
    if slot.phase == "owes":
        yield ("releases", n, slot.task), _drop(world, n, slot)._replace(db=steps.release(world.db, slot.task)), False
        return
    yield from _settle(world, setup, n, slot, "succeed", None, 0)
    if world.left.fail:
        left = world.left._replace(fail=world.left.fail - 1)
        yield from _settle(world._replace(left=left), setup, n, slot, "fail", State.RETRYING, 0)
        yield from _settle(world._replace(left=left), setup, n, slot, "give up", State.FAILED, 0)
    if world.left.give_back:
        left = world.left._replace(give_back=world.left.give_back - 1)
        yield from _settle(world._replace(left=left), setup, n, slot, "snooze", State.SCHEDULED, 1)
        yield from _settle(world._replace(left=left), setup, n, slot, "release", State.QUEUED, 1)


def _settle(
    world: World, setup: Setup, n: int, slot: Slot, name: str, wanted: State | None, refund: int
) -> Iterator[Move]:
    task, attempt, session, _ = slot
    if wanted is None:
        db = steps.succeed(world.db, task, attempt, session, setup.dropped)
    else:
        db = steps.leave(world.db, task, attempt, session, wanted, refund, setup.dropped)
    after, row = _drop(world, n, slot), world.db.tasks[task]
    refused, fault = db is world.db, wanted is not None
    label = (f"{name}, refused" if refused else name, n, task, attempt, session)
    needed = refused and row.state is State.QUEUED and row.attempt == attempt
    if not needed or "settle refused.read again" in setup.dropped:
        after = _ack(after, slot)
    if not refused and row.feeds and "release.in the same commit" in setup.dropped:
        worker = after.workers[n]
        after = _set(after, n, worker._replace(slots=worker.slots | {slot._replace(phase="owes")}))
    yield label, after._replace(db=db, before_claim=world.before_claim if refused else None), fault
    if not refused and world.left.lose_reply:
        left = world.left._replace(lose_reply=world.left.lose_reply - 1)
        yield (f"{name}, answer lost", *label[1:]), world._replace(db=db, left=left, before_claim=None), True


def _session(world: World, n: int, worker: Worker) -> Iterator[Move]:
    session, db = worker.session, world.db
    if not session:
        return
    if (session, True) in db.sessions:
        yield ("renew", n, session), world._replace(db=steps.renew(db, session)), False
    elif (session, False) not in db.sessions:
        yield ("sees that its session is gone", n, session), _set(world, n, worker._replace(session=0)), False
    if world.left.crash:
        left = world.left._replace(crash=world.left.crash - 1)
        yield ("worker dies", n), _set(world, n, Worker())._replace(left=left), True


def _time(world: World) -> Iterator[Move]:
    """A lease ends: by and by if nobody renews it, as a fault if its worker lives."""
    alive = {worker.session for worker in world.workers}
    for session, ended in world.db.sessions:
        if ended:
            continue
        after = world._replace(db=steps.end_lease(world.db, session))
        if session not in alive:
            yield ("lease ends", session), after, False
        elif world.left.freeze:
            left = world.left._replace(freeze=world.left.freeze - 1)
            yield ("frozen beyond its lease", session), after._replace(left=left), True
