"""Where things lie: the user's data folder, the user's cache, and as root the system data folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from dispatcher.embedded.account import Account
from dispatcher.embedded.errors import EmbeddedError

__all__ = ["cache_folder", "default_data_dir", "system_folder"]

_NAME = "jetstream-dispatcher"
_SYSTEM = tuple(
    Path(parent) / _NAME for parent in ("/var/lib", "/var/opt", "/opt", "/srv", "/usr/local/var", "/var/tmp")
)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """The folder of servers that were given none."""
    return _user_folder(environ, "XDG_DATA_HOME", ".local/share", "Library/Application Support") / "servers"


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where a normal user's database template lies."""
    return _user_folder(environ, "XDG_CACHE_HOME", ".cache", "Library/Caches")


def _user_folder(environ: Mapping[str, str], variable: str, plain: str, macos: str) -> Path:
    base = environ.get(variable, "")
    if os.path.isabs(base):
        return Path(base) / _NAME
    try:
        home = Path.home()
    except RuntimeError:
        raise EmbeddedError("there is no home folder for the servers' data; name a data folder") from None
    return home / (macos if sys.platform == "darwin" else plain) / _NAME


def system_folder(account: Account) -> Path:
    """A folder of root's that the unprivileged user can enter, made when missing; no foreign folder is changed."""
    tried = []
    for folder in _SYSTEM:
        try:
            if not folder.exists():
                folder.mkdir()
                folder.chmod(0o755)  # mkdir obeys the umask
            found = folder.lstat()
        except OSError as error:
            tried.append(f"{folder}: {error.strerror}")
            continue
        ours = not folder.is_symlink() and found.st_uid == 0 and not found.st_mode & 0o022
        if ours and account.can('cd "$1"', folder):
            return folder
        tried.append(f"{folder}: not root's own, or user {account.name} cannot enter it")
    raise EmbeddedError("no system folder for PostgreSQL: " + "; ".join(tried))
