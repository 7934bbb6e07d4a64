"""A drill on servers that somebody has already: it touches nothing that is not its own, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dispatcher.bus import Bus
from dispatcher.drill.given import NAME, through
from dispatcher.drill.place import Plan, opened
from dispatcher.drill.sink import SCHEMA
from dispatcher.errors import ConfigurationError
from dispatcher.settings import Settings
from tests.fixtures.commands import Ran

PLAN = Plan("kill-relay", 20, 1, 1)


@pytest.fixture
def stream(settings: Settings) -> Iterator[str]:
    """Somebody's stream, with a message in it."""
    name = f"{settings.namespace}-theirs"

    async def make() -> None:
        bus = await Bus.connect(settings, name="test")
        await bus.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], "num_replicas": 1})
        await bus.store([(f"{name}.x", b"theirs", "1")], 5.0)
        await bus.close()

    async def delete() -> None:
        bus = await Bus.connect(settings, name="test")
        await bus.api(f"STREAM.DELETE.{name}")
        await bus.close()

    asyncio.run(make())
    yield name
    asyncio.run(delete())


def found(settings: Settings) -> tuple[list[str], dict[str, int]]:
    """The schemas of the database, and the streams with the number of their messages."""

    async def ask() -> dict[str, int]:
        bus = await Bus.connect(settings, name="test")
        streams = (await bus.api("STREAM.LIST")).get("streams") or []
        await bus.close()
        return {each["config"]["name"]: int(each["state"]["messages"]) for each in streams}

    with psycopg.connect(settings.database_url or "") as connection:
        schemas = [row[0] for row in connection.execute("SELECT nspname FROM pg_namespace ORDER BY 1")]
    return [name for name in schemas if not name.startswith("pg_")], asyncio.run(ask())


def test_a_drill_on_my_servers_touches_nothing_else_and_leaves_nothing(settings: Settings, stream: str) -> None:
    """The stream is deleted, sessions are ended, and a second installation in the same database notices nothing."""
    before = found(settings)
    with psycopg.connect(settings.database_url or "", application_name="dispatcher relay") as theirs:
        done = subprocess.run(
            [sys.executable, "-m", "dispatcher", "drill", "run", "terminate-sessions", "--configured", "--tasks", "30",
             "--kills", "1", "--seed", "1", "--json"],
            env={**os.environ, "DISPATCHER_DATABASE_URL": settings.database_url or "",
                 "DISPATCHER_NATS_URL": settings.nats_url or ""},
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert theirs.execute("SELECT 1").fetchone() == (1,), "a session that is not the drill's was ended"
    verdict = json.loads(done.stdout or "{}")
    assert (done.returncode, verdict.get("ok")) == (0, True), (verdict, done.stderr)
    assert verdict["kills_done"] == 1 and verdict["tasks"] >= 30 and verdict["servers"].startswith("PostgreSQL 1")
    assert found(settings) == before
    assert before[1][stream] == 1


def test_what_no_drill_made_stays(settings: Settings, stream: str) -> None:
    """A schema of the drill's name without its mark, a drill that runs, and what an earlier drill left."""
    with psycopg.connect(settings.database_url or "", autocommit=True) as connection:
        for schema in (NAME, SCHEMA):
            connection.execute(f"CREATE SCHEMA {schema}".encode())
            with pytest.raises(ConfigurationError, match=f"there is a schema {schema} in this database that no drill"):
                with opened(None, PLAN, settings):
                    pass
            connection.execute(f"DROP SCHEMA {schema}".encode())
    before = found(settings)
    with opened(None, PLAN, settings) as place:
        assert place.plan.schema == NAME
        with pytest.raises(ConfigurationError, match="another drill runs in this database"):
            with opened(None, PLAN, settings):
                pass
    assert found(settings) == before


def test_kept_and_then_cleared_by_the_next(settings: Settings, tmp_path: Path) -> None:
    before = found(settings)
    with opened(tmp_path / "kept", PLAN, settings):
        pass
    assert found(settings) != before
    with opened(None, PLAN, settings):
        pass
    assert found(settings) == before


def test_drills_that_end_servers_are_refused(cli: Callable[..., Ran]) -> None:
    said = cli("drill", "run", "kill-broker", "--configured")
    assert said.code == 2
    assert said.err == "error: kill-broker ends or damages servers; it is not done to yours: leave out --configured\n"


@pytest.mark.parametrize(
    ("database_url", "nats_url", "message"),
    [
        ("postgresql:///x?host=/run", "nats://h", "DISPATCHER_DATABASE_URL: a drill needs the URL of one server"),
        ("postgresql://a,b/x", "nats://h", "DISPATCHER_DATABASE_URL: a drill needs the URL of one server"),
        ("postgresql://h/x?sslmode=verify-full", "nats://h", "DISPATCHER_DATABASE_URL: a drill's proxy cannot look"),
        ("postgresql://h/x", "tls://h", "DISPATCHER_NATS_URL: a drill's proxy cannot look into TLS"),
        ("postgresql://h/x", "nats://h,nats://i", "DISPATCHER_NATS_URL: a drill needs the URL of one server"),
    ],
)
def test_what_a_proxy_cannot_stand_in_front_of(database_url: str, nats_url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        with opened(None, PLAN, Settings(database_url=database_url, nats_url=nats_url)):
            pass


def test_the_url_by_way_of_the_proxy() -> None:
    url = through("postgresql://me:p%40ss@db.example:5432/shop?application_name=x", 4000)
    assert url == "postgresql://me:p%40ss@127.0.0.1:4000/shop?application_name=x&sslmode=disable"
    assert through("nats://token@nats.example:4222", 4000) == "nats://token@127.0.0.1:4000"
    assert through("nats://nats.example", 4000) == "nats://127.0.0.1:4000"
