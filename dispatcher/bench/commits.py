"""``commits``: transactions of an application that create a task each, by 1 to 64 clients, and what waking costs them.

``pgbench`` commits; relay and worker run.  Three ways to wake the relay, in turn: not at all (the trigger is off, and
one connection wakes it ten times a second), ours, and a NOTIFY in every transaction.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from dispatcher.bench.callers import BARE
from dispatcher.bench.enqueue import make_bare_table
from dispatcher.bench.errors import BenchError
from dispatcher.bench.ground import Ground
from dispatcher.bench.pipeline import Pipeline, open_pipeline
from dispatcher.bench.rounds import medians, say, spread
from dispatcher.bench.tasks import noop
from dispatcher.embedded.binaries import find_postgres
from dispatcher.embedded.errors import EmbeddedError
from state.sql import Sql

__all__ = ["commits"]

_WAYS = ("none", "ours", "always")
_COMPARED = 32
_TRIGGER = Sql("ALTER TABLE {s}.outbox {do} TRIGGER outbox_wake")
_NOTIFY = Sql(
    "CREATE OR REPLACE FUNCTION {s}.bench_notify() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM pg_notify('{s}.wake', 'outbox'); RETURN NULL; END $$"
)
_ALWAYS = Sql(
    "CREATE TRIGGER bench_notify AFTER INSERT ON {s}.outbox FOR EACH STATEMENT EXECUTE FUNCTION {s}.bench_notify()"
)
_NEVER = Sql("DROP TRIGGER IF EXISTS bench_notify ON {s}.outbox")
_WAKE = Sql("SELECT pg_notify('{s}.wake', 'outbox')")


async def commits(
    ground: Ground, *, clients: Sequence[int], seconds: float, workers: int, concurrency: int, rounds: int
) -> dict[str, Any]:
    """Transactions a second of so many clients, each with a row of the application and a task."""
    program = _pgbench()
    async with open_pipeline(ground) as pipeline:
        await make_bare_table(ground)
        await pipeline.start_processes(workers, concurrency)
        script = _script(ground)
        await _commit(pipeline, program, script, 4, 1.0, "ours")
        measured: list[dict[str, Any]] = []
        for number in range(rounds):
            for count in clients:
                await pipeline.tidy()
                turn = [*_WAYS[number % len(_WAYS) :], *_WAYS[: number % len(_WAYS)]]  # nobody is always the first
                figures = {way: await _commit(pipeline, program, script, count, seconds, way) for way in turn}
                ratio = round(figures["ours"] / figures["none"], 3)
                measured.append({"round": number + 1, "clients": count, **figures, "ratio_to_none": ratio})
                say(f"commits: round {number + 1} of {rounds}: {measured[-1]}")
        await pipeline.until_calm()
        await pipeline.prove()
        by_clients = [[item for item in measured if item["clients"] == count] for count in clients]
        table = [
            {"clients": found[0]["clients"]} | {name: medians(found, name) for name in (*_WAYS, "ratio_to_none")}
            for found in by_clients
        ]
        compared = min(range(len(clients)), key=lambda i: abs(clients[i] - _COMPARED))
        return {
            "bench": "commits",
            "ratio_to_none": table[compared]["ratio_to_none"],
            "compared_clients": clients[compared],
            "table": table,
            "seconds": seconds,
            "workers": workers,
            "concurrency": concurrency,
            "spread": spread(by_clients[compared], "ratio_to_none"),
            "rounds": [{"clients": [item for item in measured if item["round"] == n]} for n in range(1, rounds + 1)],
            **pipeline.facts,
        }


def _pgbench() -> str:
    """The one beside the embedded server, or that of PATH.  Raises ``BenchError``."""
    with suppress(EmbeddedError):
        beside = find_postgres(None, os.environ).bindir / "pgbench"
        if beside.exists():
            return str(beside)
    found = shutil.which("pgbench")
    if found is None:
        raise BenchError("pgbench is missing: it comes with PostgreSQL's client programs; put it on PATH")
    return found


def _script(ground: Ground) -> Path:
    """One transaction: a row of the application and its task, created as any language would do it."""
    file, schema = ground.folder / "commits.sql", ground.settings.db_schema
    file.write_text(
        f"BEGIN;\nINSERT INTO {schema}.{BARE} VALUES (gen_random_uuid(), 'order');\n"
        f"SELECT id FROM {schema}.enqueue('{noop.name}', '{{\"number\": 1}}');\nCOMMIT;\n"
    )
    return file


async def _commit(pipeline: Pipeline, program: str, script: Path, clients: int, seconds: float, way: str) -> float:
    """Transactions a second with this way of waking."""
    await pipeline.until_calm()
    async with _waking(pipeline, way):
        process = await asyncio.create_subprocess_exec(
            program, "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)), "-T", f"{seconds:.0f}",
            "-f", str(script), pipeline.settings.database_url or "",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
    found = re.search(rb"^tps = ([0-9.]+)", out, re.MULTILINE)
    if process.returncode or not found:
        raise BenchError(f"pgbench failed: {(err.decode().strip().splitlines() or ['it said nothing'])[-1]}")
    await pipeline.run(_WAKE)
    return round(float(found[1]), 1)


@asynccontextmanager
async def _waking(pipeline: Pipeline, way: str) -> AsyncIterator[None]:
    """Our trigger off unless ``ours``; a NOTIFY of everybody in ``always``, of one connection in ``none``."""
    if way == "ours":
        yield
        return
    await pipeline.run(Sql(_TRIGGER.text.replace("{do}", "DISABLE")))
    waking = asyncio.create_task(_wake_now_and_then(pipeline)) if way == "none" else None
    try:
        if way == "always":
            await pipeline.run(_NOTIFY)
            await pipeline.run(_ALWAYS)
        yield
    finally:
        if waking:
            waking.cancel()
            with suppress(asyncio.CancelledError):
                await waking
        await pipeline.run(_NEVER)
        await pipeline.run(Sql(_TRIGGER.text.replace("{do}", "ENABLE")))


async def _wake_now_and_then(pipeline: Pipeline) -> None:
    while True:
        await pipeline.run(_WAKE)
        await asyncio.sleep(0.1)
