"""The pruner: removes finished tasks past their retention, in short transactions that leave the others time.

Run by the leader beside its other work, on a connection of its own that is closed between the passes.  A pass over
a system where nothing is due costs four statements.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any
from uuid import UUID

import psycopg

from dispatcher.database import Database
from dispatcher.retention import KEPT, keep, longest
from dispatcher.settings import Settings
from dispatcher.streams.config import StreamsConfig
from state import prune
from state.delete import DELETE_FINISHED
from state.flows import FORGET, PAST
from state.machine import State
from state.sql import Sql

__all__ = ["Pruned", "Pruner"]

_log = logging.getLogger("dispatcher.pruner")

STEP = 500
"""Tasks that one transaction looks at and may remove: some 10 ms of the database's time."""
_FLOWS = 20
PASS_SECONDS = 600.0
_FIRST_SECONDS = 60.0
_REST = 2.0
"""After each step it rests so many times as long as the step took: removal takes a third of one core at most."""
_BEGIN, _COMMIT = Sql("BEGIN ISOLATION LEVEL REPEATABLE READ"), Sql("COMMIT")
_NOTHING = UUID(int=0)

Pruned = Counter[tuple[str, State]]
"""How many tasks of each queue and final state were removed, or would be."""


class Pruner:
    """One per leader; ``once`` also serves ``dispatcher prune``."""

    def __init__(self, database: Database, settings: Settings, streams: StreamsConfig) -> None:
        self._database, self._settings, self._streams = database, settings, streams
        self.flows = 0
        """How many flows the last pass removed, or would have removed."""

    async def run(self) -> None:
        """Prune every ten minutes until cancelled; what the database refuses is told and tried again next time."""
        wait = _FIRST_SECONDS
        while True:
            await asyncio.sleep(wait)
            wait = PASS_SECONDS
            try:
                pruned = await self.once()
                if pruned:
                    _log.info("removed %d finished tasks past their retention", pruned.total())
            except psycopg.Error as error:
                _log.warning("cannot remove old tasks: %s", str(error).strip().split("\n")[0])
            finally:
                await self._database.close()

    async def once(self, *, dry_run: bool = False) -> Pruned:
        """Remove everything that is due now, or with ``dry_run`` only count it.  Raises ``psycopg.Error``."""
        queues = {number: name for number, name in await self._database.run(prune.QUEUES)}
        pruned: Pruned = Counter()
        await self._forget_flows(queues, pruned, dry_run)
        for walk, states in ((prune.SUCCEEDED, (State.SUCCEEDED,)), (prune.STOPPED, (State.FAILED, State.CANCELLED))):
            asked = {
                number: [self._keep(name, state) if state in states else None for state in KEPT]
                for number, name in queues.items()
            }
            asked = {number: times for number, times in asked.items() if any(time is not None for time in times)}
            await self._walk(walk, asked, queues, pruned, dry_run)
        keep_names = longest(self._settings, self._streams, list(queues.values()))
        if keep_names is not None and not dry_run:
            while await self._database.run(prune.PRUNE_SESSION_LOG, {"keep": keep_names, "most": STEP}):
                pass
        return pruned

    async def _forget_flows(self, queues: dict[int, str], counted: Pruned, dry_run: bool) -> None:
        """Flows of which every part is past its time go first; then their tasks are like any others."""
        self.flows = 0
        params: dict[str, Any] = {"queues": list(queues), "most": _FLOWS, "low": _NOTHING}
        for state in KEPT:
            params[state.label] = [self._keep(name, state) for name in queues.values()]
        while rows := await self._database.run(PAST if dry_run else FORGET, params):
            self.flows += len({row[0] for row in rows})
            params["low"] = rows[-1][0]
            for _, queue, state, count in rows if dry_run else ():
                counted[queues[queue], State(state)] += count

    def _keep(self, queue: str, state: State) -> float | None:
        return keep(self._settings, self._streams, queue, state)

    async def _walk(
        self, walk: Sql, asked: dict[int, list[float | None]], queues: dict[int, str], pruned: Pruned, dry_run: bool
    ) -> None:
        """Step after step along all queues at once, each from where the step before left it."""
        lows = dict.fromkeys(asked, _NOTHING)
        while asked:
            params: dict[str, Any] = {
                "queues": list(asked),
                "lows": list(lows.values()),
                "most": STEP,
                **dict(zip((state.label for state in KEPT), map(list, zip(*asked.values(), strict=True)), strict=True)),
            }
            started = asyncio.get_running_loop().time()
            rows = await self._database.run(walk, params)
            if not dry_run and any(row[3] for row in rows):
                rows = await self._remove(walk, params)
            numbers = list(asked)
            for n, _, last, _, states in rows:
                lows[numbers[n - 1]] = last
                pruned.update((queues[numbers[n - 1]], State(state)) for state in states or ())
            if sum(row[1] for row in rows) < STEP:
                return
            await asyncio.sleep(_REST * (asyncio.get_running_loop().time() - started))

    async def _remove(self, walk: Sql, params: dict[str, Any]) -> list[Any]:
        """Look again and remove in one snapshot: a task that a person retried meanwhile stays.

        Returns the rows of the look, with the states of those that are really gone.
        """
        run = self._database.run
        try:
            await run(_BEGIN)
            rows = await run(walk, params)
            gone: dict[UUID, int] = dict(
                await run(DELETE_FINISHED, {"ids": [task for row in rows for task in row[3] or ()]})
            )
            await run(_COMMIT)
        except psycopg.errors.SerializationFailure:
            await self._database.close()
            return [(n, seen, last, None, None) for n, seen, last, _, _ in rows]
        except BaseException:
            await self._database.close()
            raise
        return [
            (n, seen, last, ids, [gone[task] for task in ids or () if task in gone]) for n, seen, last, ids, _ in rows
        ]
