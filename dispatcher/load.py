"""Find the ``Dispatcher`` that ``module:app`` names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from dispatcher._layout import check_folder
from dispatcher.app import Dispatcher
from dispatcher.errors import ConfigurationError

__all__ = ["load_app"]


def load_app(place: str, folder: Path | None = None) -> Dispatcher:
    """Import the module, from ``folder`` (the current one) or wherever Python finds it, and return its app.

    Raises ``ConfigurationError`` in one line: what is missing and how to write it; an error inside the module itself is
    raised as it is, because it is the user's to see.
    """
    module_name, _, attribute = place.partition(":")
    if not module_name or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigurationError(f"{place!r} is not module:app; write for example shop:app")
    folder = folder or Path.cwd()
    check_folder(folder)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigurationError(f"there is no module {error.name!r} in {folder} or on Python's path") from None
        raise
    found = getattr(module, attribute or "app", None)
    if isinstance(found, Dispatcher):
        return found
    names = [name for name, value in vars(module).items() if isinstance(value, Dispatcher)]
    hint = f"; did you mean {module_name}:{names[0]}?" if names else ""
    raise ConfigurationError(f"{module_name!r} has no Dispatcher named {attribute or 'app'!r}{hint}")
