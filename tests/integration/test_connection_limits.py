"""No connection is free: relay and worker say so in one line each time, wait, go on, and nothing is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest

from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.pooler import Pooler
from tests.fixtures.servers import Servers

FULL = "too many connections for role"


@dataclass
class Limited:
    """A fleet whose processes log in by a role of their own: how many connections that has is the test's to say."""

    fleet: Fleet
    role: str

    def allow(self, number: int) -> None:
        """From now on; -1 for any number."""
        self.fleet.connection.execute(f"ALTER ROLE {self.role} CONNECTION LIMIT {number}".encode())

    def take_all(self) -> None:
        """End every connection there is, and allow no other."""
        self.allow(0)
        self.fleet.rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.role}'")


@pytest.fixture
def role(servers: Servers) -> Iterator[str]:
    """It has the rights of the role that owns the tables, and is no superuser, whom no limit binds."""
    name = f"limited_{uuid4().hex[:12]}"
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'limited' IN ROLE {admin.info.user}".encode())
        yield name
        admin.execute(f"DROP ROLE {name}".encode())


@pytest.fixture
def limited(role: str, fleet: Fleet) -> Limited:
    parts = urlsplit(fleet.settings.database_url or "")
    host = parts.netloc.rpartition("@")[2]
    fleet.configure(database_url=urlunsplit(parts._replace(netloc=f"{role}:limited@{host}")))
    return Limited(fleet, role)


def told(caplog: pytest.LogCaptureFixture, logger: str, what: str) -> bool:
    """Whether that logger has said it, and nobody anything that is more than a line."""
    lines = [record for record in caplog.records if record.name.startswith("dispatcher.")]
    assert all("\n" not in record.getMessage() for record in lines)
    return any(record.name == logger and what in record.getMessage() for record in lines)


async def test_tasks_end_when_connections_are_free_again(limited: Limited, caplog: pytest.LogCaptureFixture) -> None:
    fleet = limited.fleet
    caplog.set_level(logging.INFO, "dispatcher")
    await fleet.relay()
    await fleet.worker(slots=4)
    held = fleet.enqueue_many([apps.hold.call("go") for _ in range(8)])
    await until(lambda: len(fleet.ledger("start")) == 4)
    limited.take_all()
    fleet.open("go")
    more = fleet.enqueue_many([apps.note.call(n) for n in range(50)])
    for logger in ("dispatcher.relay", "dispatcher.settle"):
        await until(partial(told, caplog, logger, FULL), what=logger)
    assert fleet.finished() == 0
    limited.allow(-1)
    await fleet.all_finish(len(held) + len(more))
    assert {fleet.row(task)["tries"] for task in more} == {1}


async def test_who_starts_meanwhile_waits_too(limited: Limited) -> None:
    fleet = limited.fleet
    limited.allow(0)
    tasks = fleet.enqueue_many([apps.note.call(n) for n in range(5)])
    processes = [fleet.process("relay"), fleet.process("worker", "tests.fixtures.apps:app")]
    await until(lambda: all(process.output.count(FULL) > 1 for process in processes))
    for process in processes:
        assert all("no connection free" in line for line in process.output.splitlines())
    limited.allow(-1)
    await fleet.all_finish(len(tasks))


async def test_a_pooler_without_room_is_waited_for(
    pooled_fleet: Fleet, pooler: Pooler, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses clients above its number, and sends away those that waited too long for a session."""
    fleet = pooled_fleet
    pooler.kill()
    pooler.start(max_client_conn="40", query_wait_timeout="1")
    caplog.set_level(logging.INFO, "dispatcher")
    await fleet.relay()
    await fleet.worker(slots=4)
    held = fleet.enqueue_many([apps.hold.call("go") for _ in range(8)])
    await until(lambda: len(fleet.ledger("start")) == 4)
    await asyncio.to_thread(pooler.tell, "PAUSE")
    fleet.open("go")
    await until(lambda: told(caplog, "dispatcher.settle", "query_wait_timeout"))
    await asyncio.to_thread(pooler.tell, "SET max_client_conn = 1")
    await until(lambda: told(caplog, "dispatcher.settle", "no more connections allowed"))
    assert fleet.finished() == 0
    await asyncio.to_thread(pooler.tell, "SET max_client_conn = 40")
    await asyncio.to_thread(pooler.tell, "RESUME")
    await fleet.all_finish(len(held))
