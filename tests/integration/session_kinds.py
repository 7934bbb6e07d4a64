"""Every kind of session that can enqueue, as contexts that commit at their end and roll back on an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.rows import class_row, dict_row, namedtuple_row, scalar_row
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from dispatcher import AsyncTx, SyncTx

SyncKind = Callable[[str], AbstractContextManager[SyncTx]]
AsyncKind = Callable[[str], AbstractAsyncContextManager[AsyncTx]]


def _url(database_url: str, driver: str) -> str:
    return database_url.replace("postgresql://", f"postgresql+{driver}://", 1)


def session(driver: str) -> SyncKind:
    @contextmanager
    def kind(url: str) -> Iterator[SyncTx]:
        engine = create_engine(_url(url, driver), poolclass=NullPool)
        with Session(engine) as tx, tx.begin():
            yield tx

    return kind


def scoped(driver: str) -> SyncKind:
    @contextmanager
    def kind(url: str) -> Iterator[SyncTx]:
        tx = scoped_session(sessionmaker(create_engine(_url(url, driver), poolclass=NullPool)))
        try:
            yield tx
            tx.commit()
        finally:
            tx.remove()

    return kind


def connection(driver: str, isolation: str | None = None) -> SyncKind:
    @contextmanager
    def kind(url: str) -> Iterator[SyncTx]:
        options = {} if isolation is None else {"isolation_level": isolation}
        engine = create_engine(_url(url, driver), poolclass=NullPool, **options)
        with engine.begin() as tx:
            yield tx

    return kind


def plain(**options: Any) -> SyncKind:
    @contextmanager
    def kind(url: str) -> Iterator[SyncTx]:
        with psycopg.connect(url, **options) as tx:
            yield tx

    return kind


def async_session(driver: str, **options: Any) -> AsyncKind:
    @asynccontextmanager
    async def kind(url: str) -> AsyncIterator[AsyncTx]:
        engine = create_async_engine(_url(url, driver), poolclass=NullPool, **options)
        async with AsyncSession(engine) as tx, tx.begin():
            yield tx

    return kind


def async_scoped(driver: str) -> AsyncKind:
    @asynccontextmanager
    async def kind(url: str) -> AsyncIterator[AsyncTx]:
        engine = create_async_engine(_url(url, driver), poolclass=NullPool)
        tx = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        try:
            yield tx
            await tx.commit()
        finally:
            await tx.remove()

    return kind


def async_connection(driver: str, isolation: str | None = None) -> AsyncKind:
    @asynccontextmanager
    async def kind(url: str) -> AsyncIterator[AsyncTx]:
        options = {} if isolation is None else {"isolation_level": isolation}
        engine = create_async_engine(_url(url, driver), poolclass=NullPool, **options)
        async with engine.begin() as tx:
            yield tx

    return kind


def async_plain(**options: Any) -> AsyncKind:
    @asynccontextmanager
    async def kind(url: str) -> AsyncIterator[AsyncTx]:
        tx = await psycopg.AsyncConnection.connect(url, **options)
        try:
            async with tx:
                yield tx
        finally:
            await tx.close()  # psycopg leaves it open when the commit raises

    return kind


class _Anything:
    def __init__(self, **values: Any) -> None:
        self.values = values


TRANSACTIONAL: dict[str, SyncKind] = {
    "psycopg": plain(),
    "psycopg-dicts": plain(row_factory=dict_row),
    "psycopg-scalars": plain(row_factory=scalar_row),
    "psycopg-named": plain(row_factory=namedtuple_row),
    "psycopg-class": plain(row_factory=class_row(_Anything)),
    "psycopg-client-cursor": plain(cursor_factory=psycopg.ClientCursor),
    "psycopg-raw-cursor": plain(cursor_factory=psycopg.RawCursor),
    "psycopg-never-prepared": plain(prepare_threshold=None),
    "session-psycopg": session("psycopg"),
    "session-psycopg2": session("psycopg2"),
    "scoped-psycopg": scoped("psycopg"),
    "scoped-psycopg2": scoped("psycopg2"),
    "connection-psycopg": connection("psycopg"),
    "connection-psycopg2": connection("psycopg2"),
}
AUTOCOMMIT: dict[str, SyncKind] = {
    "psycopg-autocommit": plain(autocommit=True),
    "connection-psycopg-autocommit": connection("psycopg", "AUTOCOMMIT"),
    "connection-psycopg2-autocommit": connection("psycopg2", "AUTOCOMMIT"),
}
ASYNC_TRANSACTIONAL: dict[str, AsyncKind] = {
    "async-psycopg": async_plain(),
    "async-psycopg-dicts": async_plain(row_factory=dict_row),
    "async-psycopg-raw-cursor": async_plain(cursor_factory=psycopg.AsyncRawCursor),
    "async-session-psycopg": async_session("psycopg"),
    "async-session-asyncpg": async_session("asyncpg"),
    "async-scoped-psycopg": async_scoped("psycopg"),
    "async-scoped-asyncpg": async_scoped("asyncpg"),
    "async-connection-psycopg": async_connection("psycopg"),
    "async-connection-asyncpg": async_connection("asyncpg"),
}
ASYNC_AUTOCOMMIT: dict[str, AsyncKind] = {
    "async-psycopg-autocommit": async_plain(autocommit=True),
    "async-connection-psycopg-autocommit": async_connection("psycopg", "AUTOCOMMIT"),
    "async-connection-asyncpg-autocommit": async_connection("asyncpg", "AUTOCOMMIT"),
}
# asyncpg prepares every statement: by a name that no other client of the same server session has
_UNIQUE: dict[str, Any] = {"statement_cache_size": 0, "prepared_statement_name_func": lambda: f"__{uuid4()}__"}
BEHIND_A_POOLER: dict[str, AsyncKind] = {
    **{name: kind for name, kind in (ASYNC_TRANSACTIONAL | ASYNC_AUTOCOMMIT).items() if "asyncpg" not in name},
    "async-session-asyncpg": async_session("asyncpg", connect_args=_UNIQUE),
}
"""Asynchronous ones for a pooler in transaction mode."""
