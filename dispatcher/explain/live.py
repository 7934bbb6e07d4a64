"""What NATS and the workers know about one task: the stream, the lane's consumer, who is there, who holds it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from dispatcher.bus import Bus, Message
from dispatcher.errors import BusError
from dispatcher.explain.facts import Facts, Live
from dispatcher.fleet import ask_workers
from dispatcher.streams.server import STREAM_NOT_FOUND, read_consumer
from dispatcher.subjects import Subjects
from dispatcher.wire import parse_time
from state.machine import FINAL, State

__all__ = ["listen"]

_BEATS_SECONDS = 2.5
"""The leader beats every second."""
_NO_MESSAGE = 10037
_PAGE_SECONDS = 2.0


async def listen(bus: Bus, subjects: Subjects, facts: Facts, *, wait: float) -> Live:
    """Ask everything that matters for the task's state, at the same time."""
    if facts.row is None or facts.state in FINAL:
        return Live()
    workers = asyncio.ensure_future(ask_workers(bus, subjects, {"task": str(facts.id)}, wait=wait))
    beats = asyncio.ensure_future(_beats(bus, subjects) if _relay_matters(facts) else _none())
    try:
        if facts.state is not State.QUEUED:
            return Live(workers=await workers, beats=await beats)
        stream = await _stream(bus, subjects.stream_name(facts.row["stream"]))
        consumer, first = await _lane(bus, subjects, facts) if stream else ({}, None)
        return Live(None, await workers, await beats, stream, consumer, first, first is None)
    except BusError as error:
        return Live(error=str(error), workers=await workers, beats=await beats)
    finally:
        workers.cancel()
        beats.cancel()


def _relay_matters(facts: Facts) -> bool:
    """Whether the task waits for the leading relay to do something."""
    row = facts.row
    if row is None or facts.leader is None:
        return False
    if facts.state is State.QUEUED:
        return facts.published_at is None
    if facts.state is State.RUNNING:
        return row["lease_until"] is None or row["lease_until"] <= row["now"]
    return row["due_at"] is not None and row["due_at"] <= row["now"]


async def _none() -> None:
    return None


async def _beats(bus: Bus, subjects: Subjects) -> bool:
    heard = asyncio.Event()

    async def hear(message: Message) -> None:
        heard.set()

    subscription = await bus.subscribe(subjects.beat, hear)
    try:
        async with asyncio.timeout(_BEATS_SECONDS):
            return await heard.wait()
    except TimeoutError:
        return False
    finally:
        await subscription.unsubscribe()


async def _stream(bus: Bus, name: str) -> dict[str, Any]:
    try:
        answer = await bus.api(f"STREAM.INFO.{name}", timeout=_PAGE_SECONDS)
    except BusError as error:
        if error.err_code == STREAM_NOT_FOUND:
            return {}
        raise
    config, state = answer["config"], answer["state"]
    return {
        "messages": int(state["messages"]), "bytes": int(state["bytes"]),
        "max_messages": int(config.get("max_msgs", -1)), "max_bytes": int(config.get("max_bytes", -1)),
    }  # fmt: skip


async def _lane(bus: Bus, subjects: Subjects, facts: Facts) -> tuple[dict[str, Any], datetime | None]:
    assert facts.row is not None
    queue, lane, stream = facts.row["queue"], facts.row["lane"], facts.row["stream"]
    info = await read_consumer(bus, subjects.stream_name(stream), subjects.consumer(queue, lane))
    consumer = {} if info is None else {
        "pending": int(info["num_pending"]), "outstanding": int(info["num_ack_pending"]),
        "limit": int(info["config"].get("max_ack_pending", 0)),
    }  # fmt: skip
    query = {"seq": 1, "next_by_subj": subjects.lane(stream, queue, lane)}
    try:
        answer = await bus.api(f"STREAM.MSG.GET.{subjects.stream_name(stream)}", query, timeout=_PAGE_SECONDS)
    except BusError as error:
        if error.err_code == _NO_MESSAGE:
            return consumer, None
        raise
    return consumer, parse_time(answer["message"]["time"])
