"""The drills ``effects``, ``flows`` and ``poison`` in small.

``test_drill_facts`` and ``test_drill_poison_facts`` show that their checkers can fail.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from dispatcher.drill.drills import DRILLS

# one after another with the other campaign, also when tests run in parallel
pytestmark = pytest.mark.xdist_group("drill")


def verdict_of(name: str, tasks: int, kills: int) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", "drill", "run", name, "--tasks", str(tasks), "--kills", str(kills),
         "--seed", "6", "--json"],
        env=env, capture_output=True, text=True, timeout=115, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    verdict: dict[str, Any] = json.loads(done.stdout)
    assert verdict["ok"] is True and verdict["stuck"] == verdict["lost"] == verdict["double_completed"] == 0
    assert verdict["kills_done"] >= kills and verdict["tasks"] >= tasks
    assert {"I1", "I2", "I4", "I10", "I17", "I18"} <= names_of(verdict)
    return verdict


def names_of(verdict: dict[str, Any]) -> set[str]:
    return {each["name"].split()[0] for each in verdict["invariants"]}


def test_money_moves_exactly_once_under_kills() -> None:
    verdict = verdict_of("effects", 200, 4)
    assert verdict["effects_checked"] == verdict["follow_ups_checked"] >= 200
    assert verdict["sum_after"] == verdict["sum_before"] > 0
    assert "I9" in names_of(verdict)


def test_random_flows_under_random_kills() -> None:
    verdict = verdict_of("flows", 450, 4)
    assert verdict["flows_checked"] > 30 and verdict["flow_violations"] == 0
    assert verdict["dependants_checked"] > verdict["dependants_ran"] > 100
    assert min(verdict[end] for end in ("succeeded", "failed_as_planned", "dependency_failed", "skipped")) > 10
    assert "I9" in names_of(verdict)


def test_beside_a_task_that_kills_every_worker_the_others_keep_half_of_their_pace() -> None:
    verdict = verdict_of("poison", 200, 3)
    assert verdict["poison_tasks"] == verdict["poison_failed"] == 1
    assert verdict["poison_attempts"] == verdict["kills_done"] == sum(verdict["faults"].values()) == 3
    assert set(verdict["faults"]) == {"poison: SIGKILL", "poison: os._exit", "poison: a segmentation fault"}
    assert verdict["throughput_before"] > 0 and verdict["throughput_ratio"] >= 0.5
    assert {"A13", "G1"} <= names_of(verdict)


def test_as_parts_of_all_they_are_short() -> None:
    for name in ("effects", "flows"):
        assert DRILLS[name].in_all is not None
    assert (DRILLS["effects"].tasks, DRILLS["effects"].kills, DRILLS["flows"].tasks) == (5000, 100, 10_000)
