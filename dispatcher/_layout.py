"""Refuses to run on top of foreign ``state`` or ``workers`` modules, instead of breaking later in a strange place.

We install three top-level packages, and services own files called ``state.py`` or folders called ``workers``.  Either
would hide the other.  ``check_layout`` runs when ``dispatcher`` is imported; ``check_folder`` runs before the command
line puts a service's folder on the import path.  Nothing of ours is imported at the top: our errors live in ``state``,
which may be the very module that is foreign.
"""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path

__all__ = ["PACKAGES", "check_folder", "check_layout"]

PACKAGES = ("dispatcher", "workers", "state")
_OUR_PARENT = Path(__file__).resolve().parent.parent


def check_layout() -> None:
    """Raise ImportError unless ``state`` and ``workers`` come from beside this package, naming what hides them."""
    for name in PACKAGES[1:]:
        place = _imported(name) or _importable(name)
        if place is not None and place.parent != _OUR_PARENT / name:
            raise ImportError(_message(name, place))
        if place is None and not (_OUR_PARENT / name).is_dir():
            raise ImportError(f"the package '{name}' that belongs to dispatcher is missing; install it again")


def check_folder(folder: Path) -> None:
    """Raise LayoutError if that folder, once on the import path, would hide one of our packages or be hidden by it."""
    from dispatcher.errors import LayoutError

    folder = folder.resolve()
    if folder == _OUR_PARENT:
        return
    for name in PACKAGES:
        modules = (f"{name}{end}" for end in SOURCE_SUFFIXES + EXTENSION_SUFFIXES)
        for file in (folder / name / "__init__.py", *(folder / module for module in modules)):
            if file.exists():
                raise LayoutError(_message(name, file))


def _imported(name: str) -> Path | None:
    """Where the module that is loaded already came from."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return None if file is None else Path(file).resolve()


def _importable(name: str) -> Path | None:
    """Where the next import would find it; editable installs hook in beside the path, so every finder is asked."""
    for finder in (*sys.meta_path, PathFinder):
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = None if find is None else find(name, None)
        if spec is not None and spec.origin is not None and spec.has_location:
            return Path(spec.origin).resolve()
    return None


def _message(name: str, place: Path) -> str:
    return (
        f"'import {name}' finds {place}, which hides the '{name}' package installed with dispatcher; "
        "rename it or move it into a package"
    )
