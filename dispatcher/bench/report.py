"""The table for people: figures beside the floor and the goal of the design, and what they were measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dispatcher.cli.output import table

__all__ = ["GOALS", "human", "reached", "with_goals"]

GOALS: dict[str, dict[str, tuple[float, float]]] = {
    "drain": {"tasks_per_s": (12_000, 20_000)},
    "sustained": {"tasks_per_s": (10_000, 17_000)},
    "single": {"tasks_per_s": (2_000, 3_000)},
    "latency": {"p50_ms": (3, 2), "p99_ms": (10, 4)},
    "fanout": {"ratio_to_drain": (0.6, 0.8)},
    "chain": {"p50_ms": (5, 3)},
    "idle": {"worker_statements": (0, 0), "statements_per_minute": (6, 6)},
    "backlog": {"ratio_to_plain": (0.8, 0.95)},
    "history": {"ratio_to_plain": (0.8, 0.95)},
    "fleet": {"times_ideal": (2, 1.3), "deliveries_per_task": (1.5, 1.2), "waited_for_ack_wait": (0, 0)},
    "load": {},
    "shapes": {"ratio_to_plain": (0.8, 0.95)},
    "enqueue": {},
    "commits": {"ratio_to_none": (0.85, 1.0)},
    "soak": {},
}
"""Floor and goal of each figure, on two cores."""
_SHAPE = ("workers", "tasks", "plain_tasks", "rows", "length", "concurrency", "clients", "rate", "seconds")
_MORE = {
    "drain": (),
    "sustained": (),
    "single": (),
    "latency": ("max_ms", "samples"),
    "fanout": ("tasks_per_s",),
    "chain": ("p99_ms",),
    "idle": ("relay_statements",),
    "backlog": ("tasks_per_s", "plain_tasks_per_s"),
    "history": ("tasks_per_s", "plain_tasks_per_s", "made_in_seconds", "past_mb"),
    "fleet": ("mixed_times_ideal",),
    "load": ("sustained_per_s",),
    "shapes": (),
    "enqueue": ("added_wall_us",),
    "commits": ("compared_clients",),
    "soak": ("memory_flat", "sizes_stable", "dead_rows_bounded", "p99_steady", "bytes_per_task", "dead_rows_at_most"),
}


def with_goals(result: dict[str, Any]) -> dict[str, Any]:
    """The result with floor, goal and ``ratio``: how much of the goal was reached, from 1 on all of it.

    Measuring is all we do here, judging is the reader's.
    """
    goals = GOALS[result["bench"]]
    return result | {
        "floor": {figure: floor for figure, (floor, _) in goals.items()},
        "goal": {figure: goal for figure, (_, goal) in goals.items()},
        "ratio": {figure: reached(result[figure], floor, goal) for figure, (floor, goal) in goals.items()},
    }


def reached(measured: float, floor: float, goal: float) -> float:
    """The part of the goal that was reached; where small is good (the floor is above the goal) the other way round."""
    if goal > floor:
        return round(measured / goal, 3)
    return round(goal / measured, 3) if measured else 1.0


def human(result: Mapping[str, Any]) -> str:
    """A short table."""
    goals = GOALS[result["bench"]]
    rows: list[tuple[object, ...]] = [
        (figure, _plain(result[figure]), _plain(floor), _plain(goal), _plain(result["ratio"][figure]))
        for figure, (floor, goal) in goals.items()
    ]
    rows += [(figure, _plain(result[figure]), "", "", "") for figure in _MORE[result["bench"]]]
    for name, value in (result.get("cpu_us_per_task") or {}).items():
        limits = (100, 65, _plain(round(65 / value, 3))) if name == "total" and value else ("", "", "")
        rows.append((f"CPU us/task {name}", _plain(value), *limits))
    versions, machine = result["versions"], result["machine"]
    return "\n".join(
        (
            table((result["bench"], "measured", "floor", "goal", "of goal"), rows),
            "",
            *_details(result.get("table") or []),
            f"median of {len(result['rounds'])} rounds, spread {result['spread']:.0%}; "
            + ", ".join(f"{name}={result[name]}" for name in _SHAPE if name in result),
            ", ".join(f"{name}={result[name]}" for name in ("fsync", "full_page_writes", "synchronous_commit")),
            ", ".join(f"{name} {value}" for name, value in versions.items()),
            f"{machine['cores']} cores, {machine['cpu']}, {machine['memory_gib']} GiB,"
            f" load before {machine['load_before']}{_strangers(result)}",
        )
    )


def _details(found: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The second table of benches that measure several things."""
    if not found:
        return ()
    rows = [[value if isinstance(value, str) else _plain(value) for value in row.values()] for row in found]
    return table(tuple(found[0]), rows), ""


def _strangers(result: Mapping[str, Any]) -> str:
    """Says so when other programs used the machine meanwhile: the figures are then too low."""
    busy = [item["others_busy_cores"] for item in result["rounds"] if item.get("others_busy_cores") is not None]
    return f", other programs kept up to {max(busy):g} cores busy" if busy else ""


def _plain(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
