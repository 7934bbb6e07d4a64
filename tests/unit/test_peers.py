"""The comparison with other queues: what it counts and what it prints; measuring needs servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import tally
from benchmarks.peers.report import ROWS, markdown, ratio

REPOSITORY = Path(__file__).resolve().parents[2]
HANDLERS = """
from benchmarks.peers import tally
for number in range(3):
    tally.count()
tally.note(7)
tally.note(7)
"""


def system(name: str, **figures: float) -> dict[str, Any]:
    return {"about": {"name": name, "keeps": "all", "atomic": True}, "tasks_one": 5, "tasks": 10, **figures}


def test_runs_of_all_processes_are_counted_after_their_end(tmp_path: Path) -> None:
    for _ in range(2):
        variables = {tally.FOLDER: str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
        subprocess.run([sys.executable, "-c", HANDLERS], env=variables, check=True)
    assert tally.runs(tmp_path) == 10
    assert list(tally.starts(tmp_path)) == [7]
    noted = [int(line.split()[1]) for file in tmp_path.glob("*.starts") for line in file.read_text().splitlines()]
    assert tally.starts(tmp_path)[7] == min(noted)


@pytest.mark.parametrize(
    ("theirs", "ours", "more_is_better", "expected"),
    [(500, 1000, True, 2.0), (2000, 1000, True, 0.5), (4, 2, False, 2.0), (1, 2, False, 0.5), (3, 0, False, None)],
)
def test_the_ratio_is_above_one_where_we_are_ahead(
    theirs: float, ours: float, more_is_better: bool, expected: float | None
) -> None:
    assert ratio(theirs, ours, more_is_better) == expected


def test_the_table_puts_every_figure_beside_its_ratio_to_ours() -> None:
    lines = markdown([system("ours", drain_1=20_000, p99_ms=3), system("other", drain_1=5000, p99_ms=1.5)]).splitlines()
    assert lines[0] == "| | ours | other |"
    titles = {figure: title for figure, title, _ in ROWS}
    assert f"| {titles['drain_1']} | 20,000 | 5,000 (×4) |" in lines
    assert f"| {titles['p99_ms']} | 3 | 1.5 (×0.5) |" in lines
    assert f"| {titles['bulk']} | – | – |" in lines


def test_a_system_that_could_not_be_measured_has_dashes_and_no_ratio() -> None:
    failed = {"about": {"name": "other", "keeps": "–", "atomic": False}, "error": "it did not start"}
    table = markdown([system("ours", drain_1=20_000), failed])
    assert "| 20,000 | – |" in table
    assert json.dumps(failed)


def test_the_packages_of_the_others_are_pinned() -> None:
    lines = (REPOSITORY / "benchmarks/peers/constraints.txt").read_text().splitlines()
    assert all("==" in line and "/" not in line for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    assert {"pgqueuer", "procrastinate", "saq", "taskiq", "taskiq-nats", "taskiq-postgres"} <= pinned
