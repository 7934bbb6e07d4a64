"""``shapes``: whether a task costs the same with large arguments, a thousand task types and two hundred queues."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from dispatcher.bench.ground import Ground, beside
from dispatcher.bench.many import TYPES, make_types
from dispatcher.bench.pipeline import Pipeline, open_pipeline
from dispatcher.bench.rounds import against, medians, say, spread
from dispatcher.bench.tasks import noop
from dispatcher.bench.throughput import drain_once
from dispatcher.call import Call

__all__ = ["shapes"]

_TEXTS = {"100 B": 100, "10 kB": 10_000, "500 kB": 500_000}
_BYTES_AT_MOST = 100_000_000
_OVERHEAD = len('{"number":0,"text":""}')


async def shapes(
    ground: Ground, *, tasks: int, types: int, queues: int, workers: int, concurrency: int, rounds: int
) -> dict[str, Any]:
    """Each shape against plain tasks of as many, in turn: the plain ones on a schema with one queue and few types."""
    names = [f"bench-{number}" for number in range(queues)]
    with beside(ground) as second, beside(ground) as third:
        async with open_pipeline(ground) as plain, open_pipeline(second) as typed, open_pipeline(third) as queued:
            await plain.start_processes(workers, concurrency)
            await _start(typed, workers, concurrency, types, [])
            await _start(queued, workers, concurrency, 0, names)
            await drain_once(plain, tasks)
            made = make_types(types)
            measured: list[dict[str, Any]] = []
            table: list[dict[str, Any]] = []
            for name, pipeline, count, call in [
                *_sizes(plain, tasks),
                (f"{types} types", typed, tasks, lambda number: made[number % types].call(number)),
                (f"{queues} queues", queued, tasks, lambda n: noop.options(queue=names[n % queues]).call(n)),
            ]:
                say(f"shapes: {name}, {count} tasks")
                await _once(pipeline, min(count, 2000), call)
                found = await against(
                    name, rounds, partial(_once, plain, count, noop.call), partial(_once, pipeline, count, call)
                )
                measured += [{"round": number, "shape": name, **item} for number, item in enumerate(found)]
                table.append(_row(name, count, len(call(0).args), found))
            flat = [row for row in table if not row["shape"].endswith(" kB")]
            return {
                "bench": "shapes",
                "ratio_to_plain": min(row["ratio_to_plain"] for row in flat),
                "table": table,
                "tasks": tasks,
                "workers": workers,
                "concurrency": concurrency,
                "spread": max(
                    spread([m for m in measured if m["shape"] == r["shape"]], "ratio_to_plain") for r in flat
                ),
                "rounds": [{"shapes": [item for item in measured if item["round"] == n]} for n in range(rounds)],
                **plain.facts,
            }


def _row(name: str, tasks: int, size: int, found: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("tasks_per_s", "plain_tasks_per_s", "ratio_to_plain")
    row: dict[str, Any] = {"shape": name, "tasks": tasks} | {key: medians(found, key) for key in keys}
    return row | {"mb_per_s": round(row["tasks_per_s"] * size / 1e6, 1)}


def _sizes(plain: Pipeline, tasks: int) -> list[tuple[str, Pipeline, int, Callable[[int], Call[Any]]]]:
    """Name, where it runs, how many tasks, and the tasks themselves."""

    def sized(size: int) -> Callable[[int], Call[Any]]:
        text = "x" * (size - _OVERHEAD)
        return lambda number: noop.call(number, text)

    return [
        (f"arguments of {name}", plain, max(20, min(tasks, _BYTES_AT_MOST // size)), sized(size))
        for name, size in _TEXTS.items()
    ]


async def _start(pipeline: Pipeline, workers: int, concurrency: int, types: int, queues: list[str]) -> None:
    """Workers that know so many types and serve so many queues beside the usual one."""
    await pipeline.start_relay()
    served, variables = ("-q", ",".join(("default", *queues))), {TYPES: str(types)}
    for _ in range(workers):
        await pipeline.start_worker(concurrency, None, *served, app="dispatcher.bench.many:app", variables=variables)
    await pipeline.until_present()


async def _once(pipeline: Pipeline, tasks: int, call: Callable[[int], Call[Any]]) -> dict[str, Any]:
    await pipeline.tidy()

    async def create(count: int) -> int:
        return await pipeline.create(count, call)

    figures = await drain_once(pipeline, tasks, create)
    await pipeline.prove()
    return figures
