"""Many parents that end at once, kills in the middle, failures everywhere: each dependant is released exactly once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from dispatcher import group
from state.flow_audit import FLOW_VIOLATIONS
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.flow_apps import app, leaf, merge, random_composition, random_graph
from tests.fixtures.patience import PATIENCE
from tests.integration.protocol_steps import Protocol


@pytest.fixture
async def flows(fleet: Fleet) -> AsyncIterator[Fleet]:
    app.configure(fleet.settings)
    yield fleet
    await app.close()


def enqueue(fleet: Fleet, *composed: Any) -> list[Any]:
    with fleet.connection.transaction():
        return [one.enqueue(fleet.connection) for one in composed]


async def test_random_flows_under_random_kills(flows: Fleet) -> None:
    """The ``flows`` drill in small."""
    flows.use_streams('[defaults]\nack_wait = "2s"\n')
    flows.configure(lease=timedelta(seconds=2))
    await flows.relay()
    rng = random.Random(19)
    enqueue(flows, *(random_composition(rng) for _ in range(60)), *(random_graph(rng, 15) for _ in range(12)))
    number = flows.count("tasks")
    processes = [flows.process("worker", "tests.fixtures.flow_apps:app", "-c", "8") for _ in range(2)]
    for kill in range(3):
        await until(lambda: flows.finished() > kill * number // 4, 2 * PATIENCE)  # noqa: B023 - awaited here
        processes.pop(0).kill()
        processes.append(flows.process("worker", "tests.fixtures.flow_apps:app", "-c", "8"))
    await until(lambda: flows.count("flows", "state = 4") == 0, 2 * PATIENCE, "flows end")
    checked = flows_checked(flows)
    assert checked["tasks"] == number > 400 and checked["violations"] == 0
    assert min(checked["succeeded"], checked["failed"], checked["skipped"]) > 20, checked


def flows_checked(fleet: Fleet) -> dict[str, int]:
    """What the drill prints."""
    violations = fleet.connection.execute(FLOW_VIOLATIONS.sqlalchemy("dispatcher").encode()).fetchall()
    assert violations == []
    return {
        "tasks": fleet.finished(),
        "succeeded": fleet.count("tasks", "state = 6"),
        "failed": fleet.count("tasks", "state = 7"),
        "skipped": fleet.count("tasks", "state = 8 AND reason = 16"),
        "violations": len(violations),
    }


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
