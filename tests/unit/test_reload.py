"""Which files a reloading worker watches, and what it starts again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dispatcher.cli.progress import Progress
from workers.reload import changed_files, modification_times, worker_command


def test_new_gone_and_changed_files_are_seen_and_installed_ones_are_not(tmp_path: Path) -> None:
    for name in ("a.py", "pack/b.py", "c.py", "notes.txt", ".venv/x.py", "venv/y.py", "__pycache__/z.py"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    before = modification_times(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in before} == {"a.py", "pack/b.py", "c.py"}
    os.utime(tmp_path / "a.py", ns=(1, 1))
    (tmp_path / "c.py").unlink()
    (tmp_path / "d.py").write_text("")
    changed = changed_files(before, modification_times(tmp_path))
    assert [path.name for path in changed] == ["a.py", "c.py", "d.py"]
    assert changed_files(before, before) == []


def test_the_child_is_this_command_without_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dispatcher", "worker", "shop:app", "--reload", "-q", "mail"])
    assert worker_command()[1:] == ["-m", "dispatcher", "worker", "shop:app", "-q", "mail"]


def test_a_bar_is_for_people_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("deleting", 200) as bar:
        bar.show(50)
        assert bar.line(50) == "deleting [######..................] 50 of 200  25%"
        assert Progress("counting").line(1500) == "counting 1,500"
    assert capsys.readouterr() == ("", "")
