"""The benches about scale work on real servers and print what they promise; figures are nobody's business here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fixtures.servers import Servers
from tests.integration.test_bench import measure

COMMANDS = {
    "backlog": ("--tasks", "300", "--plain", "100"),
    "history": ("--rows", "2000", "--tasks", "100"),
    "fleet": ("--tasks", "50"),
    "enqueue": ("--calls", "16"),
    "commits": ("--clients", "2", "--seconds", "1"),
}


@pytest.mark.timeout(240)
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
    assert found["fleet"]["waited_for_ack_wait"] in (0, 1)
    assert {row["session"] for row in found["enqueue"]["table"]} >= {"psycopg", "AsyncSession", "Call.statement()"}
    assert found["commits"]["table"][0]["clients"] == 2
