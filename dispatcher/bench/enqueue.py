"""``enqueue``: what creating a task costs the caller, on each kind of session, against a bare INSERT."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

import psycopg
from psycopg import sql

from dispatcher.bench.callers import BARE, POSTGRES
from dispatcher.bench.ground import Ground
from dispatcher.bench.pipeline import Pipeline, open_pipeline
from dispatcher.bench.processes import environment, start
from dispatcher.bench.rounds import medians, say

__all__ = ["enqueue", "make_bare_table"]

_HEAR_SECONDS = 600.0
_FIGURES = ("bare_wall_us", "wall_us", "bare_cpu_us", "cpu_us", "bare_server_us", "server_us")


async def enqueue(ground: Ground, *, calls: int, rounds: int) -> dict[str, Any]:
    """No relay and no worker run: the server's time is that of the caller's transactions alone."""
    async with open_pipeline(ground) as pipeline:
        await make_bare_table(ground)
        measured: list[dict[str, Any]] = []
        for number in range(rounds):
            measured.append(await _once(pipeline, calls))
            say(f"enqueue: round {number + 1} of {rounds}: {measured[-1]}")
        table: list[dict[str, Any]] = []
        for kind in measured[0]:
            figures = {name: medians([item[kind] for item in measured], name) for name in _FIGURES}
            added = round(figures["wall_us"] - figures["bare_wall_us"], 1)
            table.append({"session": kind, **figures, "added_wall_us": added})
        return {
            "bench": "enqueue",
            "workers": 0,
            "added_wall_us": median(row["added_wall_us"] for row in table),
            "table": table,
            "tasks": calls,
            "spread": 0.0,
            "rounds": [{"sessions": item} for item in measured],
            **pipeline.facts,
        }


async def _once(pipeline: Pipeline, calls: int) -> dict[str, Any]:
    ground = pipeline.ground
    variables = environment(ground.settings, ground)
    if ground.postgres_pid:
        variables[POSTGRES] = str(ground.postgres_pid)
    caller = await start(ground, "caller", variables, "dispatcher.bench.callers", str(calls))
    try:
        await caller.hear(60.0)
        await caller.tell("go")
        told: dict[str, Any] = json.loads(await caller.hear(_HEAR_SECONDS))
    finally:
        await caller.stop()
    return told


async def make_bare_table(ground: Ground) -> None:
    """A table of the application, in the schema that is removed at the end."""
    async with await psycopg.AsyncConnection.connect(ground.settings.database_url or "", autocommit=True) as connection:
        place = sql.Identifier(ground.settings.db_schema, BARE)
        await connection.execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} (id uuid PRIMARY KEY, args bytea NOT NULL)").format(place)
        )
