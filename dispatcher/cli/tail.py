"""``dispatcher tasks tail``: one line for every task that is published, ends or has to wait again, as it happens."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated

import typer

from dispatcher.cli.bulk import states_of
from dispatcher.cli.options import (
    DatabaseUrl,
    Json,
    Namespace,
    NatsUrl,
    Schema,
    load_settings,
    require_database,
    require_nats,
)
from dispatcher.cli.output import emit_line, note
from dispatcher.cli.talking import talking
from dispatcher.database import Database
from dispatcher.errors import OptionError
from dispatcher.filters import state_named
from dispatcher.masking import printable
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects
from dispatcher.tail import Move, Tail
from state.machine import State

__all__ = ["tail"]

_TOLD = frozenset(State) - {State.RUNNING, State.BLOCKED}
_CLOSED = "the connection to NATS was closed for good"


def tail(
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help="Only moves to these states; repeat it or use commas.")
    ] = None,
    queue: Annotated[list[str] | None, typer.Option("--queue", "-q", help="Only this queue; repeat it.")] = None,
    type: Annotated[list[str] | None, typer.Option("--type", "-t", help="Only this task type; repeat it.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Leave after so many lines.")] = None,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, schema: Schema = None, namespace: Namespace = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Follow tasks live: published, ended, or waiting again.  Pushed; Ctrl-C ends it."""
    settings = load_settings(database_url=database_url, nats_url=nats_url, db_schema=schema, namespace=namespace)
    require_database(settings)
    require_nats(settings)
    states = [state_named(name) for name in states_of(state) or ()]
    for one in states:
        if one not in _TOLD:
            told = ", ".join(known.label for known in sorted(_TOLD))
            raise OptionError(f"state {one.label!r} is not announced; a tail shows {told}")
    asyncio.run(_follow(settings, states, queue or [], type or [], limit, json))


async def _follow(
    settings: Settings, states: list[State], queues: list[str], types: list[str], limit: int | None, json: bool
) -> None:
    database = Database(settings, "dispatcher tail", statement_timeout="30s")
    try:
        async with talking(settings, "tasks tail") as bus:
            bus.on_reconnect.append(lambda: note("NATS was away: moves of that time are not shown"))
            tail = Tail(bus, Subjects(settings.namespace), database, states=states, queues=queues, types=types)
            await database.connection()  # a wrong URL is told now, not at the first move
            await tail.start()
            note("following; Ctrl-C ends it")
            printing = asyncio.ensure_future(_print(tail, limit, json))
            closed = asyncio.ensure_future(bus.closed.wait())
            done, _ = await asyncio.wait({printing, closed}, return_when=asyncio.FIRST_COMPLETED)
            closed.cancel()
            if printing not in done:
                printing.cancel()
                raise ConnectionError(_CLOSED)
            printing.result()
    finally:
        await database.close()


async def _print(tail: Tail, limit: int | None, json: bool) -> None:
    shown = missed = 0
    async with aclosing(tail.moves()) as batches:
        async for batch in batches:
            for move in batch:
                emit_line(move.to_json()) if json else print(_line(move), flush=True)
                shown += 1
                if shown == limit:
                    return
            if tail.missed > missed:
                note(f"{tail.missed - missed:,} moves were not shown: they came faster than they could be looked up")
                missed = tail.missed


def _line(move: Move) -> str:
    at = move.at.astimezone().isoformat(sep=" ", timespec="milliseconds")[11:23]
    text = f"{at}  {move.id}  {move.state:<9}  {printable(move.type)} ({printable(move.queue)})"
    if move.state != "queued":
        text += f"  try {move.tries}/{move.max_attempts}"
    if move.seconds is not None:
        text += f"  {move.seconds:.3f}s"
    if move.state != "succeeded" and (move.error or move.reason):
        text += f"  {printable(' '.join((move.error or move.reason or '').split()))[:120]}"
    return text
