"""``dispatcher workers list``: asks the live workers themselves, over NATS; the database is not involved."""

from __future__ import annotations

import asyncio
import json as json_codec
from datetime import datetime
from typing import Annotated, Any

import typer

from dispatcher.cli.asking import ago
from dispatcher.cli.options import Json, Namespace, NatsUrl, load_settings, require_nats
from dispatcher.cli.output import emit, table
from dispatcher.cli.talking import talking
from dispatcher.masking import printable
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="See which workers are there.")


@app.callback()
def _group() -> None:
    """See which workers are there."""


@app.command("list")
def list_workers(
    wait: Annotated[float, typer.Option("--wait", min=0.05, max=30, help="Seconds to collect answers.")] = 0.5,
    nats_url: NatsUrl = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """List the workers that answer now, with their slots and running tasks."""
    settings = load_settings(nats_url=nats_url, namespace=namespace)
    require_nats(settings)
    found = asyncio.run(_ask(settings, wait))
    emit({"workers": found}, json, lambda: _workers(found))


async def _ask(settings: Settings, wait: float) -> list[dict[str, Any]]:
    async with talking(settings, "workers list") as bus:
        answers = await bus.request_many(Subjects(settings.namespace).workers, b"", wait=wait)
    found = []
    for answer in answers:
        try:
            worker = json_codec.loads(answer)
        except ValueError:
            continue
        if isinstance(worker, dict) and "worker" in worker:
            found.append(worker)
    return sorted(found, key=lambda worker: (str(worker["worker"]), str(worker.get("boot_id"))))


def _workers(found: list[dict[str, Any]]) -> str:
    if not found:
        return "no worker answers"
    rows = [
        (printable(w["worker"]), w.get("pid"), printable(w.get("host", "")), _queues(w.get("queues")),
         f"{w.get('running', '?')}/{w.get('slots', '?')}", printable(w.get("version", "")), _since(w.get("started_at")),
         "draining" if w.get("draining") else "running")
        for w in found
    ]  # fmt: skip
    return table(("worker", "pid", "host", "queues", "busy", "version", "up", "state"), rows)


def _queues(queues: Any) -> str:
    return printable(", ".join(map(str, queues)) if isinstance(queues, list) else queues or "")


def _since(started_at: Any) -> str:
    try:
        return ago(datetime.fromisoformat(started_at))
    except (TypeError, ValueError):
        return ""
