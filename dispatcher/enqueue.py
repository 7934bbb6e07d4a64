"""Orders become tasks in the caller's transaction: one statement for one, a few for many."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from dispatcher.awaiting import guarded
from dispatcher.enqueued import ENQUEUED
from dispatcher.errors import KeyConflict
from dispatcher.handle import Task
from dispatcher.order import Order
from dispatcher.steps import Row, Steps
from dispatcher.tx import is_async, resolved, run, run_async, run_steps, run_steps_async
from dispatcher.tx_open import open_check
from state.create import CREATE_FOR_ANY_DRIVER, CREATE_MANY, CREATE_ONE, CREATE_ONE_WITH, CREATE_PLAIN
from state.ids import new_id, new_ids
from state.sql import Sql

__all__ = ["arrays", "enqueue", "enqueue_many", "statement"]

_CHUNK = 1000
"""Tasks per statement; measured: see docs/decisions.md."""
_CHUNK_BYTES = 8 * 1024 * 1024

# one order ------------------------------------------------------------------------------------------------------------


def enqueue(tx: Any, order: Order) -> Any:
    """Write one order: a ``Task``, or on an asynchronous session a coroutine that gives one."""
    tx = resolved(tx)
    if is_async(tx):
        return guarded(tx, f"enqueue of {order.name!r}", lambda: _enqueue_async(tx, order))
    sql, params = _statement(order, new_id())
    return _made(order, run(tx, sql, params, order.home.schema), open_check(tx))


async def _enqueue_async(tx: Any, order: Order) -> Task[Any]:
    sql, params = _statement(order, new_id())
    return _made(order, await run_async(tx, sql, params, order.home.schema), open_check(tx))


def _statement(order: Order, task_id: UUID) -> tuple[Sql, dict[str, Any]]:
    asked = order.asked
    params: dict[str, Any] = {
        "type": order.name,
        "queue": asked.queue,
        "lane": asked.lane,
        "id": task_id,
        "args": order.args,
        "max_tries": asked.max_tries,
        "flags": asked.flags,
    }
    if asked.plain:
        return CREATE_ONE, params
    params.update(_optional(order))
    return CREATE_ONE_WITH, params


def _optional(order: Order) -> dict[str, Any]:
    asked = order.asked
    return {
        "run_at": asked.run_at,
        "delay": asked.delay,
        "expires": asked.expires_in(),
        "meta": asked.meta,
        "key": asked.key,
        "args_hash": None if asked.key is None else order.payload.digest(order.args),
        "key_ttl": asked.key_ttl,
    }


def _made(order: Order, rows: Sequence[Row], is_open: Callable[[], bool]) -> Task[Any]:
    found, created, conflict = rows[0]
    task_id = _uuid(found)
    if conflict:
        raise KeyConflict(order.name, order.asked.key or "", task_id)
    if created:
        ENQUEUED[order.name, order.asked.queue] += 1
    return Task(task_id, created=created, home=order.home, decode=order.payload.decode_result, is_open=is_open)


def _uuid(value: Any) -> UUID:
    """Some drivers give ids as text, some as a class of their own."""
    return value if type(value) is UUID else UUID(str(value))


def statement(order: Order, *, style: str) -> tuple[str, list[Any]]:
    """One SQL text with its parameters for a driver we do not know; ``style`` is ``numbered`` or ``format``."""
    params = {**_statement(order, new_id())[1], **_optional(order)}
    if style == "numbered":
        text, names = CREATE_FOR_ANY_DRIVER.numbered(order.home.schema)
        return text, [params[name] for name in names]
    text, names = CREATE_FOR_ANY_DRIVER.formatted(order.home.schema)
    return text, [str(params[name]) if name == "id" else params[name] for name in names]


# many orders ----------------------------------------------------------------------------------------------------------


def enqueue_many(tx: Any, orders: Sequence[Order], schema: str) -> Any:
    """Write all orders or none: tasks in the same order, or a coroutine that gives them."""
    tx = resolved(tx)
    if is_async(tx):
        return guarded(tx, f"enqueue_many of {len(orders)} tasks", lambda: _many_async(tx, orders, schema))
    if not orders:
        return []
    ids, chunks = _chunks(orders)
    found = run_steps(tx, _steps(orders, ids, chunks), schema, atomic=len(chunks) > 1)
    return _tasks(orders, ids, found, open_check(tx))


async def _many_async(tx: Any, orders: Sequence[Order], schema: str) -> list[Task[Any]]:
    if not orders:
        return []
    ids, chunks = _chunks(orders)
    found = await run_steps_async(tx, _steps(orders, ids, chunks), schema, atomic=len(chunks) > 1)
    return _tasks(orders, ids, found, open_check(tx))


def _chunks(orders: Sequence[Order]) -> tuple[list[UUID], list[list[int]]]:
    """Ids for all, and the positions that go into each statement.

    With keys the positions are sorted as the database sorts them: two callers then take their keys in one order over
    all their statements, and cannot deadlock.
    """
    positions = list(range(len(orders)))
    if len(orders) > _CHUNK and any(order.asked.key is not None for order in orders):
        positions.sort(key=lambda i: _key_order(orders[i], i))
    chunks: list[list[int]] = [[]]
    size = 0
    for i in positions:
        size += len(orders[i].args)
        if len(chunks[-1]) >= _CHUNK or (size > _CHUNK_BYTES and chunks[-1]):
            chunks.append([])
            size = len(orders[i].args)
        chunks[-1].append(i)
    return new_ids(len(orders)), chunks


def _key_order(order: Order, position: int) -> tuple[bool, str, bytes, int]:
    key = order.asked.key
    return key is None, order.name, hashlib.sha256((key or "").encode()).digest(), position


def _steps(orders: Sequence[Order], ids: Sequence[UUID], chunks: Sequence[Sequence[int]]) -> Steps[dict[int, UUID]]:
    """Position to existing task, for the positions whose key already had one."""
    found: dict[int, UUID] = {}
    for chunk in chunks:
        part, part_ids = [orders[i] for i in chunk], [ids[i] for i in chunk]
        if part[0].asked.plain and _are_alike(part):
            yield CREATE_PLAIN, _alike(part, part_ids)
            continue
        rows = yield CREATE_MANY, arrays(part, part_ids)
        for ord_, task_id, outcome in rows:
            position = chunk[ord_ - 1]
            found[position] = _uuid(task_id)
            if outcome == "conflict":
                order = orders[position]
                raise KeyConflict(order.name, order.asked.key or "", found[position])
    return found


def _are_alike(orders: Sequence[Order]) -> bool:
    """Whether they differ in nothing but their arguments: calls of one task type share what they ask for."""
    asked = orders[0].asked
    return all([order.asked is asked for order in orders])  # a list: faster than a generator by half


def _alike(orders: Sequence[Order], ids: list[UUID]) -> dict[str, Any]:
    """The parameters of ``CREATE_PLAIN``."""
    asked = orders[0].asked
    return {
        "type": orders[0].name,
        "queue": asked.queue,
        "lane": asked.lane,
        "max_tries": asked.max_tries,
        "flags": asked.flags,
        "ids": ids,
        "args": [order.args for order in orders],
    }


def arrays(orders: Sequence[Order], ids: Sequence[UUID]) -> dict[str, Any]:
    """The parameters of ``CREATE_MANY``."""
    profiles: dict[tuple[str, str, str], int] = {}
    profile = []
    asked = [order.asked for order in orders]
    for order, a in zip(orders, asked, strict=True):
        profile.append(profiles.setdefault((order.name, a.queue, a.lane), len(profiles) + 1))
    types, queues, lanes = zip(*profiles, strict=True)
    params: dict[str, Any] = {
        "types": list(types),
        "queues": list(queues),
        "lanes": list(lanes),
        "ids": list(ids),
        "profile": profile,
        "args": [order.args for order in orders],
        "max_tries": [a.max_tries for a in asked],
        "flags": [a.flags for a in asked],
        **_NOTHING_OPTIONAL,
    }
    if not all(a.plain for a in asked):
        columns = [_optional(order) for order in orders]
        for name, array in _ARRAYS.items():
            values = [column[name] for column in columns]
            params[array] = values if any(value is not None for value in values) else None
    return params


_ARRAYS: Mapping[str, str] = {
    "run_at": "run_at",
    "delay": "delay",
    "expires": "expires",
    "meta": "meta",
    "key": "keys",
    "args_hash": "args_hash",
    "key_ttl": "key_ttl",
}
_NOTHING_OPTIONAL: Mapping[str, None] = dict.fromkeys(_ARRAYS.values())


def _tasks(
    orders: Sequence[Order], ids: Sequence[UUID], found: Mapping[int, UUID], is_open: Callable[[], bool]
) -> list[Task[Any]]:
    if not found and _are_alike(orders):
        first = orders[0]
        ENQUEUED[first.name, first.asked.queue] += len(orders)
        home, decode = first.home, first.payload.decode_result
        return [Task(id, created=True, home=home, decode=decode, is_open=is_open) for id in ids]
    ENQUEUED.update((order.name, order.asked.queue) for i, order in enumerate(orders) if i not in found)
    return [
        Task(
            found.get(i, ids[i]),
            created=i not in found,
            home=order.home,
            decode=order.payload.decode_result,
            is_open=is_open,
        )
        for i, order in enumerate(orders)
    ]
