"""One system on the servers: a database of its own, its processes, and the questions that a round asks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from benchmarks.peers import tally
from benchmarks.peers.peer import DATABASE_URL, NATS_URL
from benchmarks.peers.processes import Producer, Workers
from dispatcher.bench.cpu import Meter
from dispatcher.bench.errors import BenchError
from dispatcher.bench.rounds import cpu_per_task
from dispatcher.embedded import EmbeddedServers

__all__ = ["Stage", "python_of", "stage"]

ROOT = Path(__file__).resolve().parents[2]
_STALL_SECONDS = 40.0
_LOOK_SECONDS = 0.004
_SETTLE_SECONDS = 0.3
_STATEMENTS = """
SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = %s)
"""


class Stage:
    """``about`` is what the system says of itself; ``created`` counts all tasks that it was given."""

    def __init__(
        self, servers: EmbeddedServers, database: str, producer: Producer, workers: Workers, folder: Path
    ) -> None:
        self._servers, self._database, self.folder = servers, database, folder
        self.producer, self.workers = producer, workers
        self.about = producer.ask("about")
        self.created = 0
        self.deadline = time.monotonic() + _STALL_SECONDS
        """When the system's time is over, in monotonic seconds; set by whoever measures."""
        producer.ask("setup")
        self._own = psycopg.connect(_with_database(servers.database_url, database), autocommit=True)
        self._admin = psycopg.connect(servers.database_url, autocommit=True)
        self._admin.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def start(self, workers: int) -> None:
        """Have so many workers, and whatever else the system needs beside them."""
        self.workers.grow(self.about["commands"][str(workers)])

    def shrink(self, workers: int) -> None:
        """Have no more than so many workers."""
        self.workers.shrink(len(self.about["commands"][str(workers)]))

    def meter(self) -> Meter:
        """CPU of the servers and the workers; producers tell their own."""
        servers = self._servers
        return Meter(
            {"postgres": [servers.postgres_pid], "nats": [servers.nats_pid], "workers": list(self.workers.pids)}
        )

    def spent(self, meter: Meter, tasks: int, seconds: float, producer: float = 0.0) -> dict[str, Any]:
        """CPU per task by component, and what strangers used meanwhile."""
        return cpu_per_task(meter.stop() | {"producer": producer}, tasks, seconds)

    def give(self, do: str, tasks: int, **request: Any) -> dict[str, Any]:
        """Have tasks created."""
        answer = self.producer.ask(do, self.deadline, tasks=tasks, **request)
        self.created += tasks
        return answer

    def left(self) -> int:
        """Tasks that the system has not recorded as finished."""
        row = self._own.execute(self.about["left"], {"total": self.created}).fetchone()
        assert row is not None
        return int(row[0])

    def runs(self) -> int:
        """Handlers that were run."""
        return tally.runs(self.folder)

    def until_run(self, target: int) -> int:
        """The moment when so many handlers had been run.  Raises ``BenchError`` when nothing moves."""
        last, moved = -1, time.monotonic()
        while (done := self.runs()) < target:
            if done != last:
                last, moved = done, time.monotonic()
            elif time.monotonic() - moved > _STALL_SECONDS:
                raise BenchError(f"nothing moved for {_STALL_SECONDS:g} s: {done} handlers run of {target}")
            self._check(f"{done} handlers run of {target}")
            time.sleep(_LOOK_SECONDS)
        return time.monotonic_ns()

    def _check(self, where: str) -> None:
        self.workers.check()
        if time.monotonic() > self.deadline:
            raise BenchError(f"its time was over: {where}")

    def until_done(self) -> int:
        """The moment when all tasks were run and recorded as finished."""
        self.until_run(self.created)
        deadline = time.monotonic() + _STALL_SECONDS
        while left := self.left():
            if time.monotonic() > deadline:
                raise BenchError(f"all handlers were run, but {left} tasks are not recorded as finished")
            self._check(f"{left} tasks not recorded as finished")
            time.sleep(_LOOK_SECONDS)
        return time.monotonic_ns()

    def prove(self) -> None:
        """Raise ``BenchError`` unless there were exactly as many runs as tasks."""
        time.sleep(_SETTLE_SECONDS)
        if (runs := self.runs()) != self.created:
            raise BenchError(f"{self.created} tasks, but {runs} runs")

    def tidy(self) -> None:
        """What autovacuum would do within a minute, for everybody and outside of the rounds."""
        self._own.execute("VACUUM (ANALYZE)")

    def statements(self) -> int:
        """Statements that the server has executed in this system's database, transaction commands included."""
        row = self._admin.execute(_STATEMENTS, (self._database,)).fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        """Disconnect the observers."""
        self._own.close()
        self._admin.close()


def _with_database(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def _variables(servers: EmbeddedServers, url: str, folder: Path) -> Mapping[str, str]:
    foreign = {name: value for name, value in os.environ.items() if not name.startswith(("DISPATCHER_", "PG"))}
    return foreign | {
        DATABASE_URL: url,
        NATS_URL: servers.nats_url,
        tally.FOLDER: str(folder),
        "DISPATCHER_DATABASE_URL": url,
        "DISPATCHER_NATS_URL": servers.nats_url,
        "PGQUEUER_DSN": url,
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def stage(servers: EmbeddedServers, system: str, python: Path, folder: Path) -> Iterator[Stage]:
    """Build it in an empty database, on an empty broker, and take everything away afterwards."""
    servers.restart_nats(wipe=True)  # a stream would bring the rest of the deep backlog along
    database = sql.Identifier(name := f"peer_{system}")
    folder.mkdir()
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(database))
        variables = _variables(servers, _with_database(servers.database_url, name), folder)
        workers = Workers(python, variables, folder)
        producer = Producer(python, system, variables, folder)
        try:
            built = Stage(servers, name, producer, workers, folder)
            try:
                yield built
            finally:
                built.close()
        finally:
            workers.stop()
            producer.stop()
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


def python_of(system: str, peers: Path) -> Path:
    """The interpreter that has the system."""
    return Path(sys.executable) if system == "ours" else peers
