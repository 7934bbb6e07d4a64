"""``dispatcher prune``: remove finished tasks past their retention now, or only count them."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from dispatcher.cli.options import DatabaseUrl, Json, Schema, StreamsConf, load_settings, require_database
from dispatcher.cli.output import emit, table
from dispatcher.database import Database
from dispatcher.relay.pruner import Pruned, Pruner
from dispatcher.settings import Settings
from dispatcher.streams.config import load

__all__ = ["command"]


def command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; change nothing.")] = False,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    streams_conf: StreamsConf = None,
    json: Json = False,
) -> None:
    """Remove finished tasks that were kept long enough.  The leading relay does this by itself every ten minutes."""
    settings = load_settings(database_url=database_url, db_schema=schema, streams_conf=streams_conf).direct()
    require_database(settings)
    pruned, flows = asyncio.run(_prune(settings, dry_run))
    rows = [(queue, state.label, count) for (queue, state), count in sorted(pruned.items())]
    document = {
        "dry_run": dry_run,
        "tasks": pruned.total(),
        "flows": flows,
        "pruned": [dict(zip(("queue", "state", "tasks"), row, strict=True)) for row in rows],
    }
    emit(document, json, lambda: table(("queue", "state", "would go" if dry_run else "removed"), rows))


async def _prune(settings: Settings, dry_run: bool) -> tuple[Pruned, int]:
    database = Database(settings, "dispatcher prune", statement_timeout="30s")
    try:
        pruner = Pruner(database, settings, load(settings.streams_conf))
        return await pruner.once(dry_run=dry_run), pruner.flows
    finally:
        await database.close()
