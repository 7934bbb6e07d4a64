"""What a measurement was made on: versions, machine, and the server's settings as the server tells them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from dispatcher.bench.errors import BenchError
from dispatcher.cli.version import version_of
from dispatcher.loop import has_uvloop

__all__ = ["durability", "machine", "server_settings", "versions"]

_DURABILITY = ("fsync", "full_page_writes", "synchronous_commit")
_SETTINGS = (
    "shared_buffers", "max_wal_size", "checkpoint_timeout", "wal_level", "wal_compression", "max_connections",
    "plan_cache_mode",
)  # fmt: skip


async def _show(connection: psycopg.AsyncConnection[TupleRow], name: str) -> str:
    cursor = await connection.execute("SELECT current_setting(%s)", (name,))
    row = await cursor.fetchone()
    return "" if row is None else str(row[0])


async def durability(connection: psycopg.AsyncConnection[TupleRow]) -> dict[str, str]:
    """The settings that decide whether a commit survives.  Raises ``BenchError`` when one of them is off."""
    found = {name: await _show(connection, name) for name in _DURABILITY}
    off = [name for name, value in found.items() if value == "off"]
    if off:
        raise BenchError(
            f"PostgreSQL runs with {', '.join(f'{name}=off' for name in off)}: figures without durability say nothing;"
            " switch it on and measure again"
        )
    return found


async def server_settings(connection: psycopg.AsyncConnection[TupleRow]) -> dict[str, str]:
    """Settings that move the figures."""
    return {name: await _show(connection, name) for name in _SETTINGS}


async def versions(connection: psycopg.AsyncConnection[TupleRow], nats: str) -> dict[str, str | None]:
    """Versions of everything that takes part."""
    return {
        "dispatcher": version_of("jetstream-dispatcher"),
        "python": platform.python_version(),
        "postgres": (await _show(connection, "server_version")).split(" ")[0],
        "nats": nats,
        "psycopg": psycopg.__version__,
        "psycopg_impl": psycopg.pq.__impl__,
        "nats-py": version_of("nats-py"),
        "pydantic": version_of("pydantic"),
        "uvloop": version_of("uvloop") if has_uvloop() else None,
    }


def machine() -> dict[str, Any]:
    """The machine, and how busy it was before the measurement began."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return {
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "cpu": _first("/proc/cpuinfo", "model name") or platform.processor(),
        "memory_gib": round(int((_first("/proc/meminfo", "MemTotal") or "0").split()[0]) / (1 << 20), 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def _first(file: str, label: str) -> str | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(label)), None)
