"""Several rounds become one result: medians, spread, CPU per task."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median
from typing import Any

from dispatcher.bench.cpu import Meter

__all__ = ["against", "cpu_per_task", "medians", "say", "spread", "throughput"]


def say(text: str) -> None:
    """Progress, for people: never on standard output."""
    print(text, file=sys.stderr, flush=True)


def cpu_per_task(spent: Mapping[str, float | None], tasks: int, seconds: float) -> dict[str, Any]:
    """Microseconds per task and component; ``others`` is the number of cores that strangers kept busy meanwhile."""
    machine = spent["machine"] or 0.0
    ours = {name: value for name, value in spent.items() if name != "machine"}
    known = [value for value in ours.values() if value is not None]
    per_task = {name: None if value is None else round(value / tasks * 1e6, 1) for name, value in ours.items()}
    total = None if len(known) < len(ours) else round(sum(known) / tasks * 1e6, 1)
    return {
        "cpu_us_per_task": per_task | {"total": total},
        "others_busy_cores": None if total is None else round(max(0.0, machine - sum(known)) / seconds, 2),
    }


def throughput(meter: Meter, tasks: int, seconds: float, more: Mapping[str, float] | None = None) -> dict[str, Any]:
    """One round's figures; the meter is read now.  ``more`` is CPU of processes that told it themselves, in seconds."""
    spent = meter.stop() | dict(more or {})
    return {
        "tasks_per_s": round(tasks / seconds, 1),
        "seconds": round(seconds, 4),
        **cpu_per_task(spent, tasks, seconds),
    }


def medians(rounds: Sequence[Mapping[str, Any]], key: str) -> Any:
    """The median of a figure over the rounds; of each member when it is a mapping; ``None`` when one is missing."""
    values = [item[key] for item in rounds]
    if isinstance(values[0], Mapping):
        return {name: medians(values, name) for name in values[0]}
    return None if None in values else round(median(values), 3)


def spread(rounds: Sequence[Mapping[str, Any]], key: str) -> float:
    """The distance from the worst to the best round, as a part of the median."""
    values = [float(item[key]) for item in rounds]
    return round((max(values) - min(values)) / (median(values) or 1.0), 3)


async def against(
    name: str,
    rounds: int,
    plain: Callable[[], Awaitable[dict[str, Any]]],
    other: Callable[[], Awaitable[dict[str, Any]]],
    *,
    mirrored: bool = True,
) -> list[dict[str, Any]]:
    """Two drains in turn, so that a machine whose speed drifts is slow for both.

    ``mirrored`` makes both once more the other way round: who comes second also bears what the first one leaves to do.
    Returns the second one's figures with ``ratio_to_plain`` and the first one's speed.
    """
    measured = []
    for number in range(rounds):
        bases, others = [await plain()], [await other()]
        if mirrored:
            others.append(await other())
            bases.append(await plain())
        figures = others[0] | {key: medians(others, key) for key in ("tasks_per_s", "cpu_us_per_task")}
        figures["plain_tasks_per_s"] = medians(bases, "tasks_per_s")
        figures["plain_cpu_us_per_task"] = medians(bases, "cpu_us_per_task")
        figures["ratio_to_plain"] = round(figures["tasks_per_s"] / figures["plain_tasks_per_s"], 3)
        measured.append(figures)
        say(f"{name}: round {number + 1} of {rounds}: {figures}")
    return measured
