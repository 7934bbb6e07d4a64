"""The table for people: figures beside the floor and the goal of the design, and what they were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dispatcher.cli.output import table

__all__ = ["GOALS", "human", "with_goals"]

GOALS: dict[str, dict[str, tuple[float, float]]] = {
    "drain": {"tasks_per_s": (12_000, 20_000)},
    "sustained": {"tasks_per_s": (10_000, 17_000)},
    "single": {"tasks_per_s": (2_000, 3_000)},
    "latency": {"p50_ms": (3, 2), "p99_ms": (10, 4)},
    "fanout": {"ratio_to_drain": (0.6, 0.8)},
    "chain": {"p50_ms": (5, 3)},
    "idle": {"worker_statements": (0, 0), "statements_per_minute": (6, 6)},
}
"""Floor and goal of each figure, on two cores."""
_SHAPE = ("workers", "tasks", "length", "concurrency", "clients", "rate", "seconds")
_MORE = {
    "drain": (),
    "sustained": (),
    "single": (),
    "latency": ("max_ms", "samples"),
    "fanout": ("tasks_per_s",),
    "chain": ("p99_ms",),
    "idle": ("relay_statements",),
}


def with_goals(result: dict[str, Any]) -> dict[str, Any]:
    """The result with floor and goal; measuring is all we do here, judging is the reader's."""
    goals = GOALS[result["bench"]]
    return result | {
        "floor": {figure: floor for figure, (floor, _) in goals.items()},
        "goal": {figure: goal for figure, (_, goal) in goals.items()},
    }


def human(result: Mapping[str, Any]) -> str:
    """A short table."""
    goals = GOALS[result["bench"]]
    rows: list[tuple[object, ...]] = [
        (figure, _plain(result[figure]), _plain(floor), _plain(goal)) for figure, (floor, goal) in goals.items()
    ]
    rows += [(figure, _plain(result[figure]), "", "") for figure in _MORE[result["bench"]]]
    for name, value in (result.get("cpu_us_per_task") or {}).items():
        limits = (100, 65) if name == "total" else ("", "")
        rows.append((f"CPU us/task {name}", _plain(value), *limits))
    versions, machine = result["versions"], result["machine"]
    return "\n".join(
        (
            table((result["bench"], "measured", "floor", "goal"), rows),
            "",
            f"median of {len(result['rounds'])} rounds, spread {result['spread']:.0%}; "
            + ", ".join(f"{name}={result[name]}" for name in _SHAPE if name in result),
            ", ".join(f"{name}={result[name]}" for name in ("fsync", "full_page_writes", "synchronous_commit")),
            ", ".join(f"{name} {value}" for name, value in versions.items()),
            f"{machine['cores']} cores, {machine['cpu']}, {machine['memory_gib']} GiB,"
            f" load before {machine['load_before']}{_strangers(result)}",
        )
    )


def _strangers(result: Mapping[str, Any]) -> str:
    """Says so when other programs used the machine meanwhile: the figures are then too low."""
    busy = [item["others_busy_cores"] for item in result["rounds"] if item.get("others_busy_cores") is not None]
    return f", other programs kept up to {max(busy):g} cores busy" if busy else ""


def _plain(value: Any) -> str:
    if value is None:
        return "not known"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
