"""A whole system for one measurement: relay and workers as processes, and a connection that watches the tables."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from itertools import pairwise
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from dispatcher.bench import facts
from dispatcher.bench.cpu import Meter
from dispatcher.bench.errors import BenchError
from dispatcher.bench.ground import Ground
from dispatcher.bench.processes import Child, environment, start
from dispatcher.bench.tasks import app, count, noop, step
from dispatcher.bus import Bus
from dispatcher.call import Call
from dispatcher.compose import group
from dispatcher.database import connect
from dispatcher.errors import BusError
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects
from state.ids import new_id
from state.sql import Sql

__all__ = ["Pipeline", "open_pipeline"]

_DONE = Sql("SELECT CAST(coalesce(sum(n), 0) AS bigint), clock_timestamp() FROM {s}.task_counts WHERE state = 6")
_LEFT = Sql(
    "SELECT (SELECT count(*) FROM {s}.outbox), (SELECT coalesce(sum(n), 0) FROM {s}.task_counts WHERE state <> 6)"
)
_PROOF = Sql(
    "SELECT count(*), count(*) FILTER (WHERE state = 6), (SELECT count(*) FROM {s}.task_events WHERE task_id > :since)"
    " FROM {s}.tasks WHERE id > :since"
)
_LAST_BATCH = Sql("SELECT coalesce(max(batch), 0) FROM {s}.dispatch_log")
_FIRST_DELETE = Sql("SELECT min(published_at) FROM {s}.dispatch_log WHERE batch > :batch")
_STARTS = Sql(
    "SELECT t.started_at FROM {s}.flow_nodes n JOIN {s}.tasks t ON t.id = n.node_id"
    " WHERE n.flow_id = CAST(:flow AS uuid) ORDER BY n.pos"
)
_STALL_SECONDS = 30.0
_EVENTS_PER_TASK = 3
_CHUNK = 1000


class Pipeline:
    """``relay`` and ``workers`` run; ``facts`` is what the figures were made on."""

    def __init__(self, ground: Ground, connection: psycopg.AsyncConnection[TupleRow], bus: Bus) -> None:
        self.ground, self.settings, self._connection, self.bus = ground, ground.settings, connection, bus
        self._subjects = Subjects(self.settings.namespace)
        self.relay: Child | None = None
        self.workers: list[Child] = []
        self.facts: dict[str, Any] = {}
        self._since = new_id()

    async def run(self, sql: Sql, params: dict[str, Any] | None = None) -> psycopg.AsyncCursor[TupleRow]:
        """Run a statement on the watching connection."""
        return await self._connection.execute(sql.psycopg(self.settings.db_schema).encode(), params)

    async def query(self, sql: Sql, params: dict[str, Any] | None = None) -> TupleRow:
        """The only row of a statement."""
        row = await (await self.run(sql, params)).fetchone()
        assert row is not None
        return row

    async def read_facts(self) -> None:
        """Check durability and note what the figures are made on.  Raises ``BenchError`` when it is switched off."""
        self.facts = {
            **await facts.durability(self._connection),
            "versions": await facts.versions(self._connection, self.bus.server_version),
            "settings": await facts.server_settings(self._connection) | {"embedded": self.ground.embedded},
            "machine": facts.machine(),
        }

    async def start_processes(self, workers: int, concurrency: int, logins: Sequence[Settings] | None = None) -> None:
        """Start a relay and the workers, each kind with its own login when two are given, and wait for all of them."""
        of_relay, of_worker = logins or (self.settings, self.settings)
        await self.start_relay(of_relay)
        for _ in range(workers):
            await self.start_worker(concurrency, of_worker)
        await self.until_present()

    async def start_relay(self, login: Settings | None = None) -> None:
        """Start a relay; nobody waits until it leads."""
        variables = environment(login or self.settings, self.ground)
        self.relay = await start(self.ground, "relay", variables, "dispatcher", "relay")

    async def stop_relay(self) -> None:
        """Let the relay leave in order."""
        relay, self.relay = self.relay, None
        if relay:
            await relay.stop()

    async def start_worker(
        self,
        concurrency: int,
        login: Settings | None = None,
        *arguments: str,
        app: str = "dispatcher.bench.tasks:app",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start one more worker; ``variables`` go on top of its environment."""
        given = environment(login or self.settings, self.ground) | dict(variables or {})
        place = ("dispatcher", "worker", app, "-c", str(concurrency), *arguments)
        self.workers.append(await start(self.ground, f"worker {len(self.workers) + 1}", given, *place))

    async def until_present(self) -> None:
        """All workers receive.  Raises ``BenchError`` when that takes too long."""
        deadline = time.monotonic() + _STALL_SECONDS
        while await self._present() < len(self.workers):
            self.check()
            if time.monotonic() > deadline:
                raise BenchError(
                    f"not all of the {len(self.workers)} workers answered; {self.workers[-1].last_words()}"
                )

    async def _present(self) -> int:
        answers = await self.bus.request_many(self._subjects.workers, wait=0.2)
        return len({json.loads(answer)["boot_id"] for answer in answers})

    @asynccontextmanager
    async def producer(self, kind: str, first: float, second: float) -> AsyncIterator[Child]:
        """A producer of ``dispatcher.bench.produce`` that waits for the word to go; it is ended with the context."""
        numbers = (str(first), str(second))
        variables = environment(self.settings, self.ground)
        child = await start(self.ground, f"producer {kind}", variables, "dispatcher.bench.produce", kind, *numbers)
        try:
            await child.hear(_STALL_SECONDS * 2)
            yield child
        finally:
            await child.stop()

    def check(self) -> None:
        """Raise ``BenchError`` when one of the processes ended."""
        for child in [*self.workers, *([self.relay] if self.relay else [])]:
            child.check()

    def meter(self) -> Meter:
        """CPU of the components; a server that we did not start has none to tell."""
        return Meter(
            {
                "postgres": [self.ground.postgres_pid],
                "nats": [self.ground.nats_pid],
                "relay": [self.relay.pid if self.relay else None],
                "worker": [worker.pid for worker in self.workers],
            }
        )

    async def create(self, tasks: int, call: Callable[[int], Call[Any]] = noop.call) -> int:
        """Create a backlog through the public API, from this process.  No task follows it: 0."""
        url = self.settings.database_url
        assert url is not None
        app.configure(self.settings)
        async with await psycopg.AsyncConnection.connect(url) as connection:
            for begin in range(0, tasks, _CHUNK):
                calls = [call(number) for number in range(begin, min(tasks, begin + _CHUNK))]
                await app.enqueue_many(connection, calls)
                await connection.commit()
        return 0

    async def create_group(self, tasks: int) -> int:
        """Create a group of so many tasks, and one that takes their results, in one transaction."""
        url = self.settings.database_url
        assert url is not None
        app.configure(self.settings)
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await group(noop.call(number) for number in range(tasks)).then(count).enqueue(connection)
        return 1

    async def run_chain(self, length: int) -> list[float]:
        """Run a chain and return the milliseconds from each start to the next."""
        url = self.settings.database_url
        assert url is not None
        app.configure(self.settings)
        chain = step.call(0).then(step)
        for _ in range(length - 2):
            chain = chain.then(step)
        async with await psycopg.AsyncConnection.connect(url) as connection:
            task = await chain.enqueue(connection)
            await connection.commit()
            await task.wait(length)
            rows = await connection.execute(_STARTS.psycopg(self.settings.db_schema).encode(), {"flow": task.id})
            starts = [at async for (at,) in rows]
        await app.close()
        return [(after - before).total_seconds() * 1000 for before, after in pairwise(starts)]

    async def done(self) -> tuple[int, datetime, int]:
        """Tasks that succeeded so far, and when that was true: by the database's clock and by this machine's."""
        done, at = await self.query(_DONE)
        return int(done), at, time.monotonic_ns()

    async def until_done(self, target: int) -> tuple[datetime, int]:
        """When so many tasks had succeeded, as another connection saw it: after the last settle's commit."""
        begun = moved = time.monotonic()
        last = first = (await self.done())[0]
        while True:
            done, at, now_ns = await self.done()
            if done >= target:
                return at, now_ns
            now = now_ns / 1e9
            if done != last:
                last, moved = done, now
            elif now - moved > _STALL_SECONDS:
                raise BenchError(f"nothing moved for {_STALL_SECONDS:g} s, {target - done} tasks left")
            self.check()
            rate = (done - first) / max(now - begun, 1e-6)
            # few looks while much is left, so that watching costs nothing; close ones at the end
            await asyncio.sleep(min(0.25, max(0.003, (target - done) / rate / 2)) if rate else 0.02)

    async def until_calm(self) -> None:
        """Outbox empty, nothing queued or running, stream empty."""
        deadline = time.monotonic() + _STALL_SECONDS
        while any(await self.query(_LEFT)) or await self.in_stream():
            self.check()
            if time.monotonic() > deadline:
                raise BenchError(f"the system did not become calm within {_STALL_SECONDS:g} s")
            await asyncio.sleep(0.02)

    async def in_stream(self) -> int:
        """Messages that the streams of this namespace hold."""
        answer = await self.bus.api("STREAM.LIST", {"subject": f"{self.settings.namespace}.tasks.>"})
        return sum(stream["state"]["messages"] for stream in answer.get("streams") or [])

    async def waiting(self) -> int:
        """Rows of the outbox."""
        return int((await self.query(_LEFT))[0])

    async def last_batch(self) -> int:
        """The number of the relay's last batch."""
        return int((await self.query(_LAST_BATCH))[0])

    async def first_delete(self, after_batch: int) -> datetime:
        """When the transaction of the relay's first delete after that batch began; waits until it is committed.

        Asked at once: the log is trimmed after ten seconds.
        """
        deadline = time.monotonic() + _STALL_SECONDS
        while True:
            (at,) = await self.query(_FIRST_DELETE, {"batch": after_batch})
            if isinstance(at, datetime):
                return at
            self.check()
            if time.monotonic() > deadline:
                raise BenchError(f"the relay published nothing for {_STALL_SECONDS:g} s: {self._relay_words()}")
            await asyncio.sleep(0.005)

    def _relay_words(self) -> str:
        return self.relay.last_words() if self.relay else "there is none"

    async def prove(self) -> None:
        """Raise ``BenchError`` unless every task since the start has succeeded and has all its events."""
        tasks, succeeded, events = await self.query(_PROOF, {"since": self._since})
        if succeeded != tasks or events < _EVENTS_PER_TASK * tasks:
            raise BenchError(f"of {tasks} tasks {succeeded} succeeded, with {events} events: the figures would lie")

    async def tidy(self) -> None:
        """What autovacuum would do within a minute, done between the rounds so that it does not fall into one."""
        for table in ("tasks", "task_events", "outbox", "task_counts", "claims", "dispatch_log"):
            await self.run(Sql(f"VACUUM (ANALYZE) {{s}}.{table}"))

    async def stop(self) -> None:
        """End the workers, then the relay, and remove the streams from a server that is not ours."""
        await asyncio.gather(*(worker.stop() for worker in self.workers))
        if self.relay:
            await self.relay.stop()
        if self.ground.embedded:
            return  # thrown away as a whole
        with suppress(BusError):
            found = await self.bus.api("STREAM.NAMES", {"subject": f"{self.settings.namespace}.>"})
            for name in found.get("streams") or []:
                await self.bus.api(f"STREAM.DELETE.{name}")


@asynccontextmanager
async def open_pipeline(ground: Ground) -> AsyncIterator[Pipeline]:
    """Connect, check the server's settings, and clean up at the end; processes are started by the caller."""
    # a connection made like those of relay and worker: it tells the settings that they have
    connection = await connect(ground.settings, "dispatcher bench")
    try:
        bus = await Bus.connect(ground.settings, name="dispatcher bench", timeout=10)
        pipeline = Pipeline(ground, connection, bus)
        try:
            await pipeline.read_facts()
            yield pipeline
        finally:
            await pipeline.stop()
            await bus.close()
    finally:
        await connection.close()
