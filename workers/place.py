"""Where a child process finds the app: the modules to import, and the name the ``Dispatcher`` has in one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from dispatcher.app import Dispatcher
from dispatcher.errors import ConfigurationError
from dispatcher.naming import importable

__all__ = ["place_of"]


def place_of(app: Dispatcher) -> dict[str, Any]:
    """``modules`` to import, then the ``attribute`` of ``module``.

    Raises ``ConfigurationError`` for an app that no module has as an attribute.
    """
    modules = list(dict.fromkeys(kind.function.__module__ for kind in app.task_types.values()))
    for module in _candidates(modules):
        for attribute, value in list(vars(sys.modules[module]).items()):
            if value is app:
                names = [importable(name) for name in modules]
                return {"modules": names, "module": importable(module), "attribute": attribute}
    raise ConfigurationError(
        "pool='process' needs an app that a child process can import: make the Dispatcher a variable of a module"
    )


def _candidates(first: list[str]) -> Iterable[str]:
    known = [name for name in first if name in sys.modules]
    return [*known, *(name for name in list(sys.modules) if name not in known and sys.modules[name] is not None)]
