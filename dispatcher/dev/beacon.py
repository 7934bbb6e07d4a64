"""The file by which other commands in the same folder find the servers of a running ``dispatcher dev``.

Promise: it is believed only while the process that wrote it lives (the kernel's lock on it says so, not a process id),
only if it belongs to us and nobody else can read or write it.  It holds passwords, so its mode is 0600.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from state.errors import DispatcherError

__all__ = ["Beacon", "default_folder", "found"]

_FILE = "dev.json"


def default_folder() -> Path:
    """``DISPATCHER_DATA_DIR``, or ``.dispatcher`` in the current folder."""
    return Path(os.environ.get("DISPATCHER_DATA_DIR") or ".dispatcher").absolute()


class Beacon:
    """Holds the folder from the start, and tells where everything is once :meth:`light` was called.

    Raises ``DispatcherError`` when another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
        self.path = folder / _FILE
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise DispatcherError(
                f"dispatcher dev runs already in {folder}; stop it or name another --data-dir"
            ) from None
        os.ftruncate(self._fd, 0)
        os.fchmod(self._fd, 0o600)

    def light(self, document: Mapping[str, Any]) -> None:
        """Write what others may know."""
        os.pwrite(self._fd, json.dumps(document, indent=1).encode() + b"\n", 0)

    def close(self) -> None:
        """Nobody finds us any more."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def found(folder: Path | None = None) -> dict[str, Any] | None:
    """What a running ``dispatcher dev`` wrote there; ``None`` when none runs or the file is not trustworthy."""
    path = (folder or default_folder()) / _FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        about = os.fstat(fd)
        if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None  # nobody holds it: what it says is over
        except BlockingIOError:
            pass
        document = json.loads(os.pread(fd, 65536, 0))
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
    return document if isinstance(document, dict) else None
