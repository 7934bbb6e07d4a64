"""Type checkers accept the right uses of the public API and reject the wrong ones, line by line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "cases"
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def _expected(file: Path) -> set[int]:
    lines = file.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if "  # error: " in line}


def _run(folder: Path, *command: str) -> str:
    """In a folder of their own with a copy of the cases: as a user of the package would, without our settings."""
    shutil.copytree(CASES, folder / "cases")
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def _mypy(folder: Path) -> dict[str, dict[int, str]]:
    output = _run(
        folder, sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--no-error-summary",
        "--explicit-package-bases", "--python-executable", sys.executable, "cases",
    )  # fmt: skip
    found: dict[str, dict[int, str]] = {}
    for line in output.splitlines():
        match = re.match(r"(.+?):(\d+): error: (.*)", line)
        if match:
            found.setdefault(Path(match[1]).name, {})[int(match[2])] = match[3]
    return found


def _pyright(folder: Path) -> dict[str, dict[int, str]]:
    settings = folder / "pyrightconfig.json"
    settings.write_text(
        json.dumps(
            {
                "include": ["cases"],
                "extraPaths": [str(ROOT)],
                "pythonVersion": f"{sys.version_info[0]}.{sys.version_info[1]}",
                "typeCheckingMode": "standard",
                "reportUnusedCoroutine": "error",
                "reportUnusedExpression": "none",
            }
        )
    )
    output = _run(folder, sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable)
    found: dict[str, dict[int, str]] = {}
    for problem in json.loads(output)["generalDiagnostics"]:
        if problem["severity"] == "error":
            line = problem["range"]["start"]["line"] + 1
            found.setdefault(Path(problem["file"]).name, {})[line] = problem["message"]
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", [_mypy, _pyright], ids=["mypy", "pyright"])
def test_right_uses_are_accepted_and_wrong_ones_rejected(check: object, tmp_path: Path) -> None:
    assert callable(check)
    found = check(tmp_path)
    assert found.get("right.py", {}) == {}
    wrong = found.get("wrong.py", {})
    expected = _expected(CASES / "wrong.py")
    assert len(expected) >= 20
    assert {line: text for line, text in wrong.items() if line not in expected} == {}
    assert sorted(expected - wrong.keys()) == []
