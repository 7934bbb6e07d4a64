"""What benches conclude from their figures."""

from __future__ import annotations

from typing import Any

from dispatcher.bench.report import reached
from dispatcher.bench.soak import verdicts


def sample(number: int, *, memory: float = 50.0, dead: int = 100, size: int = 1000) -> dict[str, Any]:
    return {
        "done": number * 1000,
        "memory_mb": {"relay": memory},
        "tables": {
            "tasks": {"table": number * 500_000, "indexes": number * 100_000, "dead": dead},
            "outbox": {"table": size, "indexes": size, "dead": 0},
        },
    }


def test_a_soak_says_what_grew() -> None:
    flat = [sample(number) for number in range(1, 31)]
    calm = [5.0] * 30
    good = verdicts(flat, calm)
    names = ("memory_flat", "sizes_stable", "dead_rows_bounded", "p99_steady")
    assert all(good[name] for name in names)
    assert good["bytes_per_task"] == 600.0
    leaky = [sample(number, memory=10.0 * number) for number in range(1, 31)]
    assert not verdicts(leaky, calm)["memory_flat"]
    assert not verdicts([sample(number, dead=number**4) for number in range(1, 31)], calm)["dead_rows_bounded"]
    assert not verdicts([sample(number, size=1000 * number) for number in range(1, 31)], calm)["sizes_stable"]
    assert not verdicts(flat, [float(number) for number in range(30)])["p99_steady"]


def test_the_part_of_a_goal_that_was_reached() -> None:
    assert reached(10_000, 12_000, 20_000) == 0.5
    assert reached(4, 3, 2) == 0.5  # milliseconds: less is better
    assert reached(0, 0, 0) == 1.0
    assert reached(2, 0, 0) == 0.0
