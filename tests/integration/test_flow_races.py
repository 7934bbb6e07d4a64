"""Many parents that end at once: their dependant is released exactly once.  With kills: the drill ``flows``."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import psycopg

from dispatcher import group
from state.flow_audit import FLOW_VIOLATIONS
from tests.fixtures.flow_apps import leaf, merge
from tests.integration.protocol_steps import Protocol


def test_parents_that_end_at_the_same_moment_release_their_child_once(database_url: str) -> None:
    """Eight connections settle one parent each, at once, again and again, in orders that could deadlock."""
    rounds, parents = 15, 8
    with psycopg.connect(database_url, autocommit=True) as connection:
        steps = Protocol(connection)
        for number in range(rounds):
            with connection.transaction():
                group(leaf.call(i) for i in range(parents)).then(merge).enqueue(connection)
            rows = steps.sql("SELECT id FROM dispatcher.tasks WHERE state = 3 AND type_id IN (SELECT id FROM"
                             " dispatcher.types WHERE name = 'leaf') ORDER BY id")  # fmt: skip
            ids = [row[0] for row in rows]
            session = steps.open()
            assert len(steps.claim(session, *ids)) == parents
            asyncio.run(_settle_together(database_url, session, ids, number))
            assert steps.sql("SELECT count(*) FROM dispatcher.tasks WHERE state = 1") == [(0,)]
        released = steps.sql(
            "SELECT count(*), count(DISTINCT task_id) FROM dispatcher.task_events WHERE from_state = 1 AND to_state = 3"
        )
        assert released == [(rounds, rounds)]
        assert steps.sql(FLOW_VIOLATIONS.sqlalchemy("dispatcher")) == []


async def _settle_together(url: str, session: int, ids: list[Any], seed: int) -> None:
    from state.settle import SUCCEED_IN_FLOW

    barrier = asyncio.Barrier(len(ids))
    order = list(ids)
    random.Random(seed).shuffle(order)

    async def settle(id: Any) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await barrier.wait()
            params = {"ids": [id], "attempts": [1], "results": [b"1"], "session": session, "batches": []}
            cursor = await connection.execute(SUCCEED_IN_FLOW.psycopg("dispatcher").encode(), params)
            row = await cursor.fetchone()
            assert row is not None and row[0] is None  # accepted

    await asyncio.gather(*map(settle, order))
