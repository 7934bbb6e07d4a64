"""The course of the demonstration: start everything, publish, kill, replace, wait, stop."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg

from dispatcher.demo.fleet import Fleet
from dispatcher.demo.place import Place
from dispatcher.demo.service import phases
from dispatcher.demo.show import Show
from dispatcher.demo.sink import make_tables
from dispatcher.demo.work import make_files
from dispatcher.dev.prepare import prepare, wait_for_workers
from dispatcher.errors import DispatcherError
from state.machine import State

__all__ = ["perform"]

_DURABLE = ("fsync", "full_page_writes", "synchronous_commit")
_LOOK_SECONDS = 0.05
_CALM_LOOK_SECONDS = 0.5
"""While the latency is measured, so that the display costs it nothing."""
_STALL_SECONDS = 45.0
_KILL_WORKER_AT = 0.3
_KILL_RELAY_AT = 0.6
_WORTH_KILLING = 4
"""Tasks that the worker should have in its hands, if that can be had."""
_PROGRESS = """
SELECT (SELECT count(*) FROM {shop}.orders),
       (SELECT coalesce(sum(n), 0)::bigint FROM {s}.task_counts WHERE state >= {final}),
       (SELECT count(*) FROM {s}.outbox),
       (SELECT count(*) FROM {s}.timers)
"""
_HELD = """
SELECT count(*) FROM {s}.tasks t JOIN {s}.session_log l ON l.session_id = t.session_id
WHERE l.worker = %s AND t.state = {running}
"""


def perform(place: Place, show: Show) -> None:
    """Run it to the end.  Raises ``DispatcherError`` when a process failed or nothing moves any more."""
    _make_ready(place, show)
    fleet = Fleet(place)
    try:
        fleet.start_relay()
        fleet.start_worker()
        fleet.start_worker()
        asyncio.run(wait_for_workers(place.settings, 2, 30.0))
        show.say("a relay and two worker processes are up, 16 tasks at a time each")
        _Course(place, show, fleet).run()
        fleet.drain()
        show.say("workers and relay were asked to stop and left in order")
    finally:
        fleet.close()


def _make_ready(place: Place, show: Show) -> None:
    prepare(place.settings)
    with psycopg.connect(place.settings.database_url or "", autocommit=True) as connection:
        # read back from the server, because it may not be ours
        durable = ((name, connection.execute(f"SHOW {name}".encode()).fetchone()) for name in _DURABLE)
        show.say(f"{place.servers}; {', '.join(f'{name} {row[0]}' for name, row in durable if row)}")
        make_tables(connection, place.plan.shop)
    for name in ("ledger", "out"):
        place.folder(name)
    files = make_files(place.folder("files"), place.plan.seed)
    show.say(f"tables migrated, stream made, {len(files)} files to work on (seed {place.plan.seed})")


class _Course:
    """From the service's start to the last task's end."""

    def __init__(self, place: Place, show: Show, fleet: Fleet) -> None:
        self._place, self._show, self._fleet = place, show, fleet
        self._names: dict[str, Any] = {
            "s": place.plan.db_schema, "shop": place.plan.shop, "final": int(State.SUCCEEDED),
            "running": int(State.RUNNING),
        }  # fmt: skip
        warm_up, paced, bulk = phases(place.plan.tasks)
        self._bulk_from, self._bulk = warm_up + paced, bulk
        self._plan = [("worker-1", _KILL_WORKER_AT), ("relay-1", _KILL_RELAY_AT)]
        self._in_bulk = False

    def run(self) -> None:
        """Look twenty times a second: only this display polls, the system under it does not."""
        self._fleet.start_service()
        self._show.say(f"a service writes orders and tasks; first {self._bulk_from} of them at ease, for the latency")
        with psycopg.connect(self._place.settings.database_url or "", autocommit=True) as connection:
            moved, before = time.monotonic(), (-1, -1)
            while True:
                self._fleet.check()
                published = self._fleet.published  # asked before the counts, so that they are complete
                orders, done, outbox, waiting = self._counts(connection)
                self._show.progress(done, f"{orders} orders, {outbox} in outbox, {waiting} retrying")
                if published and done >= orders:
                    break
                if (orders, done) != before:
                    moved, before = time.monotonic(), (orders, done)
                elif time.monotonic() - moved > _STALL_SECONDS:
                    raise DispatcherError(f"nothing moves any more at {done} of {orders} tasks")
                self._act(connection, orders)
                time.sleep(_LOOK_SECONDS if self._in_bulk else _CALM_LOOK_SECONDS)
        self._show.say(f"all {done} tasks are final", "✓")

    def _counts(self, connection: psycopg.Connection[Any]) -> tuple[int, int, int, int]:
        row = connection.execute(_PROGRESS.format(**self._names).encode()).fetchone()
        assert row is not None
        return row[0], row[1], row[2], row[3]

    def _act(self, connection: psycopg.Connection[Any], orders: int) -> None:
        """Kill what is due; afterwards let the service finish."""
        if not self._in_bulk and orders > self._bulk_from:
            self._in_bulk = True
            self._show.say("now as fast as the service can write, some transactions rolled back on purpose")
        if not self._plan:
            return
        name, at = self._plan[0]
        if orders < self._bulk_from + self._bulk * at:
            return
        late = orders >= self._bulk_from + self._bulk * _KILL_RELAY_AT
        if name.startswith("worker") and not late and self._held(connection, name) < _WORTH_KILLING:
            return
        self._kill(connection, name, orders)
        self._plan.pop(0)
        if not self._plan:
            self._fleet.let_service_finish()

    def _held(self, connection: psycopg.Connection[Any], worker: str) -> int:
        row = connection.execute(_HELD.format(**self._names).encode(), (worker,)).fetchone()
        assert row is not None
        return int(row[0])

    def _kill(self, connection: psycopg.Connection[Any], name: str, orders: int) -> None:
        pid = self._fleet.kill(name)
        if name.startswith("worker"):
            held = self._held(connection, name)
            what = f"with {held} tasks in its hands"
            fresh = self._fleet.start_worker()
        else:
            held = 0
            what = "while the service was writing"
            fresh = self._fleet.start_relay()
        self._place.note_kill(name=name, pid=pid, at_order=orders, held=held, replaced_by=fresh)
        self._show.say(f"kill -9 {name} (process {pid}) {what}; {fresh} takes its place", "✗")
