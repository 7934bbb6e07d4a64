"""The statements of every batch keep their plans on analysed tables of the size where custom plans flip.

With 500 to 1,000 ids and 20 to 40 thousand analysed rows a custom plan reads the whole table (half the throughput);
relay and worker therefore force generic plans, and this is what those look like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import tuple_row

from dispatcher.bench.tasks import app, noop
from dispatcher.database import BY_INDEX, Database, connect_sync
from dispatcher.settings import Settings
from state import claims, outbox, settle
from state.sql import Sql
from tests.integration.listing_data import BACKLOG, GENERATE

ROWS = 30_000
HOT = {
    "take": outbox.TAKE,
    "claim": claims.CLAIM,
    "claim_one": claims.CLAIM_ONE,
    "look": claims.LOOK,
    "succeed": settle.SUCCEED,
    "leave": settle.LEAVE,
}
_PREPARED = Sql("""
SELECT name, cardinality(parameter_types) FROM pg_prepared_statements WHERE statement LIKE 'WITH locked AS%'
""")
BIG = ("tasks", "task_events", "outbox")


@pytest.fixture
def connection(settings: Settings) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection made like those of relay and worker, on tables with a past."""
    with connect_sync(settings, "test", **BY_INDEX) as made:
        made.row_factory = tuple_row
        made.execute("SET synchronous_commit = off")
        for statement in (GENERATE + BACKLOG).format(s="dispatcher", total=ROWS).split(";\n"):
            if statement.strip():
                made.execute(statement.encode())
        made.execute("VACUUM ANALYZE")
        yield made


def test_no_batch_reads_a_whole_table(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    for name, sql in HOT.items():
        plan = plan_of(connection, name, sql)
        for table in BIG:
            assert not re.search(rf"(Seq|Bitmap Heap) Scan on {table}\b", plan), f"{name}:\n{plan}"
        # a join that reads one side whole would do so per batch; the rows of a batch are found one by one
        joins = [line for line in plan.splitlines() if re.search(r"(Hash|Merge) .*Join", line)]
        assert not joins, f"{name}:\n{plan}"


def test_plans_made_on_empty_tables_are_good_for_full_ones(settings: Settings) -> None:
    """In a new installation they are made before the first task, and live as long as the connection."""
    with connect_sync(settings, "test", **BY_INDEX) as connection:
        for name, sql in HOT.items():
            plan = plan_of(connection, name, sql)
            for table in BIG:
                assert not re.search(rf"(Seq|Bitmap Heap) Scan on {table}\b", plan), f"{name}:\n{plan}"
            assert not re.search(r"tasks_(type|queue)_id_id", plan), f"{name}:\n{plan}"
            scans = re.findall(r"Index Scan using tasks_pkey.*\n\s+(.*)", plan)
            assert all("Index Cond: (id = " in condition for condition in scans), f"{name}:\n{plan}"


async def test_a_plan_made_on_a_small_table_does_not_outlive_its_growth(settings: Settings) -> None:
    """Reading 40 tasks whole is right; the same plan for 30,000 would read them all at every settle."""
    database = Database(settings, "test", **BY_INDEX)
    nothing = {"session": 0, "ids": [], "attempts": [], "results": [], "batches": []}

    async def plan() -> str:
        [[name, types]] = await database.run(_PREPARED)
        values = ", ".join(["NULL"] * types)
        return "\n".join(row[0] for row in await database.run(Sql(f"EXPLAIN EXECUTE {name}({values})")))

    try:
        app.configure(settings)
        with connect_sync(settings, "test") as connection:
            app.enqueue_many(connection, [noop.call(n) for n in range(40)])
            connection.execute("VACUUM ANALYZE")
            await database.run(settle.SUCCEED, nothing)
            assert "Index Cond: (id = i.id)" not in await plan()
            app.enqueue_many(connection, [noop.call(n) for n in range(ROWS)])
        for _ in range(32):
            await database.run(settle.SUCCEED, nothing)
        assert "Index Cond: (id = i.id)" in await plan()
    finally:
        await database.close()


async def test_behind_a_pooler_every_batch_is_planned_anew_and_as_well(
    connection: psycopg.Connection[tuple[object, ...]], settings: Settings
) -> None:
    """Nothing is prepared there; planned for the very 500 ids, a statement would read whole tables."""
    database = Database(settings.model_copy(update={"direct_database_url": settings.database_url}), "test", **BY_INDEX)
    ids = [row[0] for row in connection.execute("SELECT id FROM dispatcher.tasks ORDER BY id DESC LIMIT 500")]
    some = {"session": 0, "ids": ids, "attempts": [1] * 500, "types": [1], "batch": 1, "batches": [7]}
    some |= {"results": [b"1"] * 500, "to": [7] * 500, "reasons": [1] * 500, "delays": [0.0] * 500}
    some |= {"refunds": [0] * 500, "details": [None] * 500}
    said: list[str] = []
    try:
        made = await database.connection()
        made.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        try:
            await made.execute("LOAD 'auto_explain'")
        except psycopg.errors.UndefinedFile:
            pytest.skip("this PostgreSQL has no auto_explain")
        await made.execute("SET auto_explain.log_min_duration = 0; SET auto_explain.log_level = 'notice'")
        for name in ("claim", "look", "succeed", "leave"):
            said.clear()
            await database.run(HOT[name], some)
            plan = said[-1]
            assert "tasks_pkey" in plan, plan
            assert not re.search(r"(Seq|Bitmap Heap) Scan on (tasks|task_events|outbox)\b", plan), f"{name}:\n{plan}"
            assert not re.search(r"(Hash|Merge) .*Join", plan), f"{name}:\n{plan}"
    finally:
        await database.close()


def plan_of(connection: psycopg.Connection[tuple[object, ...]], name: str, sql: Sql) -> str:
    """The generic plan: what a prepared statement runs with, whatever its values."""
    text, names = sql.numbered("dispatcher")
    connection.execute(f"PREPARE hot_{name} AS {text}".encode(), prepare=False)
    values = ", ".join(["NULL"] * len(names))
    rows = connection.execute(f"EXPLAIN (COSTS OFF) EXECUTE hot_{name}({values})".encode(), prepare=False)
    return "\n".join(str(row[0]) for row in rows)
