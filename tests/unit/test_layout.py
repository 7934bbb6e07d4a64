"""A service with its own ``state.py`` or ``workers/`` gets a clear refusal; everybody else never notices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher._layout import PACKAGES, check_folder, check_layout
from dispatcher.errors import LayoutError

REPOSITORY = Path(__file__).resolve().parents[2]


def test_our_own_layout_is_accepted() -> None:
    check_layout()
    check_folder(REPOSITORY)


def test_folder_without_our_names_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "state.py").write_text("")  # inside a package: no conflict
    (tmp_path / "state").mkdir()  # a folder of data: no module
    check_folder(tmp_path)


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("shape", ["{}.py", "{}/__init__.py"])
def test_folder_with_a_module_of_our_name_is_refused(tmp_path: Path, name: str, shape: str) -> None:
    foreign = tmp_path / shape.format(name)
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("")
    with pytest.raises(LayoutError, match=f"import {name}.*hides.*rename it") as caught:
        check_folder(tmp_path)
    assert str(foreign.resolve()) in str(caught.value)


@pytest.mark.parametrize("name", ["state", "workers"])
def test_foreign_module_on_the_path_is_named(tmp_path: Path, name: str) -> None:
    """In a process of its own, as a service would meet it: a bare import of the layout check."""
    (tmp_path / f"{name}.py").write_text("")
    said = _run(tmp_path, "from dispatcher._layout import check_layout; check_layout()")
    assert f"'import {name}' finds {tmp_path.resolve() / name}.py" in said


def test_foreign_module_that_is_already_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "workers.py").write_text("")
    code = "import workers, sys; sys.path.pop(0); from dispatcher._layout import check_layout; check_layout()"
    assert "workers.py, which hides the 'workers' package" in _run(tmp_path, code)


def _run(folder: Path, code: str) -> str:
    """The last line that Python says when it runs ``code`` with that folder before ours on the path."""
    paths = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(REPOSITORY)!r}]; "
    result = subprocess.run(
        [sys.executable, "-c", paths + code], capture_output=True, text=True, cwd=folder, check=False
    )
    assert result.returncode != 0
    return result.stderr.strip().splitlines()[-1]
