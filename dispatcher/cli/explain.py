"""``dispatcher tasks explain ID``: asks the database, NATS and the workers why a task has not run yet."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from dispatcher import status
from dispatcher.cli.asking import ago, asking
from dispatcher.cli.failures import NOT_FOUND
from dispatcher.cli.options import DatabaseUrl, Json, Namespace, NatsUrl, Schema, load_settings
from dispatcher.cli.output import emit
from dispatcher.cli.talking import talking
from dispatcher.errors import BusError, BusUnavailable
from dispatcher.explain.answer import Explanation
from dispatcher.explain.causes import explanation
from dispatcher.explain.facts import Facts, Live
from dispatcher.explain.live import listen
from dispatcher.masking import printable
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects

__all__ = ["explain"]


def explain(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="The task's id.")],
    wait: Annotated[float, typer.Option("--wait", min=0.05, max=30, help="Seconds to collect workers' answers.")] = 0.5,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, schema: Schema = None, namespace: Namespace = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Say why a task has not run yet: where it is, what it waits for, and what would help."""
    settings = load_settings(database_url=database_url, nats_url=nats_url, db_schema=schema, namespace=namespace)
    with asking(settings) as connection:
        facts = status.facts(connection, task_id, schema=settings.db_schema)
        live = asyncio.run(_listen(settings, facts, wait)) if settings.nats_url else None
        if facts.row is not None and live is not None:
            # a task that moved while NATS was asked would be explained by two moments that do not fit
            again = status.facts(connection, task_id, schema=settings.db_schema)
            if again.row is None or _place(again) != _place(facts):
                facts, live = again, asyncio.run(_listen(settings, again, wait))
    found = explanation(facts, live)
    emit(found.to_json(), json, lambda: _told(found))
    if found.state is None:
        raise typer.Exit(NOT_FOUND)


def _place(facts: Facts) -> tuple[object, ...]:
    assert facts.row is not None
    return tuple(facts.row[name] for name in ("state", "attempt", "dispatch", "outbox_id", "gate"))


async def _listen(settings: Settings, facts: Facts, wait: float) -> Live:
    try:
        async with talking(settings, "tasks explain") as bus:
            return await listen(bus, Subjects(settings.namespace), facts, wait=wait)
    except (BusError, BusUnavailable) as error:
        return Live(error=str(error))


def _told(found: Explanation) -> str:
    lines = [f"{found.id}  {found.state or 'not there'}"]
    for cause in found.causes:
        since = f"  (since {ago(cause.since)})" if cause.since is not None else ""
        lines.append(f"  {cause.cause.value}: {printable(cause.text)}{since}")
        if cause.cure:
            lines.append(f"      -> {printable(cause.cure)}")
    if not found.live:
        lines.append("  (NATS and the workers could not be asked; this is what the database knows)")
    return "\n".join(lines)
