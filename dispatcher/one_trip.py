"""Several statements in one round trip: libpq's pipeline, driven by hand.

Between two processes that both rest, a round trip costs 0.4 ms on a small virtual machine, most of it to be woken up.
psycopg's own pipeline mode costs its client more than that saves, because it serves any number of cursors; this serves
statements of our own, and two take as long as one (measured: docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

from state.sql import Sql

__all__ = ["OneTrip"]


class OneTrip:
    """Belongs to one connection, on which nothing else may run meanwhile."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], schema: str) -> None:
        self._connection, self._pgconn, self._schema = connection, connection.pgconn, schema
        self._prepared: dict[Sql, tuple[bytes, tuple[str, ...]]] = {}
        self._made = 0

    async def run(self, *statements: tuple[Sql, Mapping[str, Any]]) -> list[TupleRow]:
        """Send all, and return the rows of the last.  Parameters travel as text.

        Raises what the first one that failed raises; the server skips those behind it.
        """
        self._pgconn.enter_pipeline_mode()
        try:
            for sql, params in statements:
                self._send(sql, params)
            self._pgconn.pipeline_sync()
            results = await self._connection.wait(_results(self._pgconn))
            for result in results:
                if result.status == ExecStatus.FATAL_ERROR:
                    raise psycopg.errors.error_from_result(result)
        except BaseException:
            self._prepared.clear()  # what was skipped was not prepared either
            raise
        finally:
            self._leave()
        transformer = Transformer(self._connection)
        transformer.set_pgresult(results[-1])
        return transformer.load_rows(0, results[-1].ntuples, tuple)

    def _send(self, sql: Sql, params: Mapping[str, Any]) -> None:
        if sql not in self._prepared:
            text, names = sql.numbered(self._schema)
            self._made += 1  # a name of its own each time: after an error nobody knows which of them the server has
            self._prepared[sql] = f"one_trip_{self._made}".encode(), names
            self._pgconn.send_prepare(self._prepared[sql][0], text.encode())
        name, names = self._prepared[sql]
        values = Transformer(self._connection).dump_sequence([params[n] for n in names], [PyFormat.TEXT] * len(names))
        self._pgconn.send_query_prepared(name, values, result_format=1)

    def _leave(self) -> None:
        try:
            self._pgconn.exit_pipeline_mode()
        except psycopg.OperationalError:
            self._pgconn.finish()  # what is still to come would be taken for the answer to something else


def _results(pgconn: PGconn) -> Generator[Wait, Ready | int, list[PGresult]]:
    """Everything up to the end of the trip, in the form psycopg's ``wait`` can wait for."""
    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
    results: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            yield Wait.R
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            if pgconn.status == ConnStatus.BAD:
                raise psycopg.OperationalError(pgconn.get_error_message())
        elif result.status == ExecStatus.PIPELINE_SYNC:
            return results
        else:
            results.append(result)
