"""The search for lost messages after a backlog: nobody waits for it, and it reads no table whole."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta

import psycopg
import pytest

from dispatcher.relay import leader
from dispatcher.relay.reconcile import Reconciler
from state.reconcile import RECONCILE
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until
from tests.integration.listing_data import GENERATE


async def test_new_tasks_do_not_wait_for_the_search_for_lost_messages(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 90,000 tasks it took 0.8 s in the leader's own loop, and everything committed meanwhile started late."""
    searching, over = asyncio.Event(), asyncio.Event()
    real = Reconciler.once

    async def slow(self: Reconciler) -> int:
        searching.set()
        await over.wait()
        return await real(self)

    monkeypatch.setattr(Reconciler, "once", slow)
    monkeypatch.setattr(leader, "_TRIM_SECONDS", 0.1)
    fleet.configure(backstop=timedelta(seconds=1))
    relay = await fleet.relay()
    await fleet.worker()
    assert await fleet.enqueue(apps.note.call(1)).wait(15) == 2
    await fleet.signal(relay, searching)
    assert await fleet.enqueue(apps.note.call(2)).wait(15) == 4
    assert not over.is_set() and fleet.count("dispatch_log") >= 1
    over.set()
    await until(lambda: fleet.count("dispatch_log") == 0)


async def test_a_relay_stops_at_once_while_it_searches(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    searching = asyncio.Event()

    async def endless(self: Reconciler) -> int:
        searching.set()
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(Reconciler, "once", endless)
    monkeypatch.setattr(leader, "_TRIM_SECONDS", 0.1)
    fleet.configure(backstop=timedelta(seconds=1))
    relay = await fleet.relay()
    fleet.enqueue(apps.note.call(1))
    await fleet.signal(relay, searching)
    await asyncio.wait_for(fleet.stop(relay), 15)
    assert relay.leader is None and not relay.led.is_set()


def test_the_search_looks_finished_tasks_up_by_their_ids(database_url: str) -> None:
    """Statistics that know no queued task made it read the table once per entry, at this size."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(GENERATE.format(s="dispatcher", total=20_000).encode())
        connection.execute(
            "INSERT INTO dispatcher.dispatch_log (lane_id, task_ids, attempts, dispatches)"
            " SELECT 1, array_agg(id), array_agg(1), array_agg(1)"
            " FROM (SELECT id, row_number() OVER () AS n FROM dispatcher.tasks) t GROUP BY n / 1000"
        )
        connection.execute("ANALYZE")
        connection.execute("SET plan_cache_mode = force_generic_plan")
        text, _ = RECONCILE.numbered("dispatcher")
        connection.execute(f"PREPARE search AS {text}".encode())
        rows = connection.execute("EXPLAIN EXECUTE search (1, 1000000, NULL, 20)").fetchall()
        plan = "\n".join(row[0] for row in rows)
        assert not re.search(r"Seq Scan on tasks\b", plan), plan
        assert connection.execute("EXECUTE search (1, 1000000, NULL, 100)").fetchall() == [(21, 21, 0)]
