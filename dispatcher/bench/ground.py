"""Where a measurement takes place: embedded servers that are thrown away, or given ones with a schema of our own."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from dispatcher.bench.errors import BenchError
from dispatcher.settings import Settings
from state.migrate import upgrade

__all__ = ["Ground", "beside", "stand_on"]

_POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}


@dataclass(frozen=True)
class Ground:
    """Servers, and a schema and a namespace that nobody else uses."""

    settings: Settings
    folder: Path
    """For logs and notes of the processes; thrown away at the end."""
    postgres_pid: int | None
    nats_pid: int | None
    embedded: bool

    def with_settings(self, **changes: Any) -> Ground:
        """The same with other settings for the processes that are started."""
        return replace(self, settings=self.settings.model_copy(update=changes))


@contextmanager
def stand_on(settings: Settings) -> Iterator[Ground]:
    """The servers that ``settings`` name, or embedded ones if it names none.  Raises ``BenchError``."""
    if bool(settings.database_url) != bool(settings.nats_url):
        raise BenchError("give both DISPATCHER_DATABASE_URL and DISPATCHER_NATS_URL, or neither for embedded servers")
    with tempfile.TemporaryDirectory(prefix="dispatcher-bench-", ignore_cleanup_errors=True) as folder:
        if settings.database_url:
            with _given(settings, Path(folder)) as ground:
                yield ground
        else:
            with _embedded(settings, Path(folder)) as ground:
                yield ground


@contextmanager
def _embedded(settings: Settings, folder: Path) -> Iterator[Ground]:
    from dispatcher.embedded import EmbeddedServers

    with EmbeddedServers(postgres_settings=_POSTGRES, keep=False) as servers:
        ours = settings.model_copy(
            update={"database_url": servers.database_url, "nats_url": servers.nats_url, "streams_conf": None}
        )
        upgrade(servers.database_url, ours.db_schema)
        yield Ground(ours, folder, servers.postgres_pid, servers.nats_pid, embedded=True)


@contextmanager
def _given(settings: Settings, folder: Path) -> Iterator[Ground]:
    """Not the schema and subjects that a service uses: its tasks must neither wait for us nor run in our worker."""
    ours = settings.model_copy(update={"streams_conf": None})
    with beside(Ground(ours, folder, None, None, embedded=False)) as ground:
        yield ground


@contextmanager
def beside(ground: Ground) -> Iterator[Ground]:
    """The same servers with another schema and namespace, both made for it and removed at the end."""
    name = f"dispatcher_bench_{secrets.token_hex(4)}"
    ours = ground.settings.model_copy(update={"db_schema": name, "namespace": name})
    assert ours.database_url is not None
    folder = ground.folder / name
    folder.mkdir()
    upgrade(ours.database_url, name)
    try:
        yield replace(ground, settings=ours, folder=folder)
    finally:
        if not ground.embedded:  # embedded servers are thrown away as a whole
            with psycopg.connect(ours.database_url, autocommit=True) as connection:
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))
