"""``fleet``: workers of unequal speed, and tasks of unequal length, against what a clairvoyant would need."""

from __future__ import annotations

from typing import Any

from dispatcher.bench.ground import Ground
from dispatcher.bench.pipeline import Pipeline, open_pipeline
from dispatcher.bench.rounds import medians, say, spread
from dispatcher.bench.tasks import SLOW, nap
from dispatcher.bench.throughput import drain_once
from dispatcher.streams.config import load
from dispatcher.streams.server import read_consumer
from dispatcher.subjects import Subjects
from state.ids import new_id
from state.sql import Sql

__all__ = ["fleet"]

_WORKERS = 3
_SLOWER = 10
_SHORT, _LONG = 0.01, 2.0
_LONG_SHARE = 50
_WARM_UP = 600

_STARTS = Sql("""
SELECT CAST(extract(epoch FROM percentile_disc(0.99) WITHIN GROUP (ORDER BY started_at) - min(started_at)) AS float8),
       CAST(extract(epoch FROM max(started_at) - min(started_at)) AS float8)
FROM {s}.tasks WHERE id > :since
""")


async def fleet(ground: Ground, *, tasks: int, concurrency: int, rounds: int) -> dict[str, Any]:
    """Short tasks on three workers, one of them ten times slower; then short and long ones on three equal workers."""
    async with open_pipeline(ground) as pipeline:
        await pipeline.start_relay()
        for slower in (1, 1, _SLOWER):
            await pipeline.start_worker(concurrency, variables={SLOW: str(slower)})
        await pipeline.until_present()
        fast = concurrency / _SHORT
        ideal = tasks / (fast * (_WORKERS - 1) + fast / _SLOWER)
        uneven = await _rounds(pipeline, "one slow worker", tasks, 0, ideal, rounds)
        await pipeline.workers.pop().stop()
        await pipeline.start_worker(concurrency)
        await pipeline.until_present()
        long = max(1, tasks // _LONG_SHARE)
        # the long ones take their own time however early they start
        ideal = max(_LONG, ((tasks - long) * _SHORT + long * _LONG) / (concurrency * _WORKERS))
        mixed = await _rounds(pipeline, "short and long", tasks, long, ideal, rounds)
        figures = ("seconds", "times_ideal", "deliveries_per_task", "p99_start_s", "waited_for_ack_wait")
        return {
            "bench": "fleet",
            "times_ideal": medians(uneven, "times_ideal"),
            "deliveries_per_task": max(medians(uneven, "deliveries_per_task"), medians(mixed, "deliveries_per_task")),
            "waited_for_ack_wait": max(item["waited_for_ack_wait"] for item in uneven + mixed),
            "mixed_times_ideal": medians(mixed, "times_ideal"),
            "uneven": {name: medians(uneven, name) for name in figures},
            "mixed": {name: medians(mixed, name) for name in figures},
            "tasks": tasks,
            "long_tasks": long,
            "workers": _WORKERS,
            "concurrency": concurrency,
            "spread": spread(uneven, "times_ideal"),
            "rounds": [{"uneven": one, "mixed": other} for one, other in zip(uneven, mixed, strict=True)],
            **pipeline.facts,
        }


async def _rounds(
    pipeline: Pipeline, name: str, tasks: int, long: int, ideal: float, rounds: int
) -> list[dict[str, Any]]:
    """So many rounds, after one to get used to it; every ``tasks / long``-th task is a long one."""
    await _once(pipeline, min(tasks, _WARM_UP), 0, ideal)
    measured = []
    for number in range(rounds):
        await pipeline.tidy()
        figures = await _once(pipeline, tasks, long, ideal)
        await pipeline.prove()
        measured.append(figures)
        say(f"fleet: {name}: round {number + 1} of {rounds}: {figures}")
    return measured


async def _once(pipeline: Pipeline, tasks: int, long: int, ideal: float) -> dict[str, Any]:
    since, (deliveries, messages) = new_id(), await _delivered(pipeline)
    step = tasks // long if long else tasks + 1

    async def create(count: int) -> int:
        return await pipeline.create(count, lambda number: nap.call(_LONG if number % step == step - 1 else _SHORT))

    figures = await drain_once(pipeline, tasks, create)
    p99, last = await pipeline.query(_STARTS, {"since": since})
    deliveries_now, messages_now = await _delivered(pipeline)
    ack_wait = load(pipeline.settings.streams_conf).queue("default").ack_wait.total_seconds()
    return {
        "seconds": figures["seconds"],
        "ideal_seconds": round(ideal, 3),
        "times_ideal": round(figures["seconds"] / ideal, 3),
        # a message may carry several tasks; each of them was delivered as often as its message
        "deliveries_per_task": round((deliveries_now - deliveries) / (messages_now - messages), 3),
        "tasks_per_message": round(tasks / (messages_now - messages), 2),
        "p99_start_s": round(p99, 3),
        "last_start_s": round(last, 3),
        # whoever waits for ack_wait starts no earlier than that after the first
        "waited_for_ack_wait": int(last >= ack_wait),
        "cpu_us_per_task": figures["cpu_us_per_task"],
        "others_busy_cores": figures["others_busy_cores"],
    }


async def _delivered(pipeline: Pipeline) -> tuple[int, int]:
    """Deliveries so far, repeated ones included, and messages: the bench uses no other lane of the stream."""
    subjects = Subjects(pipeline.settings.namespace)
    info = await read_consumer(pipeline.bus, subjects.stream_name("TASKS"), subjects.consumer("default", "default"))
    return (int(info["delivered"]["consumer_seq"]), int(info["delivered"]["stream_seq"])) if info else (0, 0)
