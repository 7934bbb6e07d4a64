"""Servers of an earlier start that are still going away: found by their data folder, never by pid file or name alone.

A pid file may name a zombie or a number that the system gave to somebody else since.  The kernel knows better: a
PostgreSQL process has its data folder as working directory, a nats-server has our file on its command line.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from dispatcher.embedded.errors import EmbeddedError

__all__ = ["is_alive", "stop_leftovers"]

_PROC = Path("/proc")
_FORCE = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 10.0))


def is_alive(pid: int) -> bool:
    """Whether that process runs; a zombie does not."""
    try:
        return _state(pid) not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        if _PROC.joinpath("self").exists():
            return False
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _state(pid: int) -> str:
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]


def stop_leftovers(pgdata: Path, nats_conf: Path | None) -> None:
    """End what is left of both servers, of PostgreSQL alone without ``nats_conf``, and wait for it.

    Raises EmbeddedError when it does not go.
    """
    for number, patience in _FORCE:
        pids = _find(pgdata, nats_conf)
        for pid in pids:
            try:
                os.kill(pid, number)
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
            except PermissionError:
                raise EmbeddedError(f"process {pid} uses {pgdata} and belongs to another user; stop it") from None
        deadline = time.monotonic() + patience
        while pids and time.monotonic() < deadline:
            time.sleep(0.02)
            pids = _find(pgdata, nats_conf)
        if not pids:
            return
    raise EmbeddedError(f"processes {_find(pgdata, nats_conf)} use {pgdata} and cannot be ended")


def _find(pgdata: Path, nats_conf: Path | None) -> list[int]:
    folder = os.path.realpath(pgdata)
    conf = None if nats_conf is None else os.fsencode(nats_conf)
    if not _PROC.joinpath("self").exists():
        return _from_pid_file(pgdata)
    return [pid for pid in map(int, filter(str.isdigit, os.listdir(_PROC))) if _is_ours(pid, folder, conf)]


def _is_ours(pid: int, folder: str, conf: bytes | None) -> bool:
    proc = _PROC / str(pid)
    try:
        name = (proc / "comm").read_text().strip()
        if name == "postgres":
            return os.readlink(proc / "cwd") == folder and is_alive(pid)
        return conf is not None and (proc / "cmdline").read_bytes().split(b"\0")[1:3] == [b"-c", conf] and is_alive(pid)
    except OSError:
        return False  # gone meanwhile, or another user's


def _from_pid_file(pgdata: Path) -> list[int]:
    """Without /proc (macOS): the pid file, believed only while that process lives."""
    try:
        pid = int((pgdata / "postmaster.pid").read_text().split("\n")[0])
    except (OSError, ValueError):
        return []
    return [pid] if is_alive(pid) else []
