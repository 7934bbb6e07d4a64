"""``fanout`` and ``chain``: what it costs that tasks wait for tasks."""

from __future__ import annotations

from typing import Any

from dispatcher.bench.ground import Ground
from dispatcher.bench.latency import percentile
from dispatcher.bench.pipeline import open_pipeline
from dispatcher.bench.rounds import medians, say, spread
from dispatcher.bench.throughput import drain_once

__all__ = ["chain", "fanout"]

_WARM_UP = 5_000


async def fanout(ground: Ground, *, tasks: int, workers: int, concurrency: int, rounds: int) -> dict[str, Any]:
    """A group with a task that takes all results, against as many tasks that nobody waits for, in turn."""
    async with open_pipeline(ground) as pipeline:
        await pipeline.start_processes(workers, concurrency)
        await drain_once(pipeline, min(_WARM_UP, tasks))
        measured = []
        for number in range(rounds):
            await pipeline.tidy()
            plain = await drain_once(pipeline, tasks)
            await pipeline.tidy()
            figures = await drain_once(pipeline, tasks, pipeline.create_group)
            await pipeline.prove()
            figures["drain_tasks_per_s"] = plain["tasks_per_s"]
            figures["ratio_to_drain"] = round(figures["tasks_per_s"] / plain["tasks_per_s"], 3)
            measured.append(figures)
            say(f"fanout: round {number + 1} of {rounds}: {figures}")
        return {
            "bench": "fanout",
            "tasks_per_s": medians(measured, "tasks_per_s"),
            "ratio_to_drain": medians(measured, "ratio_to_drain"),
            "tasks": tasks,
            "workers": workers,
            "concurrency": concurrency,
            "spread": spread(measured, "ratio_to_drain"),
            "rounds": measured,
            **pipeline.facts,
        }


async def chain(ground: Ground, *, length: int, workers: int, concurrency: int, rounds: int) -> dict[str, Any]:
    """A chain in an otherwise idle system: from the start of each task to the start of the next."""
    async with open_pipeline(ground) as pipeline:
        await pipeline.start_processes(workers, concurrency)
        await pipeline.run_chain(50)
        measured = []
        for number in range(rounds):
            hops = sorted(await pipeline.run_chain(length))
            figures = {
                "p50_ms": percentile(hops, 0.5),
                "p99_ms": percentile(hops, 0.99),
                "max_ms": round(hops[-1], 3),
                "hops": len(hops),
            }
            measured.append(figures)
            say(f"chain: round {number + 1} of {rounds}: {figures}")
        return {
            "bench": "chain",
            "p50_ms": medians(measured, "p50_ms"),
            "p99_ms": medians(measured, "p99_ms"),
            "length": length,
            "workers": workers,
            "concurrency": concurrency,
            "spread": spread(measured, "p50_ms"),
            "rounds": measured,
            **pipeline.facts,
        }
