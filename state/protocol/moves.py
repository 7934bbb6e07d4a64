"""Everything that can happen next: ``moves`` yields (label, world after it, whether it is a fault)."""

from __future__ import annotations

from collections.abc import Iterator

from state.machine import FINAL, State
from state.protocol import steps
from state.protocol.rows import Db, Message
from state.protocol.work import Move, work
from state.protocol.world import Label, Relay, Setup, World

__all__ = ["label_text", "moves", "quiet"]


def moves(world: World, setup: Setup) -> Iterator[Move]:
    """Every step of every process, one statement or one message at a time."""
    yield from _relays(world, setup)
    yield from work(world, setup)
    yield from _leader(world, setup)
    yield from _people(world, setup)
    yield from _servers(world, setup)


def _db(world: World, db: Db, *label: object) -> Iterator[Move]:
    """A step that only the database sees; a refused one leads nowhere new."""
    if db is not world.db and db != world.db:
        yield label, world._replace(db=db, before_claim=None), False


def _relays(world: World, setup: Setup) -> Iterator[Move]:
    taken = {relay.message for relay in world.relays}
    for message in world.db.outbox - taken:
        yield from _db(world, steps.forget(world.db, message, setup.dropped), "forget", message)
    for n, relay in enumerate(world.relays):
        if relay.message is None:
            if n and world.relays[n - 1].message is None:
                continue  # relays are alike: the first idle one takes
            for message in world.db.outbox - taken:
                yield ("take", n, message), _relay(world, n, Relay(message)), False
            continue
        yield from _drain(world, setup, n, relay.message, relay.stored)
        if world.left.relay_crash:
            left = world.left._replace(relay_crash=world.left.relay_crash - 1)
            yield ("relay dies", n), _relay(world, n, Relay())._replace(left=left), True


def _drain(world: World, setup: Setup, n: int, message: Message, stored: bool) -> Iterator[Move]:
    if not stored:
        stream = world.stream if message in world.sent else world.stream | {message}
        after = world._replace(stream=stream, sent=world.sent | {message})
        yield ("publish", n, message), _relay(after, n, Relay(message, True)), False
    if stored or "relay.commit after ack" in setup.dropped:
        after = world._replace(db=steps.commit_drain(world.db, message), before_claim=None)
        yield ("commit", n, message), _relay(after, n, Relay()), False


def _relay(world: World, n: int, relay: Relay) -> World:
    return world._replace(relays=(*world.relays[:n], relay, *world.relays[n + 1 :]))


def _leader(world: World, setup: Setup) -> Iterator[Move]:
    db, dropped = world.db, setup.dropped
    for session, ended in db.sessions:
        if "rescue.lock" in dropped:
            if ended and not world.rescuing:
                yield ("rescuer reads", session), world._replace(rescuing=session), False
        elif ended or "rescue.lease ended" in dropped:
            yield from _db(world, steps.rescue(db, session, dropped), "rescue", session)
    if world.rescuing:
        db = steps.rescue(world.db, world.rescuing, dropped | {"rescue.lease ended"})
        after = world._replace(db=db, rescuing=0)
        yield ("rescue", world.rescuing), after, False
    for task, row in enumerate(world.db.tasks):
        yield from _db(world, steps.promote(world.db, task, dropped), "timer", task)
        yield from _db(world, steps.unpark(world.db, task, dropped), "unpark", task)
        yield from _db(world, steps.expire(world.db, task, row.attempt, dropped), "expire", task)
    yield from _reconciler(world, setup)


def _reconciler(world: World, setup: Setup) -> Iterator[Move]:
    if setup.reconciler and world.stream_known:
        for entry in world.db.log - world.stream:
            yield from _db(world, steps.reconcile(world.db, entry, setup.dropped), "reconcile", entry)
    draining = any(relay.message for relay in world.relays)
    if not world.stream_known and (not draining or "full reconcile.fence" in setup.dropped):
        db = world.db
        for entry in sorted(db.log - world.stream):
            db = steps.reconcile(db, entry, setup.dropped)
        yield ("full reconcile",), world._replace(db=db, stream_known=True, before_claim=None), False


def _people(world: World, setup: Setup) -> Iterator[Move]:
    left, db = world.left, world.db
    for task, row in enumerate(db.tasks):
        if left.cancel:
            after, answer = steps.cancel(db, task, setup.dropped)
            told = tuple(was or (n == task and answer == "cancelled") for n, was in enumerate(world.promised))
            after_it = world._replace(db=after, promised=told, left=left._replace(cancel=left.cancel - 1))
            yield ("cancel", task, answer), after_it._replace(before_claim=None), True
        if left.retry and row.state in FINAL:
            after = steps.retry(db, task, setup.dropped)
            told = tuple(was and n != task for n, was in enumerate(world.promised))
            after_it = world._replace(db=after, promised=told, left=left._replace(retry=left.retry - 1))
            if after is not db:
                yield ("retry", task), after_it._replace(before_claim=None), True
        if left.expire and not row.expired and row.state not in FINAL:
            tasks = (*db.tasks[:task], row._replace(expired=True), *db.tasks[task + 1 :])
            after_it = world._replace(db=db._replace(tasks=tasks), left=left._replace(expire=left.expire - 1))
            yield ("time to start is over", task), after_it, True
    if left.pause and not db.paused:
        yield ("pause",), world._replace(db=db._replace(paused=True), left=left._replace(pause=left.pause - 1)), True
    if db.paused:
        yield ("resume",), world._replace(db=db._replace(paused=False)), False


def _servers(world: World, setup: Setup) -> Iterator[Move]:
    left = world.left
    if left.wipe:
        after = world._replace(stream=frozenset(), sent=frozenset(), stream_known=False)
        yield ("stream is wiped",), after._replace(left=left._replace(wipe=left.wipe - 1)), True
    if left.lose_tail and world.before_claim is not None:
        after = world._replace(db=world.before_claim, before_claim=None)
        yield ("database loses its tail",), after._replace(left=left._replace(lose_tail=left.lose_tail - 1)), True


def _ended(world: World) -> bool:
    return all(row.state in FINAL for row in world.db.tasks)


def quiet(world: World) -> bool:
    """Everything has ended and nothing is on its way."""
    db = world.db
    idle = not (db.outbox or world.stream or any(relay.message for relay in world.relays))
    return idle and _ended(world) and not any(row.timer or row.parked for row in db.tasks)


def label_text(label: Label) -> str:
    """One line of a printed path."""
    return " ".join(str(part.name.lower() if isinstance(part, State) else part) for part in label)
