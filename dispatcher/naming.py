"""Names under which another process can import what was defined here."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["importable"]


def importable(module: str) -> str:
    """The name of a module, also of the one that was started as ``__main__``."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    file = getattr(main, "__file__", None)
    return str(spec.name) if spec is not None else Path(file).stem if file else module
