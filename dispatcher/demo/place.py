"""The folder of one demonstration: its plan, its files, its ledgers, and the servers it runs on.

demo.json      what was asked for, and the names of schemas and subjects
files/ out/    what the tasks read and write
ledger/        one append-only file per process
kills.jsonl    who was killed when
logs/          what the processes said
servers/       data of PostgreSQL and NATS, unless servers were configured
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from dispatcher.embedded import EmbeddedServers
from dispatcher.errors import ConfigurationError
from dispatcher.settings import Settings

__all__ = ["LEASE", "Place", "Plan", "opened", "reopened"]

LEASE = timedelta(seconds=3)
_STREAMS_CONF = """# the demo's: messages of a killed worker come back after 3 s instead of 15
[defaults]
ack_wait = "3s"
"""


@dataclass(frozen=True)
class Plan:
    """What a demonstration is to do; kept so that it can be verified later."""

    tasks: int
    seed: int
    db_schema: str
    namespace: str
    shop: str
    """PostgreSQL schema of the application's own tables."""
    configured_servers: bool


@dataclass(frozen=True)
class Place:
    """An open demonstration."""

    root: Path
    plan: Plan
    settings: Settings
    servers: str
    """Their versions, for people."""

    def folder(self, name: str) -> Path:
        """A subfolder, made when missing."""
        path = self.root / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def note_kill(self, **about: Any) -> None:
        """Remember a kill that certainly happened."""
        with (self.root / "kills.jsonl").open("a") as file:
            file.write(json.dumps(about) + "\n")

    def kills(self) -> list[dict[str, Any]]:
        """Every kill, in order."""
        try:
            return [json.loads(line) for line in (self.root / "kills.jsonl").read_text().splitlines()]
        except FileNotFoundError:
            return []


@contextmanager
def opened(keep: Path | None, tasks: int, seed: int | None) -> Iterator[Place]:
    """A new demonstration in ``keep``, or in a folder that is deleted afterwards; its servers run meanwhile."""
    configured = _configured()
    name = "dispatcher" if configured is None else f"demo_{secrets.token_hex(4)}"
    plan = Plan(
        tasks=tasks,
        seed=secrets.randbelow(1 << 31) if seed is None else seed,
        db_schema=name,
        namespace=name,
        shop="shop" if configured is None else f"{name}_shop",
        configured_servers=configured is not None,
    )
    with _folder_and_servers(keep, configured) as (root, database_url, nats_url, servers):
        (root / "demo.json").write_text(json.dumps(asdict(plan), indent=1) + "\n")
        (root / "streams.conf").write_text(_STREAMS_CONF)
        place = Place(root, plan, _settings(root, plan, database_url, nats_url), servers)
        try:
            yield place
        finally:
            if configured is not None and keep is None:
                _forget(place)


@contextmanager
def reopened(root: Path) -> Iterator[Place]:
    """A kept demonstration, with its servers started again.  Raises ``ConfigurationError`` when there is none."""
    try:
        plan = Plan(**json.loads((root / "demo.json").read_text()))
    except FileNotFoundError:
        raise ConfigurationError(f"{root} holds no demo; make one with: dispatcher demo --keep {root}") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{root / 'demo.json'} cannot be read: {error}") from None
    configured = _configured()
    if plan.configured_servers and configured is None:
        raise ConfigurationError(
            "this demo ran on configured servers; set DISPATCHER_DATABASE_URL and DISPATCHER_NATS_URL as they were"
        )
    if plan.configured_servers and configured is not None:
        yield Place(root, plan, _settings(root, plan, *configured), "configured servers")
        return
    with EmbeddedServers(root / "servers") as servers:
        yield Place(root, plan, _settings(root, plan, servers.database_url, servers.nats_url), _versions(servers))


@contextmanager
def _folder_and_servers(keep: Path | None, configured: tuple[str, str] | None) -> Iterator[tuple[Path, str, str, str]]:
    if keep is not None:
        _claim(keep)
    if configured is not None:
        root = keep or Path(tempfile.mkdtemp(prefix="dispatcher-demo-"))
        try:
            yield root, *configured, "the configured servers"
        finally:
            if keep is None:
                shutil.rmtree(root, ignore_errors=True)
        return
    # without --keep everything lies in the servers' temporary folder, which goes even when we are killed
    with EmbeddedServers(keep / "servers" if keep else None, keep=keep is not None) as servers:
        assert servers.data_dir is not None
        root = keep or servers.data_dir / "demo"
        root.mkdir(mode=0o700, exist_ok=True)
        yield root, servers.database_url, servers.nats_url, _versions(servers)


def _claim(keep: Path) -> None:
    try:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = next(keep.iterdir(), None)
    except OSError as error:
        raise ConfigurationError(f"--keep {keep}: {error.strerror}") from None
    if taken is not None:
        cure = f"look at it with: dispatcher demo verify {keep}" if (keep / "demo.json").exists() else "name a new one"
        raise ConfigurationError(f"--keep {keep}: the folder is not empty; {cure}")


def _configured() -> tuple[str, str] | None:
    given = Settings().direct()
    if bool(given.database_url) != bool(given.nats_url):
        raise ConfigurationError("set DISPATCHER_DATABASE_URL and DISPATCHER_NATS_URL both, or none for own servers")
    return (given.database_url, given.nats_url) if given.database_url and given.nats_url else None


def _settings(root: Path, plan: Plan, database_url: str, nats_url: str) -> Settings:
    return Settings(
        database_url=database_url,
        nats_url=nats_url,
        db_schema=plan.db_schema,
        namespace=plan.namespace,
        streams_conf=root / "streams.conf",
        lease=LEASE,
        grace=timedelta(seconds=10),
    )


def _versions(servers: EmbeddedServers) -> str:
    return f"PostgreSQL {servers.postgres_version}, nats-server {servers.nats_version}, {os.cpu_count()} cores"


def _forget(place: Place) -> None:
    """Leave nothing on servers that are not ours."""
    import asyncio

    import psycopg

    from dispatcher.bus import Bus
    from dispatcher.subjects import Subjects

    async def delete_streams() -> None:
        bus = await Bus.connect(place.settings, name="dispatcher demo", timeout=5.0)
        try:
            await bus.api(f"STREAM.DELETE.{Subjects(place.plan.namespace).stream_name('TASKS')}")
        finally:
            await bus.close()

    with psycopg.connect(place.settings.database_url or "", autocommit=True) as connection:
        for schema in (place.plan.db_schema, place.plan.shop):
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
    asyncio.run(delete_streams())
