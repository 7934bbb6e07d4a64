"""The benches about scale work on real servers and print what they promise; figures are nobody's business here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dispatcher.bench.report import reached
from dispatcher.bench.soak import verdicts
from tests.fixtures.servers import Servers
from tests.integration.test_bench import measure

COMMANDS = {
    "backlog": ("--tasks", "300", "--plain", "100"),
    "history": ("--rows", "2000", "--tasks", "100"),
    "fleet": ("--tasks", "50"),
    "load": ("--load", "0.5", "--tasks", "500", "--seconds", "1"),
    "shapes": ("--tasks", "40", "--types", "3", "--queues", "2"),
    "enqueue": ("--calls", "16"),
    "commits": ("--clients", "2", "--seconds", "1"),
}


def test_everything_about_scale_is_measured(servers: Servers, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        asked = {name: pool.submit(measure, servers, tmp_path, name, *more) for name, more in COMMANDS.items()}
        found = {name: future.result() for name, future in asked.items()}
    for name in ("backlog", "history"):
        assert found[name]["ratio_to_plain"] > 0
        assert found[name]["goal"] == {"ratio_to_plain": 0.95}
        assert found[name]["ratio"].keys() == {"ratio_to_plain"}
    assert found["history"]["past_mb"] > 0
    assert found["fleet"]["deliveries_per_task"] >= 1
    assert found["fleet"]["waited_for_ack_wait"] == 0
    assert found["load"]["table"][0]["p50_ms"] <= found["load"]["table"][0]["p999_ms"]
    assert [row["shape"] for row in found["shapes"]["table"]][3:] == ["3 types", "2 queues"]
    assert {row["session"] for row in found["enqueue"]["table"]} >= {"psycopg", "AsyncSession", "Call.statement()"}
    assert found["commits"]["table"][0]["clients"] == 2


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
