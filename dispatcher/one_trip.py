"""Statements of our own in one round trip: libpq driven by hand, with one reader on its socket for good.

Between two processes that both rest, a round trip costs 0.4 ms on a small virtual machine, most of it to be woken up;
two statements in one trip take as long as one.  psycopg's cursors serve any statement and any number of readers, and
register with the event loop anew for each wait; this serves statements that come again and again, one trip at a time:
0.74 against 1.05 ms and 530 against 840 µs of CPU a trip (measured: docs/decisions.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Mapping
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

from state.sql import Sql

__all__ = ["BlockingTrip", "OneTrip", "Statement"]

Statement = tuple[Sql, Mapping[str, Any]]
_CANCEL_SECONDS = 5.0
_LOOK_SECONDS = 0.5


class _Trip:
    """What both kinds share."""

    def __init__(self, connection: psycopg.BaseConnection[Any], schema: str, *, prepare: bool) -> None:
        self._pgconn, self._schema, self._prepare = connection.pgconn, schema, prepare
        self._transformer = Transformer(connection)
        self._prepared: dict[tuple[Sql, tuple[int, ...]], bytes] = {}
        self._made = 0

    def _send(self, sql: Sql, params: Mapping[str, Any]) -> None:
        text, names = sql.numbered(self._schema)
        values = self._transformer.dump_sequence([params[n] for n in names], [PyFormat.BINARY] * len(names))
        types, formats = self._transformer.types, self._transformer.formats
        if not self._prepare:
            self._pgconn.send_query_params(text.encode(), values, types, formats, result_format=1)
            return
        key = sql, tuple(types or ())
        name = self._prepared.get(key)
        if name is None:
            self._made += 1  # a name of its own each time: after an error nobody knows which of them the server has
            name = self._prepared[key] = f"trip_{self._made}".encode()
            self._pgconn.send_prepare(name, text.encode(), types)
        self._pgconn.send_query_prepared(name, values, formats, result_format=1)

    def _rows(self, results: list[PGresult]) -> list[TupleRow]:
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
        self._transformer.set_pgresult(results[-1])
        rows = self._transformer.load_rows(0, results[-1].ntuples, tuple)
        self._transformer.set_pgresult(None)  # or it would be kept until the next trip
        return rows

    def _send_all(self, statements: Iterable[Statement]) -> None:
        for sql, params in statements:
            self._send(sql, params)
        self._pgconn.pipeline_sync()

    def _leave(self) -> None:
        try:
            self._pgconn.exit_pipeline_mode()
        except psycopg.OperationalError:
            self.close()
            self._pgconn.finish()  # what is still to come would be taken for the answer to something else

    def close(self) -> None:
        """Before the connection is closed."""


class OneTrip(_Trip):
    """Belongs to one connection, on which nothing else may run: its reader would take the answers.

    With ``prepare`` each statement is prepared under a name; without it nothing is left in the server's session.
    Statements that begin no transaction are one, which is committed, or after an error rolled back, at the end of the
    trip.  Call :meth:`close` before the connection is closed.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], schema: str, *, prepare: bool = True) -> None:
        super().__init__(connection, schema, prepare=prepare)
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._socket = connection.pgconn.socket
        self._reading = self._writing = False
        self._answer: asyncio.Future[None] | None = None
        self._again: asyncio.TimerHandle
        self._lost: psycopg.OperationalError | None = None
        self._within = False
        self.loss: psycopg.OperationalError | None = None
        """Why the connection ended in the middle of a transaction, while nothing was asked."""

    async def run(self, *statements: Statement) -> list[TupleRow]:
        """Send all, and return the rows of the last.

        Raises what the first one that failed raises; the server skips those behind it.
        """
        self._read()
        self._pgconn.enter_pipeline_mode()
        try:
            self._send_all(statements)
            return self._rows(await self._results())
        except asyncio.CancelledError:
            await self._stop_statements()
            self._prepared.clear()
            raise
        except BaseException:
            self._prepared.clear()  # what was skipped was not prepared either
            raise
        finally:
            self._within = self._pgconn.transaction_status != TransactionStatus.IDLE
            if self._pgconn.status == ConnStatus.BAD:
                self.close()
            self._leave()

    async def _results(self) -> list[PGresult]:
        """Everything up to the end of the trip."""
        results: list[PGresult] = []
        pgconn = self._pgconn
        while pgconn.flush():
            self._loop.add_writer(self._socket, self._wake)
            self._writing = True
            try:
                await self._woken(results)
            finally:
                self._stop_writing()
        while True:
            while pgconn.is_busy():
                await self._woken(results)
            if _is_end(pgconn, results):
                return results

    async def _woken(self, results: list[PGresult]) -> None:
        """Something has changed.  Raises when it is the end of the connection."""
        if self._lost is None:
            self._answer = self._loop.create_future()
            self._again = self._loop.call_later(_LOOK_SECONDS, self._look_again)
            try:
                await self._answer
            finally:
                self._answer = None
                self._again.cancel()
        if self._lost is not None:
            raise _told(results, self._lost)

    def _wake(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _readable(self) -> None:
        try:
            self._pgconn.consume_input()
            if self._answer is None or self._pgconn.is_busy():
                return
        except psycopg.OperationalError as error:
            self._lost = error
            if self._answer is None and self._within:
                self.loss = error
            self.close()
        self._wake()

    def _look_again(self) -> None:
        """Nothing came for a while: register anew and read whatever there is.

        uvloop was seen to lose a reader, without a word, in a process that had been stopped and found its connections
        dead (drill freeze-leader).
        """
        self._again = self._loop.call_later(_LOOK_SECONDS, self._look_again)
        self._stop_reading()
        self._read()
        self._readable()

    def _read(self) -> None:
        if not self._reading:
            self._loop.add_reader(self._socket, self._readable)
            self._reading = True

    def close(self) -> None:
        """Let the descriptor alone: it is the connection's, and its number may soon be another one's."""
        self._stop_reading()
        self._stop_writing()

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket)

    async def _stop_statements(self) -> None:
        """Ask the server to stop, and read to the end of the trip; a connection that cannot is closed."""
        self.close()
        try:
            await self._connection.cancel_safe(timeout=_CANCEL_SECONDS)
            await self._connection.wait(_results(self._pgconn))
        except psycopg.Error:
            pass  # whatever it was is over
        except BaseException:
            self._pgconn.finish()  # nothing reads it any more
            raise


class BlockingTrip(_Trip):
    """The same for a thread of its own; nothing is prepared."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        super().__init__(connection, schema, prepare=False)
        self._connection = connection

    def run(self, *statements: Statement) -> list[TupleRow]:
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
        if _is_end(pgconn, results):
            return results


def _consume(pgconn: PGconn, results: list[PGresult]) -> None:
    try:
        pgconn.consume_input()
    except psycopg.OperationalError as error:
        raise _told(results, error) from None


def _is_end(pgconn: PGconn, results: list[PGresult]) -> bool:
    """Take the result that is there; whether it was the end of the trip."""
    result = pgconn.get_result()
    if result is None:
        if pgconn.status == ConnStatus.BAD:
            raise psycopg.OperationalError(pgconn.get_error_message())
        return False
    if result.status == ExecStatus.PIPELINE_SYNC:
        return True
    results.append(result)
    return False


def _told(results: list[PGresult], lost: psycopg.OperationalError) -> psycopg.Error:
    """What the server said before the connection ended tells more than that it ended."""
    said = [result for result in results if result.error_field(DiagnosticField.SQLSTATE)]
    return psycopg.errors.error_from_result(said[0]) if said else lost
