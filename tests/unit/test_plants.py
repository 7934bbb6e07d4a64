"""The planted bugs still fit the code that they change, and reach nobody but the children of a planted drill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.drill.drills import DRILLS
from dispatcher.drill.plants import PLANTS, write_hook


@pytest.mark.parametrize("name", PLANTS)
def test_a_child_with_the_hook_is_changed_before_anything_runs(name: str, tmp_path: Path) -> None:
    """A guard that was renamed would leave a bug that is none, which no checker could catch."""
    variables = write_hook(tmp_path, name)
    code = "import sys, hashlib; import state.settle, state.rescue; print('sitecustomize' in sys.modules, 'planted')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.split() == ["True", "planted"]


def test_every_planted_bug_names_a_drill() -> None:
    assert {plant.drill for plant in PLANTS.values()} <= set(DRILLS)
