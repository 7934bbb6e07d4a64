"""Signs of life of a long run: memory of every process, sizes and dead rows of every table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dispatcher.bench.pipeline import Pipeline
from state.sql import Sql

__all__ = ["memory_of", "vitals"]

_PROC = Path("/proc")
_TABLES = Sql("""
SELECT c.relname, pg_relation_size(c.oid), pg_indexes_size(c.oid), pg_stat_get_dead_tuples(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = :schema AND pg_relation_size(c.oid) > 0
""")


def memory_of(pid: int) -> int:
    """Bytes of memory that a process and all below it have for themselves; what they share is not counted."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            children.setdefault(int(_field(int(entry.name), "PPid:") or 0), []).append(int(entry.name))

    def tree(root: int) -> Iterator[int]:
        yield root
        for child in children.get(root, ()):
            yield from tree(child)

    return sum(int((_field(member, "RssAnon:") or "0 kB").split()[0]) * 1024 for member in tree(pid))


def _field(pid: int, label: str) -> str | None:
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return None
    return next((line.removeprefix(label).strip() for line in lines if line.startswith(label)), None)


async def vitals(pipeline: Pipeline) -> dict[str, Any]:
    """One sample: megabytes per process; bytes of table and indexes and dead rows per table; tasks done so far."""
    ground = pipeline.ground
    pids = {"postgres": ground.postgres_pid, "nats": ground.nats_pid}
    pids |= {"relay": pipeline.relay.pid if pipeline.relay else None}
    pids |= {f"worker {number}": worker.pid for number, worker in enumerate(pipeline.workers, 1)}
    rows = await (await pipeline.run(_TABLES, {"schema": pipeline.settings.db_schema})).fetchall()
    done, _, at = await pipeline.done()
    return {
        "at_ns": at,
        "done": done,
        "memory_mb": {name: round(memory_of(pid) / 1e6, 1) for name, pid in pids.items() if pid is not None},
        "tables": {name: {"table": size, "indexes": indexes, "dead": dead} for name, size, indexes, dead in rows},
    }
