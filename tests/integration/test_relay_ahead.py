"""A single task that wakes the sleeping leader: its message goes before the drain, and the stream drops the repeat."""

from __future__ import annotations

import psycopg

from dispatcher.relay.service import Relay
from state.ids import new_id
from state.locks import FULL_RECONCILE, SLEEP, advisory_key
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE


async def _asleep(fleet: Fleet) -> Relay:
    """A relay that has drained before, so that it knows its lanes, and sleeps."""
    relay = await fleet.relay()
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2
    await until(lambda: relay.leader is not None and relay.leader.sleep.holds and not fleet.count("outbox"))
    return relay


async def test_a_single_task_runs_before_its_drain_and_only_once(fleet: Fleet) -> None:
    await fleet.worker()
    relay = await _asleep(fleet)
    fence = advisory_key(fleet.settings.db_schema, FULL_RECONCILE)
    with psycopg.connect(fleet.settings.database_url or "", autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s, %s)", fence)  # no drain can begin
        task = fleet.enqueue(apps.note.call(7))
        await fleet.reaches(task, "succeeded")
        assert fleet.count("outbox") == 1
        assert relay.drain.published == 1
    await until(lambda: not fleet.count("outbox") and relay.drain.published == 2)
    assert fleet.row(task)["tries"] == 1
    assert len(fleet.ledger("ran")) == 2
    assert fleet.rows("SELECT count(*) AS n FROM dispatcher.dispatch_log") == [{"n": 2}]


async def test_forged_and_foreign_notifications_change_nothing(fleet: Fleet) -> None:
    await fleet.worker()
    relay = await _asleep(fleet)
    forged = ["", ":", "x:y:z:1", f"1:{new_id()}:1", f"999:{new_id()}:1:1", f"1:{new_id()}:-1:{1 << 40}", "1:2:3:4:5:6"]
    with psycopg.connect(fleet.settings.database_url or "", autocommit=True) as other:
        for entry in forged:
            other.execute("SELECT pg_notify('dispatcher.wake', 'outbox:' || %s)", [entry])
    assert await fleet.enqueue(apps.note.call(3)).wait(PATIENCE) == 6
    assert relay.led.is_set()
    assert fleet.count("quarantine") == 0


async def test_only_a_single_entry_is_named(fleet: Fleet) -> None:
    """Several go together in a drain; and an id that the sequence did not give names nothing."""
    key = advisory_key(fleet.settings.db_schema, SLEEP)
    url = fleet.settings.database_url or ""
    with psycopg.connect(url, autocommit=True) as sleeper, psycopg.connect(url, autocommit=True) as writer:
        sleeper.execute("SELECT pg_advisory_lock(%s, %s)", key)
        sleeper.execute('LISTEN "dispatcher.wake"')
        one = apps.note.enqueue(writer, 1)
        apps.app.enqueue_many(writer, [apps.note.call(2), apps.note.call(3)])
        with psycopg.connect(url, autocommit=True) as fresh:
            fresh.execute(
                "INSERT INTO dispatcher.outbox (id, task_id, attempt, dispatch, lane_id) OVERRIDING SYSTEM VALUE"
                " SELECT 900, task_id, attempt, dispatch, lane_id FROM dispatcher.outbox LIMIT 1"
            )
        said = [note.payload for note in sleeper.notifies(timeout=PATIENCE, stop_after=3)]
    [lane] = fleet.rows("SELECT lane_id FROM dispatcher.tasks WHERE id = %s", one.id)
    assert said == [f"outbox:{lane['lane_id']}:{one.id}:1:1", "outbox", "outbox"]
