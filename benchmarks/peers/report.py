"""The table: a row per workload, a column per system, each figure with its ratio to ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["ROWS", "markdown", "ratio"]

ROWS: tuple[tuple[str, str, bool], ...] = (
    ("one", "enqueue one by one, 8 clients, tasks/s", True),
    ("one_tx", "the same, each in the caller's transaction, tasks/s", True),
    ("bulk", "enqueue in bulk, tasks/s", True),
    ("drain_1", "drain, one worker, tasks/s", True),
    ("drain_2", "drain, two workers, tasks/s", True),
    ("together", "bulk producer and one worker, tasks/s", True),
    ("deep", "drain under a deep backlog, tasks/s", True),
    ("p50_ms", "commit to handler at 20/s, p50, ms", False),
    ("p99_ms", "commit to handler at 20/s, p99, ms", False),
    ("idle_statements_per_minute", "idle: statements a minute", False),
    ("idle_cpu_ms_per_s", "idle: CPU of servers and worker, ms/s", False),
)
"""Figure, its name for people, and whether more is better."""


def ratio(theirs: float, ours: float, more_is_better: bool) -> float | None:
    """How many times as good as they are we are: above 1 we are ahead.  ``None`` when it cannot be said."""
    good, bad = (ours, theirs) if more_is_better else (theirs, ours)
    return None if bad <= 0 or good < 0 else round(good / bad, 2)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cell(system: Mapping[str, Any], ours: Mapping[str, Any], figure: str, more: bool) -> str:
    value = system.get(figure)
    if value is None:
        return "–"
    if system is ours or ours.get(figure) is None:
        return _plain(value)
    times = ratio(value, ours[figure], more)
    return _plain(value) if times is None else f"{_plain(value)} (×{times:g})"


def markdown(systems: Sequence[Mapping[str, Any]]) -> str:
    """The table; the first system is ours.  ``×2`` behind a figure means that we are twice as good."""
    ours = systems[0]
    names = [str(system["about"]["name"]) for system in systems]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for figure, title, more in ROWS:
        cells = [_cell(system, ours, figure, more) for system in systems]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for title, tell in (
        ("tasks per round (one by one; else)", lambda s: f"{s['tasks_one']}; {s['tasks']}" if "tasks" in s else "–"),
        ("keeps of a finished task", lambda s: s["about"]["keeps"]),
        ("created in the caller's transaction", lambda s: "yes" if s["about"]["atomic"] else "no"),
    ):
        lines.append(f"| {title} | " + " | ".join(tell(system) for system in systems) + " |")
    return "\n".join(lines)
