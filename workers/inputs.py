"""What a task takes over from the tasks it waited for: it came with the claim, or is read when the task starts.

Many tasks are read for in one statement.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

from psycopg.rows import TupleRow

from dispatcher.database import Database, Transient, pause_before_retry
from dispatcher.errors import Undecodable
from state.flows import INPUTS
from state.machine import Reason, State
from workers.attempt import Attempt

__all__ = ["MOST", "Inputs", "needs_inputs"]

MOST = 64 * 1024 * 1024
"""Bytes that one task may take over: what is larger goes by reference."""


def needs_inputs(attempt: Attempt) -> bool:
    """Whether arguments of the attempt come from other tasks."""
    return bool(attempt.meta) and "takes" in attempt.meta


class Inputs:
    """Requests that come while a statement is under way share the next one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[UUID, asyncio.Future[list[TupleRow]]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def fill(self, attempt: Attempt) -> None:
        """Put the results into the attempt's arguments.  Raises ``Undecodable`` when they are too large together."""
        if attempt.inputs is not None:  # they came with the claim
            attempt.args, attempt.inputs = _with(attempt.args, [attempt.inputs]), None
            return
        future = self._waiting.get(attempt.task_id)
        if future is None:
            future = self._waiting[attempt.task_id] = asyncio.get_running_loop().create_future()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        attempt.args = _merged(attempt.args, await asyncio.shield(future))

    async def _read(self) -> None:
        tries = 0
        while self._waiting:
            ids = list(self._waiting)
            try:
                rows = await self._database.run(INPUTS, {"ids": ids, "most": MOST})
            except Transient:
                tries += 1
                await self._database.close()
                await pause_before_retry(tries)
                continue
            except Exception as error:  # noqa: BLE001 - it is the attempts that fail, not the worker
                for id in ids:
                    self._waiting.pop(id).set_exception(error)
                continue
            found: dict[UUID, list[TupleRow]] = {id: [] for id in ids}
            for row in rows:
                found[row[0]].append(row)
            for id in ids:
                self._waiting.pop(id).set_result(found[id])

    async def close(self) -> None:
        """Give the connection back."""
        if self._reading is not None:
            self._reading.cancel()
        await self._database.close()


def _merged(args: bytes, rows: list[TupleRow]) -> bytes:
    """The stored arguments are one JSON object; results are JSON already and are put in as they are."""
    members = []
    total = 0
    for _, key, rule, value, parent, state, reason, type_, error in rows:
        if value is None:
            raise Undecodable(f"the results for {key!r} are over {MOST:,} bytes: pass references instead")
        data = bytes(value) if rule != 3 else _failure(parent, state, reason, type_, error)
        total += len(data)
        members.append(json.dumps(key).encode() + b":" + data)
    if total > MOST:
        raise Undecodable(f"the results it takes over are {total:,} bytes, over {MOST:,}: pass references instead")
    return _with(args, members)


def _with(args: bytes, members: list[bytes]) -> bytes:
    own = bytes(args).strip()[1:-1].strip()
    return b"{" + b",".join([own, *members] if own else members) + b"}"


def _failure(parent: UUID, state: int | None, reason: int | None, type_: str | None, error: str | None) -> bytes:
    told: dict[str, Any] = {
        "task_id": str(parent),
        "type": type_,
        "state": None if state is None else State(state).label,
        "reason": None if reason is None else Reason(reason).label,
        "error": error,
    }
    return json.dumps(told).encode()
