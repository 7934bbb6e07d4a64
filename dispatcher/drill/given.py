"""Servers that somebody has already: a drill has a schema, a sink and streams of its own there, and touches no other.

Its schemas bear a mark; without it they are somebody's, and the drill refuses.  The mark names the namespace of its
streams, which is a new one for each drill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg

from dispatcher.bus import Bus
from dispatcher.database import connect_sync
from dispatcher.drill.effect_tasks import SCHEMA as BANK
from dispatcher.drill.publishes import SCHEMA as NOTES
from dispatcher.drill.sink import MARK
from dispatcher.drill.sink import SCHEMA as SINK
from dispatcher.embedded.ports import HOST
from dispatcher.errors import ConfigurationError
from dispatcher.security import wants_tls
from dispatcher.settings import Settings
from state.locks import advisory_key

__all__ = ["NAME", "Ends", "ends_of", "through", "tidied"]

NAME = "dispatcher_drill"
"""Of the schema."""
_ALONE = 100
"""An advisory lock that no installation takes: one drill at a time in a database."""
_MARKS = """
SELECT n.nspname, obj_description(n.oid, 'pg_namespace') FROM pg_namespace n WHERE n.nspname = ANY (%s)
"""
Ends = tuple[tuple[str, int], tuple[str, int]]
"""Host and port of PostgreSQL and of NATS."""


def ends_of(settings: Settings) -> Ends:
    """Where the proxies have to connect.  Raises ``ConfigurationError`` for what they cannot stand in front of."""
    database, nats = urlsplit(settings.database_url or ""), urlsplit(settings.nats_url or "")
    options = dict(parse_qsl(database.query))
    if not database.hostname or "," in database.netloc or "host" in options:
        raise ConfigurationError(
            "DISPATCHER_DATABASE_URL: a drill needs the URL of one server, postgresql://user:password@host:5432/name"
        )
    if options.get("sslmode", "prefer").startswith(("require", "verify")):
        raise ConfigurationError("DISPATCHER_DATABASE_URL: a drill's proxy cannot look into TLS; use a server without")
    if wants_tls(settings):
        raise ConfigurationError("DISPATCHER_NATS_URL: a drill's proxy cannot look into TLS; use a server without")
    if not nats.hostname or "," in nats.netloc:
        raise ConfigurationError("DISPATCHER_NATS_URL: a drill needs the URL of one server, nats://host:4222")
    return (database.hostname, database.port or 5432), (nats.hostname, nats.port or 4222)


def through(url: str, port: int) -> str:
    """The same URL by way of a proxy of ours, which has to read what passes."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    query = dict(parse_qsl(parts.query))
    if parts.scheme.startswith("postgres"):
        query["sslmode"] = "disable"
    netloc = f"{login}@{HOST}:{port}" if login else f"{HOST}:{port}"
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query)))


@contextmanager
def tidied(settings: Settings, namespace: str, *, keep: bool) -> Iterator[str]:
    """An empty schema of the drill's own, which is gone afterwards with the streams of its namespace, unless ``keep``.

    Gives the versions of the servers.  Raises ``ConfigurationError`` when another drill runs there, or when a schema of
    its name was not made by a drill.
    """
    with connect_sync(settings, "drill") as connection:
        if connection.execute("SELECT pg_try_advisory_lock(%s, %s)", advisory_key(NAME, _ALONE)).fetchone() != (True,):
            raise ConfigurationError("another drill runs in this database; wait for its end")
        version = asyncio.run(_clear(settings, connection))
        connection.execute(f"CREATE SCHEMA {NAME}".encode())
        connection.execute(f"COMMENT ON SCHEMA {NAME} IS '{MARK}: {namespace}'".encode())
        [postgres] = connection.execute("SHOW server_version").fetchone() or ("",)
        try:
            yield f"PostgreSQL {postgres.split()[0]}, nats-server {version}"
        finally:
            if not keep:
                asyncio.run(_clear(settings, connection))


async def _clear(settings: Settings, connection: psycopg.Connection[Any]) -> str:
    """Delete what a drill left, the marks last; returns the broker's version."""
    marks: dict[str, str | None] = dict(connection.execute(_MARKS, ([NAME, SINK, NOTES, BANK],)).fetchall())
    for schema, mark in marks.items():
        if not (mark or "").startswith(MARK):
            raise ConfigurationError(f"there is a schema {schema} in this database that no drill made; rename it")
    namespace = (marks.get(NAME) or "").removeprefix(f"{MARK}: ")
    bus = await Bus.connect(settings, name="drill", timeout=10.0)
    try:
        found: list[str] = (await bus.api("STREAM.NAMES")).get("streams") or [] if namespace else []
        for stream in found:
            if stream.startswith(f"{namespace}-"):
                await bus.api(f"STREAM.DELETE.{stream}")
        version = bus.server_version
    finally:
        await bus.close()
    for schema in (BANK, NOTES, SINK, NAME):
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
    return version
