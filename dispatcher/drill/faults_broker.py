"""Faults of the broker: its process, its store, its configuration, and messages that come when they should not."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import deque
from pathlib import Path
from typing import Any
from uuid import uuid4

from dispatcher.bus import Bus, Message, Outgoing
from dispatcher.drill.fleet import is_stopped
from dispatcher.drill.ground import Ground, Struck
from dispatcher.drill.tasks import QUEUE
from dispatcher.embedded import EmbeddedError
from dispatcher.errors import BusError
from dispatcher.streams.config import DEFAULT_STREAM
from dispatcher.wire import encode

__all__ = [
    "FULL_AT",
    "broker_outage",
    "corrupt_broker_file",
    "delete_consumer",
    "duplicate_delivery",
    "fill_broker",
    "freeze_broker",
    "kill_broker",
    "lose_messages",
    "restore_old_store",
    "stale_ack",
    "wipe_broker",
]

FULL_AT = 60
"""Messages that the stream of the fill drill may hold."""
_SOME_TASKS = """
SELECT t.id, t.attempt, t.dispatch, l.name FROM {s}.tasks t JOIN {s}.lanes l ON l.id = t.lane_id
ORDER BY random() LIMIT 30
"""
_COPIES = 3
_REPAIRED_SECONDS = 20.0
"""For a consumer that was deleted before to be there again."""
_HANGS_SECONDS = 15.0
"""A healthy server is ready in a fraction of a second."""
_VERBS = (b"+ACK", b"-NAK", b"+TERM", b"+WPI")


def _store(ground: Ground) -> Path:
    assert ground.place.servers.data_dir is not None
    return ground.place.servers.data_dir.resolve() / "nats"


def _up_again(ground: Ground) -> float:
    """Start the server again; returns the seconds that were lost with one that could not.

    There is damage over which nats-server never gets ready (2.15.1 then searches a block for ever).  What its operator
    has to do is delete the store, and so does the drill.
    """
    servers, began = ground.place.servers, time.monotonic()
    if not ground.kept.get("damaged"):
        servers.restart_nats()
        return 0.0
    try:
        servers.restart_nats(patience=_HANGS_SECONDS)
        return 0.0
    except EmbeddedError:
        servers.restart_nats(wipe=True)
        return time.monotonic() - began


def kill_broker(ground: Ground) -> Struck | None:
    """SIGKILL to nats-server; it is started again at once."""
    pid = ground.place.servers.nats_pid
    ground.place.servers.kill_nats()
    return Struck("kill-broker", f"nats-server {pid}", held=_up_again(ground))


def wipe_broker(ground: Ground) -> Struck | None:
    """SIGKILL, and the store is deleted before the next start: stream, consumers and messages are gone.

    A server that is not ours goes on, and only the drill's stream is deleted.
    """
    before, hit = _messages(ground), time.time()
    if ground.place.own is None:
        ground.with_bus(lambda bus: bus.api(f"STREAM.DELETE.{_stream(ground)}"))
        return Struck("wipe-broker", _stream(ground), {"messages_lost": before}, hit=hit)
    ground.place.servers.kill_nats()
    ground.place.servers.restart_nats(wipe=True)
    return Struck("wipe-broker", "store", {"messages_lost": before}, hit=hit)


def broker_outage(ground: Ground) -> Struck | None:
    """SIGKILL, and some seconds without a broker while services go on creating."""
    seconds = ground.dice.uniform(2.0, 4.0)
    ground.place.servers.kill_nats()
    ground.wait(seconds)
    waiting = ground.rows("SELECT count(*) FROM {s}.outbox")[0][0]
    return Struck("broker-outage", "nats-server", {"outbox": waiting}, held=seconds + _up_again(ground))


def freeze_broker(ground: Ground) -> Struck | None:
    """SIGSTOP to nats-server for longer than a lease: connections stand, nobody answers."""
    seconds, pid = ground.place.settings.lease.total_seconds() + 1.0, ground.place.servers.nats_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        stopped = is_stopped(pid)
        ground.wait(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
    return Struck("freeze-broker", f"nats-server {pid}", held=seconds) if stopped else None


def restore_old_store(ground: Ground) -> Struck | None:
    """An old copy of the store comes back: messages of finished tasks return, those of waiting ones are gone."""
    store, servers = _store(ground), ground.place.servers
    old = ground.place.root / "old-store"
    if not old.exists():
        servers.kill_nats()
        shutil.copytree(store, old)
        _up_again(ground)
        ground.wait(1.5)
    hit = time.time()
    servers.kill_nats()
    newer = ground.place.root / "newer-store"
    store.rename(newer)
    shutil.copytree(old, store)
    shutil.rmtree(old)
    newer.rename(old)  # the next time this one comes back
    return Struck("restore-old-broker-store", "store", hit=hit, held=_up_again(ground))


def corrupt_broker_file(ground: Ground) -> Struck | None:
    """One flipped bit, or a lost tail, in a file of the store while the server is down."""
    ground.place.servers.kill_nats()
    files = sorted(path for path in _store(ground).rglob("*") if path.is_file() and path.stat().st_size)
    blocks = [path for path in files if path.suffix == ".blk"]
    what = {}
    if files:
        path = ground.dice.choice(blocks if blocks and ground.dice.random() < 0.7 else files)
        what = {"file": str(path.relative_to(_store(ground))), **_damage(ground, path)}
    ground.kept["damaged"] = True
    held = _up_again(ground)
    return Struck("corrupt-broker-file", what["file"], what, held=held) if what else None


def _damage(ground: Ground, path: Path) -> dict[str, Any]:
    data = bytearray(path.read_bytes())
    if ground.dice.random() < 0.3 and len(data) > 1:
        cut = ground.dice.randint(1, min(1000, len(data) - 1))
        path.write_bytes(data[:-cut])
        return {"truncated": cut}
    at, bit = ground.dice.randrange(len(data)), ground.dice.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return {"offset": at, "bit": bit}


def fill_broker(ground: Ground) -> Struck | None:
    """No worker takes anything until the stream is full and refuses; then workers come back."""
    fleet, began = ground.fleet, time.monotonic()
    fleet.processes.stop(fleet.names("worker"))

    def is_full() -> bool:
        ground.more_work(3)
        return _messages(ground) >= FULL_AT and ground.rows("SELECT count(*) FROM {s}.outbox")[0][0] > 0

    full = ground.until(is_full, 20.0)
    held = _messages(ground)
    waiting = ground.rows("SELECT count(*) FROM {s}.outbox")[0][0]
    fleet.start_workers()
    found = {"messages": held, "outbox": waiting}
    return Struck("fill-broker-disk", "stream", found, held=time.monotonic() - began) if full else None


def _stream(ground: Ground) -> str:
    return ground.subjects.stream_name(DEFAULT_STREAM)


def _messages(ground: Ground) -> int:
    async def ask(bus: Bus) -> int:
        return int((await bus.api(f"STREAM.INFO.{_stream(ground)}"))["state"]["messages"])

    try:
        return ground.with_bus(ask)
    except BusError:
        return 0  # there is no stream at this moment


def lose_messages(ground: Ground) -> Struck | None:
    """Every message that waits is gone, and nothing else: stream, consumers and the memory for duplicates stay."""

    async def purge(bus: Bus) -> int:
        return int((await bus.api(f"STREAM.PURGE.{_stream(ground)}"))["purged"])

    lost = ground.with_bus(purge)
    return Struck("lose-messages", "stream", {"messages": lost}) if lost else None


def delete_consumer(ground: Ground) -> Struck | None:
    """The consumer of a lane is deleted: to the workers that is only silence."""

    async def work(bus: Bus) -> str | None:
        names = (await bus.api(f"CONSUMER.NAMES.{_stream(ground)}")).get("consumers") or []
        name = ground.subjects.consumer(QUEUE, "default")
        if name not in names:
            return None
        await bus.api(f"CONSUMER.DELETE.{_stream(ground)}.{name}")
        return name

    until = time.monotonic() + _REPAIRED_SECONDS
    while (name := ground.with_bus(work)) is None and time.monotonic() < until:
        ground.wait(0.2)
    return None if name is None else Struck("delete-consumer", name, hit=time.time())


def duplicate_delivery(ground: Ground) -> Struck | None:
    """Copies of messages, for tasks in any state, under message ids of their own: no window absorbs them."""
    rows = ground.rows(_SOME_TASKS)
    copies: list[Outgoing] = [
        (ground.subjects.lane(DEFAULT_STREAM, QUEUE, lane), encode(task, attempt, dispatch), f"copy-{uuid4().hex}")
        for task, attempt, dispatch, lane in rows
        for _ in range(_COPIES)
    ]

    async def publish(bus: Bus) -> None:
        await bus.store(copies, 5.0)

    if not copies:
        return None
    ground.with_bus(publish)
    return Struck("duplicate-delivery", f"{len(rows)} tasks", {"copies": len(copies)})


def stale_ack(ground: Ground) -> Struck | None:
    """ACK, NAK, TERM and in-progress for deliveries that belong to others, finished ones and running ones alike."""
    heard: deque[str] | None = ground.kept.get("replies")
    if heard is None:
        heard = ground.kept["replies"] = deque(maxlen=400)
        ground.with_bus(lambda bus: bus.subscribe(f"{ground.place.plan.namespace}.push.>", _listener(heard)))
    if not ground.until(lambda: len(heard) >= 8, 8.0):
        return None
    replies = list(heard)
    chosen = replies[-20:] + ground.dice.sample(replies, min(20, len(replies)))
    verbs = [ground.dice.choice(_VERBS) for _ in chosen]

    async def send(bus: Bus) -> None:
        for reply, verb in zip(chosen, verbs, strict=True):
            await bus.publish(reply, verb)

    hit = time.time()
    ground.with_bus(send)
    sent = {verb.decode(): verbs.count(verb) for verb in _VERBS}
    return Struck("stale-ack", f"{len(chosen)} deliveries", sent, hit=hit)


def _listener(heard: deque[str]) -> Any:
    async def note(message: Message) -> None:
        heard.append(message.reply)

    return note
