"""``backlog`` and ``history``: whether a task costs the same with many waiting, and with many in the past."""

from __future__ import annotations

import asyncio
from typing import Any

from dispatcher.bench.ground import Ground, beside
from dispatcher.bench.past import make_past
from dispatcher.bench.pipeline import Pipeline, open_pipeline
from dispatcher.bench.rounds import against, medians, say, spread
from dispatcher.bench.throughput import drain_deep, drain_once
from state.sql import Sql

__all__ = ["backlog", "history"]

_WARM_UP = 10_000
_ROOM = 1_000_000
_SIZE = Sql("""
SELECT CAST(sum(pg_total_relation_size(c.oid)) / 1000000 AS bigint)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = :schema
""")


async def backlog(
    ground: Ground, *, tasks: int, plain: int, workers: int, concurrency: int, rounds: int
) -> dict[str, Any]:
    """A deep backlog drained to its end, against a shallow one, in turn on the same tables."""
    async with open_pipeline(ground.with_settings(outbox_limit=tasks + _ROOM)) as pipeline:
        await _warm(pipeline, min(tasks, plain), workers, concurrency)

        async def shallow() -> dict[str, Any]:
            await pipeline.tidy()
            return await drain_once(pipeline, plain)

        async def full() -> dict[str, Any]:
            await pipeline.tidy()
            figures = await drain_deep(pipeline, tasks)
            await pipeline.prove()
            return figures

        measured = await against("backlog", rounds, shallow, full, mirrored=False)
        return _result("backlog", measured, tasks, plain, workers, concurrency) | pipeline.facts


async def history(
    ground: Ground, *, rows: int, tasks: int, workers: int, concurrency: int, rounds: int
) -> dict[str, Any]:
    """The same backlog drained with and without a long past in the tables: two schemas, in turn."""
    with beside(ground) as other:
        async with open_pipeline(ground) as young, open_pipeline(other) as old:
            await _warm(young, tasks, workers, concurrency)
            await _warm(old, tasks, workers, concurrency)
            seconds = await asyncio.to_thread(make_past, other.settings, rows)

            async def once(pipeline: Pipeline) -> dict[str, Any]:
                await pipeline.tidy()
                figures = await drain_once(pipeline, tasks)
                await pipeline.prove()
                return figures

            measured = await against("history", rounds, lambda: once(young), lambda: once(old))
            result = _result("history", measured, tasks, tasks, workers, concurrency)
            size = await old.query(_SIZE, {"schema": other.settings.db_schema})
            return result | {"rows": rows, "made_in_seconds": round(seconds, 1), "past_mb": size[0]} | old.facts


async def _warm(pipeline: Pipeline, tasks: int, workers: int, concurrency: int) -> None:
    await pipeline.start_processes(workers, concurrency)
    say(f"warm-up with {min(tasks, _WARM_UP)} tasks")
    await drain_once(pipeline, min(tasks, _WARM_UP))


def _result(
    bench: str, measured: list[dict[str, Any]], tasks: int, plain: int, workers: int, concurrency: int
) -> dict[str, Any]:
    return {
        "bench": bench,
        "ratio_to_plain": medians(measured, "ratio_to_plain"),
        "tasks_per_s": medians(measured, "tasks_per_s"),
        "plain_tasks_per_s": medians(measured, "plain_tasks_per_s"),
        "cpu_us_per_task": medians(measured, "cpu_us_per_task"),
        "plain_cpu_us_per_task": medians(measured, "plain_cpu_us_per_task"),
        "tasks": tasks,
        "plain_tasks": plain,
        "workers": workers,
        "concurrency": concurrency,
        "spread": spread(measured, "ratio_to_plain"),
        "rounds": measured,
    }
