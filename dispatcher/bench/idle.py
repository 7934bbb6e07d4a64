"""``idle``: the statements that a system without work sends to PostgreSQL, counted by the server per login role."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from dispatcher.bench.errors import BenchError
from dispatcher.bench.ground import Ground
from dispatcher.bench.pipeline import Pipeline, open_pipeline
from dispatcher.bench.rounds import medians, say, spread
from dispatcher.settings import Settings

__all__ = ["idle"]

_QUIET_SECONDS, _LONGEST_UNREST = 15.0, 120.0
_QUIET_FOR_SHORT_LOOKS = 8.0
_WARM_UP_TASKS = 500

_CALLS = """
SELECT r.rolname, CAST(coalesce(sum(s.calls), 0) AS bigint)
FROM pg_roles r LEFT JOIN pg_stat_statements s ON s.userid = r.oid
WHERE r.rolname = ANY (%s) GROUP BY 1
"""
_TEXTS = """
SELECT r.rolname, s.calls, left(regexp_replace(s.query, '\\s+', ' ', 'g'), 90)
FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = ANY (%s)
"""
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"

Admin = psycopg.AsyncConnection[TupleRow]


async def idle(ground: Ground, *, seconds: float, workers: int, concurrency: int, rounds: int) -> dict[str, Any]:
    """Counts while nothing is to do, transaction commands included, after the system has become quiet."""
    async with open_pipeline(ground) as pipeline, _admin(ground) as admin, _roles(ground, admin) as logins:
        relay, worker = logins
        names = [relay[0], worker[0]]
        await pipeline.start_processes(workers, concurrency, (relay[1], worker[1]))
        await pipeline.create(_WARM_UP_TASKS)
        await pipeline.until_calm()
        await _until_quiet(admin, names, _QUIET_SECONDS if seconds >= 30 else _QUIET_FOR_SHORT_LOOKS)
        measured = [await _watch(pipeline, admin, names, seconds, number) for number in range(rounds)]
        connections = await (await admin.execute(_CONNECTIONS, (worker[0],))).fetchone()
        return {
            "bench": "idle",
            "worker_statements": sum(item["worker_statements"] for item in measured),
            "relay_statements": sum(item["relay_statements"] for item in measured),
            "statements_per_minute": medians(measured, "statements_per_minute"),
            "worker_connections": connections[0] if connections else None,
            "seconds": seconds,
            "workers": workers,
            "relays": 1,
            "spread": spread(measured, "statements_per_minute"),
            "rounds": measured,
            **pipeline.facts,
        }


@asynccontextmanager
async def _admin(ground: Ground) -> AsyncIterator[Admin]:
    """A superuser's connection with pg_stat_statements in place.  Raises ``BenchError`` when it cannot be."""
    url = ground.settings.database_url or ""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
        row = await (await admin.execute("SELECT current_setting('is_superuser')")).fetchone()
        if row != ("on",):
            raise BenchError("idle makes login roles and reads pg_stat_statements: it needs a superuser of PostgreSQL")
        try:
            await admin.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            await admin.execute("SELECT count(*) FROM pg_stat_statements")
        except psycopg.Error as error:
            raise BenchError(
                "pg_stat_statements is missing: install it and start PostgreSQL with"
                f" shared_preload_libraries=pg_stat_statements ({str(error).splitlines()[0]})"
            ) from None
        found = await admin.execute("SELECT current_setting('pg_stat_statements.track_utility')")
        if await found.fetchone() != ("on",):
            raise BenchError("pg_stat_statements.track_utility is off: transaction commands would not be counted")
        yield admin


@asynccontextmanager
async def _roles(ground: Ground, admin: Admin) -> AsyncIterator[list[tuple[str, Settings]]]:
    """A login role for the relay and one for the workers, with the rights they need; gone afterwards."""
    made: list[tuple[str, Settings]] = []
    schema = sql.Identifier(ground.settings.db_schema)
    try:
        for kind in ("relay", "worker"):
            name, password = f"dispatcher_bench_{kind}_{secrets.token_hex(4)}", secrets.token_hex(16)
            role = sql.Identifier(name)
            await admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password)))
            url = make_conninfo(ground.settings.database_url or "", user=name, password=password)
            made.append((name, ground.settings.model_copy(update={"database_url": url})))
            await admin.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, role))
            for what in ("TABLES", "SEQUENCES", "FUNCTIONS"):
                await admin.execute(
                    sql.SQL("GRANT ALL ON ALL {} IN SCHEMA {} TO {}").format(sql.SQL(what), schema, role)
                )
        yield made
    finally:
        for name, _ in made:
            role = sql.Identifier(name)
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (name,))
            await admin.execute(sql.SQL("DROP OWNED BY {}").format(role))
            await admin.execute(sql.SQL("DROP ROLE {}").format(role))


async def _calls(admin: Admin, names: list[str]) -> list[int]:
    rows: dict[str, int] = dict(await (await admin.execute(_CALLS, (names,))).fetchall())
    return [int(rows.get(name, 0)) for name in names]


async def _until_quiet(admin: Admin, names: list[str], long_enough: float) -> None:
    """Sessions are closed, counters folded, the log trimmed: nobody said anything for a while."""
    say("idle: waiting until the system is quiet")
    begun = since = time.monotonic()
    last = await _calls(admin, names)
    while time.monotonic() - since < long_enough:
        if time.monotonic() - begun > _LONGEST_UNREST:
            say(f"idle: still not quiet after {_LONGEST_UNREST:g} s; measuring all the same")
            return
        await asyncio.sleep(0.5)
        now = await _calls(admin, names)
        if now != last:
            last, since = now, time.monotonic()


async def _watch(pipeline: Pipeline, admin: Admin, names: list[str], seconds: float, number: int) -> dict[str, Any]:
    before, texts = await _calls(admin, names), await _texts(admin, names)
    begun = time.monotonic()
    await asyncio.sleep(seconds)
    relay, worker = (now - then for now, then in zip(await _calls(admin, names), before, strict=True))
    passed = time.monotonic() - begun
    pipeline.check()
    said = {text: calls - texts.get(text, 0) for text, calls in (await _texts(admin, names)).items()}
    figures = {
        "worker_statements": worker,
        "relay_statements": relay,
        "statements_per_minute": round((relay + worker) * 60 / passed, 2),
        "said": {text: calls for text, calls in said.items() if calls},
    }
    say(f"idle: round {number + 1}: {figures}")
    return figures


async def _texts(admin: Admin, names: list[str]) -> dict[str, int]:
    texts: dict[str, int] = {}
    for role, calls, text in await (await admin.execute(_TEXTS, (names,))).fetchall():
        kind = "worker" if role == names[1] else "relay"
        texts[f"{kind}: {text}"] = texts.get(f"{kind}: {text}", 0) + int(calls)
    return texts
