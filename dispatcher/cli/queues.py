"""``dispatcher queues list|pause|resume``."""

from __future__ import annotations

from typing import Annotated

import typer

from dispatcher import status
from dispatcher.cli.asking import actor, ago, asking
from dispatcher.cli.failures import NOT_FOUND
from dispatcher.cli.options import DatabaseUrl, Json, Schema, load_settings
from dispatcher.cli.output import emit, fail, table
from dispatcher.errors import OptionError
from dispatcher.masking import printable
from dispatcher.task_info import QueueInfo, jsonable

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, pause and resume queues.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The queue.")]


@app.command("list")
def list_queues(database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """List the queues with their depth, pause and the age of the oldest queued task."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        queues = status.queues(connection, schema=settings.db_schema)
    emit({"queues": jsonable(queues)}, json, lambda: _queues(queues))


@app.command()
def pause(name: Name, database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """Let no more tasks of a queue start, in the whole fleet; running ones go on."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        try:
            changed = status.pause(connection, name, actor=actor(), schema=settings.db_schema)
        except OptionError as error:
            fail(str(error), NOT_FOUND)
    emit({"queue": name, "paused": True, "changed": changed}, json,
         lambda: f"{name} is paused" + ("" if changed else " already"))  # fmt: skip


@app.command()
def resume(name: Name, database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """End the pause of a queue and send what was held back."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        try:
            changed = status.resume(connection, name, schema=settings.db_schema)
        except OptionError as error:
            fail(str(error), NOT_FOUND)
    emit({"queue": name, "paused": False, "changed": changed}, json,
         lambda: f"{name} runs" if changed else f"{name} was not paused")  # fmt: skip


def _queues(queues: list[QueueInfo]) -> str:
    if not queues:
        return "no queues yet: a queue appears when its first task is created"
    rows = [
        (q.name, q.stream, f"paused by {printable(q.paused_by or '?')}, {ago(q.paused_at)} ago" if q.paused else "",
         q.depth, q.parked, q.counts.get("running", 0), ago(q.oldest_queued_at))
        for q in queues
    ]  # fmt: skip
    return table(("queue", "stream", "pause", "queued", "parked", "running", "oldest queued"), rows)
