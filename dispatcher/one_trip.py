"""Several statements in one round trip: libpq's pipeline, driven by hand.

Between two processes that both rest, a round trip costs 0.4 ms on a small virtual machine, most of it to be woken up.
psycopg's own pipeline mode costs its client more than that saves, because it serves any number of cursors; this serves
statements of our own, and two take as long as one (measured: docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

from state.sql import Sql

__all__ = ["BlockingTrip", "OneTrip"]


class _Trip:
    """What both kinds share."""

    def __init__(self, connection: psycopg.BaseConnection[Any], schema: str, *, prepare: bool) -> None:
        self._adapting, self._pgconn, self._schema = connection, connection.pgconn, schema
        self._send = self._send_prepared if prepare else self._send_unnamed
        self._prepared: dict[Sql, tuple[bytes, tuple[str, ...]]] = {}
        self._made = 0

    def _send_all(self, statements: Iterable[tuple[Sql, Mapping[str, Any]]]) -> None:
        for sql, params in statements:
            self._send(sql, params)
        self._pgconn.pipeline_sync()

    def _rows(self, results: list[PGresult]) -> list[TupleRow]:
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
        transformer = Transformer(self._adapting)
        transformer.set_pgresult(results[-1])
        return transformer.load_rows(0, results[-1].ntuples, tuple)

    def _send_prepared(self, sql: Sql, params: Mapping[str, Any]) -> None:
        if sql not in self._prepared:
            text, names = sql.numbered(self._schema)
            self._made += 1  # a name of its own each time: after an error nobody knows which of them the server has
            self._prepared[sql] = f"one_trip_{self._made}".encode(), names
            self._pgconn.send_prepare(self._prepared[sql][0], text.encode())
        name, names = self._prepared[sql]
        values = Transformer(self._adapting).dump_sequence([params[n] for n in names], [PyFormat.TEXT] * len(names))
        self._pgconn.send_query_prepared(name, values, result_format=1)

    def _send_unnamed(self, sql: Sql, params: Mapping[str, Any]) -> None:
        """As psycopg sends ``Sql.psycopg`` with ``prepare=False``."""
        text, names = sql.numbered(self._schema)
        made = Transformer(self._adapting)
        values = made.dump_sequence([params[n] for n in names], [PyFormat.BINARY] * len(names))
        self._pgconn.send_query_params(text.encode(), values, made.types, made.formats, result_format=1)

    def _leave(self) -> None:
        try:
            self._pgconn.exit_pipeline_mode()
        except psycopg.OperationalError:
            self._pgconn.finish()  # what is still to come would be taken for the answer to something else


class OneTrip(_Trip):
    """Belongs to one connection, on which nothing else may run meanwhile.

    With ``prepare`` each statement is prepared under a name and parameters travel as text; without it nothing is left
    in the server's session.  Statements that begin no transaction are one, which is committed, or after an error rolled
    back, at the end of the trip.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], schema: str, *, prepare: bool = True) -> None:
        super().__init__(connection, schema, prepare=prepare)
        self._connection = connection

    async def run(self, *statements: tuple[Sql, Mapping[str, Any]]) -> list[TupleRow]:
        """Send all, and return the rows of the last.

        Raises what the first one that failed raises; the server skips those behind it.
        """
        self._pgconn.enter_pipeline_mode()
        try:
            self._send_all(statements)
            return self._rows(await self._connection.wait(_results(self._pgconn)))
        except BaseException:
            self._prepared.clear()  # what was skipped was not prepared either
            raise
        finally:
            self._leave()


class BlockingTrip(_Trip):
    """The same for a thread of its own; nothing is prepared."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        super().__init__(connection, schema, prepare=False)
        self._connection = connection

    def run(self, *statements: tuple[Sql, Mapping[str, Any]]) -> list[TupleRow]:
        """Send all, and return the rows of the last.  Raises as ``OneTrip.run`` does."""
        self._pgconn.enter_pipeline_mode()
        try:
            self._send_all(statements)
            return self._rows(self._connection.wait(_results(self._pgconn)))
        finally:
            self._leave()


def _results(pgconn: PGconn) -> Generator[Wait, Ready | int, list[PGresult]]:
    """Everything up to the end of the trip, in the form psycopg's ``wait`` can wait for."""
    results: list[PGresult] = []
    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            _consume(pgconn, results)
    while True:
        while pgconn.is_busy():
            yield Wait.R
            _consume(pgconn, results)
        result = pgconn.get_result()
        if result is None:
            if pgconn.status == ConnStatus.BAD:
                raise psycopg.OperationalError(pgconn.get_error_message())
        elif result.status == ExecStatus.PIPELINE_SYNC:
            return results
        else:
            results.append(result)


def _consume(pgconn: PGconn, results: list[PGresult]) -> None:
    """Read; when the connection has ended, raise what was said before, which tells more than that it ended."""
    try:
        pgconn.consume_input()
    except psycopg.OperationalError:
        for result in results:
            if result.error_field(DiagnosticField.SQLSTATE):
                raise psycopg.errors.error_from_result(result) from None
        raise
