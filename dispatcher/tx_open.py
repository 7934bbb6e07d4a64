"""Whether the transaction that a task was created in may still be open.  Holds nothing alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from dispatcher.tx import kind_of

__all__ = ["open_check"]

_IDLE = 0
"""libpq's PQTRANS_IDLE; the number is part of its ABI."""


def open_check(tx: Any) -> Callable[[], bool]:
    """A function that says ``False`` once the current transaction of this session has ended.

    psycopg does not tell one transaction of a connection from the next: there a later one counts as open too, so the
    answer only explains why a task cannot be seen.
    """
    kind = kind_of(tx)
    if kind in ("psycopg", "psycopg_async"):
        return _connection_open(weakref.ref(tx))
    if kind == "async_session":
        tx = tx.sync_session
    elif kind == "async_connection":
        tx = tx.sync_connection
    transaction = tx.get_transaction()
    return _never if transaction is None else _transaction_open(weakref.ref(transaction))


def _connection_open(connection: weakref.ref[Any]) -> Callable[[], bool]:
    def is_open() -> bool:
        alive = connection()
        return alive is not None and not alive.closed and alive.pgconn.transaction_status != _IDLE

    return is_open


def _transaction_open(transaction: weakref.ref[Any]) -> Callable[[], bool]:
    def is_open() -> bool:
        alive = transaction()
        return alive is not None and bool(alive.is_active)

    return is_open


def _never() -> bool:
    return False
