"""A call on an asynchronous session that nobody awaited makes the commit raise instead of passing silently.

* SQLAlchemy sessions and connections: by their own commit events.
* ``psycopg.AsyncConnection`` has no such events: its ``commit`` is replaced on that one object, which covers
  ``await conn.commit()``, ``async with conn`` and the pool's ``async with pool.connection()``.  The end of an
  ``async with conn.transaction()`` block is not covered: there the forgotten enqueue is reported by the next commit
  on that connection, for example when it goes back to its pool.  Autocommit has no commit at all; Python's own
  "never awaited" warning remains.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from dispatcher.errors import NotAwaited
from dispatcher.tx import is_async, kind_of, resolved

__all__ = ["guarded", "written"]

T = TypeVar("T")
Pending = dict[object, str]
"""Token of a coroutine that has not started yet, to what it would do."""
_KEY = "dispatcher.not_awaited"
_by_connection: weakref.WeakKeyDictionary[Any, Pending] = weakref.WeakKeyDictionary()
_listening = False


def guarded(tx: Any, call: str, work: Callable[[], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
    """The coroutine of ``work``, remembered with the session until somebody awaits it."""
    pending = _pending(tx)
    token = object()
    pending[token] = call

    async def run() -> T:
        pending.pop(token, None)
        return await work()

    return run()


def written(tx: Any, call: str, work: Callable[[Any], Any]) -> Any:
    """A change on any session; on an asynchronous one a forgotten ``await`` is as bad as one on an enqueue."""
    tx = resolved(tx)
    return guarded(tx, call, lambda: work(tx)) if is_async(tx) else work(tx)


def _pending(tx: Any) -> Pending:
    kind = kind_of(tx)
    if kind == "psycopg_async":
        return _psycopg(tx)
    if kind == "async_connection":
        return _connection(tx.sync_connection)
    return _session(tx.sync_session)


def _refuse(pending: Pending) -> None:
    if pending:
        raise NotAwaited(list(pending.values()))


# SQLAlchemy -----------------------------------------------------------------------------------------------------------


def _session(session: Any) -> Pending:
    global _listening
    if not _listening:
        from sqlalchemy import event
        from sqlalchemy.orm import Session

        # on the class: once per process instead of 40 µs per session; costs other sessions one dictionary look-up
        event.listen(Session, "before_commit", _before_commit)
        event.listen(Session, "after_transaction_end", _after_end)
        _listening = True
    pending: Pending = session.info.setdefault(_KEY, {})
    return pending


def _before_commit(session: Any) -> None:
    pending = session.info.get(_KEY)
    if pending and not session.in_nested_transaction():
        _refuse(pending)


def _after_end(session: Any, transaction: Any) -> None:
    if transaction.parent is None:
        session.info.pop(_KEY, None)


def _connection(connection: Any) -> Pending:
    pending = _by_connection.get(connection)
    if pending is None:
        from sqlalchemy import event

        pending = _by_connection[connection] = {}
        event.listen(connection, "commit", _on_commit)
        event.listen(connection, "rollback", _on_rollback)
    if not connection.in_transaction():
        connection.begin()  # as the statement itself would; without a transaction commit() does nothing, silently
    return pending


def _on_commit(connection: Any) -> None:
    pending = _by_connection.get(connection)
    if pending:
        calls = list(pending.values())
        pending.clear()
        # SQLAlchemy takes the transaction for ended now; the server must not keep it open for the next one to commit
        connection.connection.rollback()
        raise NotAwaited(calls)


def _on_rollback(connection: Any) -> None:
    _by_connection.get(connection, {}).clear()


# psycopg --------------------------------------------------------------------------------------------------------------


def _psycopg(connection: Any) -> Pending:
    pending = _by_connection.get(connection)
    if pending is None:
        pending = _by_connection[connection] = {}
        connection.commit, connection.rollback = _methods(weakref.ref(connection), pending)
    return pending


def _methods(connection: weakref.ref[Any], pending: Pending) -> tuple[Any, Any]:
    async def rollback() -> None:
        """Roll back any pending transaction."""
        pending.clear()
        alive: Any = connection()
        await type(alive).rollback(alive)

    async def commit() -> None:
        """Commit any pending transaction; raises NotAwaited when an enqueue on it was not awaited."""
        calls = list(pending.values())
        if calls:
            await rollback()
            raise NotAwaited(calls)
        alive: Any = connection()
        await type(alive).commit(alive)

    return commit, rollback
