"""``load``: from commit to start while the system is busy, at parts of the rate that it can sustain just now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dispatcher.bench.ground import Ground
from dispatcher.bench.latency import look_once
from dispatcher.bench.pipeline import Pipeline, open_pipeline
from dispatcher.bench.produce import STEADY
from dispatcher.bench.rounds import medians, say, spread
from dispatcher.bench.throughput import flow_once

__all__ = ["load", "sustained_rate"]

PROBES_PER_S = 50.0
_FIGURES = ("p50_ms", "p99_ms", "p999_ms", "max_ms")


async def load(
    ground: Ground, *, parts: Sequence[float], tasks: int, seconds: float, workers: int, concurrency: int, rounds: int
) -> dict[str, Any]:
    """Each round measures the sustained rate and then looks at ``parts`` of it."""
    async with open_pipeline(ground) as pipeline:
        await pipeline.start_processes(workers, concurrency)
        await sustained_rate(pipeline, max(STEADY, tasks // 4))
        await look_once(pipeline, "paced", PROBES_PER_S, 1.0)
        measured: list[dict[str, Any]] = []
        for number in range(rounds):
            await pipeline.tidy()
            rate = await sustained_rate(pipeline, tasks)
            say(f"load: round {number + 1} of {rounds}: {rate:,.0f} tasks/s sustained")
            for part in parts:
                await pipeline.until_calm()
                figures = await look_once(pipeline, "paced", PROBES_PER_S, seconds, rate * part)
                measured.append({"round": number + 1, "load": part, "sustained_per_s": rate, **figures})
                say(f"  at {part:.0%}: {figures}")
            await pipeline.prove()
        by_part = {part: [item for item in measured if item["load"] == part] for part in parts}
        table = [
            {"load": part, "samples": sum(item["samples"] for item in found)}
            | {name: medians(found, name) for name in ("created_per_s", *_FIGURES)}
            for part, found in by_part.items()
        ]
        return {
            "bench": "load",
            "sustained_per_s": medians(measured, "sustained_per_s"),
            "table": table,
            "tasks": tasks,
            "seconds": seconds,
            "workers": workers,
            "concurrency": concurrency,
            "spread": spread(by_part[parts[0]], "p99_ms"),
            "rounds": [{"parts": [item for item in measured if item["round"] == n]} for n in range(1, rounds + 1)],
            **pipeline.facts,
        }


async def sustained_rate(pipeline: Pipeline, tasks: int) -> float:
    """Tasks a second with a bulk producer whose transactions are those of the steady one."""
    figures = await flow_once(pipeline, "bulk", tasks, STEADY)
    return float(figures["tasks_per_s"])
