"""``drain``, ``sustained`` and ``single``: how many tasks a second go all the way."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from dispatcher.bench.errors import BenchError
from dispatcher.bench.ground import Ground
from dispatcher.bench.pipeline import Pipeline, open_pipeline
from dispatcher.bench.rounds import medians, say, spread, throughput

__all__ = ["drain", "drain_deep", "drain_once", "flow_once", "single", "sustained"]

_PER_TRANSACTION = 500
_HEAR_SECONDS = 600.0

Round = Callable[[Pipeline, int], Awaitable[dict[str, Any]]]


async def drain(ground: Ground, *, tasks: int, workers: int, concurrency: int, rounds: int) -> dict[str, Any]:
    """A backlog that waits in the outbox, from the relay's first delete to the last settle's commit."""
    return await _measure(ground, "drain", drain_once, tasks, workers, concurrency, rounds)


async def sustained(ground: Ground, *, tasks: int, workers: int, concurrency: int, rounds: int) -> dict[str, Any]:
    """A bulk producer, the relay and the workers together, from the first commit to the last settle's commit."""

    async def once(pipeline: Pipeline, count: int) -> dict[str, Any]:
        return await flow_once(pipeline, "bulk", count, _PER_TRANSACTION)

    result = await _measure(ground, "sustained", once, tasks, workers, concurrency, rounds)
    return result | {"per_transaction": _PER_TRANSACTION}


async def single(
    ground: Ground, *, tasks: int, clients: int, workers: int, concurrency: int, rounds: int
) -> dict[str, Any]:
    """One transaction per task from concurrent clients, from the first commit to the last settle's commit."""

    async def once(pipeline: Pipeline, count: int) -> dict[str, Any]:
        return await flow_once(pipeline, "single", count, clients)

    result = await _measure(ground, "single", once, tasks, workers, concurrency, rounds)
    return result | {"clients": clients}


async def _measure(
    ground: Ground, name: str, once: Round, tasks: int, workers: int, concurrency: int, rounds: int
) -> dict[str, Any]:
    async with open_pipeline(ground) as pipeline:
        await pipeline.start_processes(workers, concurrency)
        warm_up = max(1, min(tasks // 2, 10_000))
        say(f"{name}: warm-up with {warm_up} tasks")
        await once(pipeline, warm_up)
        measured = []
        for number in range(rounds):
            await pipeline.tidy()
            figures = await once(pipeline, tasks)
            await pipeline.prove()
            measured.append(figures)
            say(
                f"{name}: round {number + 1} of {rounds}: {figures['tasks_per_s']:,.0f} tasks/s,"
                f" CPU in us per task {figures['cpu_us_per_task']}"
            )
        return {
            "bench": name,
            "tasks_per_s": medians(measured, "tasks_per_s"),
            "tasks": tasks,
            "workers": workers,
            "concurrency": concurrency,
            "cpu_us_per_task": medians(measured, "cpu_us_per_task"),
            "spread": spread(measured, "tasks_per_s"),
            "rounds": measured,
            **pipeline.facts,
        }


async def drain_once(
    pipeline: Pipeline, tasks: int, create: Callable[[int], Awaitable[int]] | None = None
) -> dict[str, Any]:
    """The relay, warm and asleep, is frozen while the backlog is made, so that no delete can come too early.

    ``create`` makes the backlog and says how many tasks come after it.
    """
    assert pipeline.relay is not None
    await pipeline.until_calm()
    pipeline.relay.freeze()
    return await _thaw_and_drain(pipeline, tasks, create or pipeline.create)


async def drain_deep(pipeline: Pipeline, tasks: int) -> dict[str, Any]:
    """The same for a backlog that takes long to make: the broker would close a frozen relay's connection.

    The relay is started anew when the backlog is there; the clock starts at its first delete all the same.
    """
    await pipeline.until_calm()
    await pipeline.stop_relay()

    async def create(count: int) -> int:
        await pipeline.create(count)
        await pipeline.start_relay()
        assert pipeline.relay is not None
        pipeline.relay.freeze()  # long before it can connect; the meter counts it from here
        return 0

    return await _thaw_and_drain(pipeline, tasks, create)


async def _thaw_and_drain(pipeline: Pipeline, tasks: int, create: Callable[[int], Awaitable[int]]) -> dict[str, Any]:
    done, _, _ = await pipeline.done()
    batch = await pipeline.last_batch()
    try:
        more = await create(tasks) or 0
        if await pipeline.waiting() != tasks or await pipeline.in_stream():
            raise BenchError("the backlog does not wait in the outbox as it should")
        meter = pipeline.meter()
        meter.start()
    finally:
        if pipeline.relay:
            pipeline.relay.thaw()
    begun = await pipeline.first_delete(batch)
    ended, _ = await pipeline.until_done(done + tasks + more)
    await pipeline.until_calm()  # the acknowledgements' CPU belongs to the tasks too
    return throughput(meter, tasks, (ended - begun).total_seconds())


async def flow_once(pipeline: Pipeline, kind: str, tasks: int, second: int) -> dict[str, Any]:
    """A producer of this kind, relay and workers together, from the first commit to the last settle's commit."""
    await pipeline.until_calm()
    done, _, _ = await pipeline.done()
    async with pipeline.producer(kind, tasks, second) as producer:
        meter = pipeline.meter()
        meter.start()
        started = time.monotonic()
        await producer.tell("go")
        _, ended = await pipeline.until_done(done + tasks)
        told = json.loads(await producer.hear(_HEAR_SECONDS))
        await pipeline.until_calm()
        figures = throughput(meter, tasks, (ended - told["first"]) / 1e9, {"producer": told["cpu"]})
    created = tasks / max(1e-9, (told["last"] - told["first"]) / 1e9)
    say(f"  producer: {created:,.0f} tasks/s committed, started {time.monotonic() - started:.1f} s ago")
    return figures | {"created_per_s": round(created, 1)}
