"""The planted bugs still fit the code that they change, and reach nobody but the children of a planted drill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dispatcher.drill.drills import DRILLS
from dispatcher.drill.plants import CONTROLS, PLANTS, write_hook


def _run(code: str, variables: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_child_with_the_hook_is_changed_before_anything_runs(tmp_path: Path) -> None:
    code = "import state.settle as s; print('t.attempt = i.attempt' in s.SUCCEED.text)"
    assert _run(code, write_hook(tmp_path, "M1"), tmp_path).stdout.split() == ["False"]
    assert _run(code, write_hook(tmp_path, "no reconciler"), tmp_path).stdout.split() == ["True"]


def test_every_bug_finds_what_it_takes_out(tmp_path: Path) -> None:
    """A guard that was renamed would leave a bug that is none, which no checker could catch."""
    code = """
import os, traceback
import workers.claimer, workers.settler, dispatcher.relay.reconcile, dispatcher.app, dispatcher.drill.client
from dispatcher.drill.plants import CONTROLS, PLANTS, install

for name in (*PLANTS, *CONTROLS):
    if (child := os.fork()) == 0:
        try:
            install(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
print("all planted")
"""
    here = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = _run(code, here, tmp_path)
    assert done.stderr == ""
    assert done.stdout.strip() == "all planted"


def test_every_planted_bug_names_a_drill_and_what_else_is_gone() -> None:
    assert {plant.drill for plant in PLANTS.values()} <= set(DRILLS)
    assert {plant.control for plant in PLANTS.values()} <= set(CONTROLS)


def test_every_bug_of_the_catalogue_that_applies_is_planted() -> None:
    """M16 is no bug here: the relay publishes inside one short transaction, on purpose."""
    assert {*PLANTS, "M16"} == {f"M{number}" for number in range(1, 19)}
