"""``dispatcher top``: a live screen of queues, workers and relay; plain text and ``--json`` for machines.

Workers and the relay tell of themselves over NATS; ends of tasks are counted as they are announced; the database is
asked one thing, the state of the queues, at a modest interval.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import typer

from dispatcher.bus import Bus, Message
from dispatcher.cli.asking import ago
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
from dispatcher.cli.output import emit, emit_line, table
from dispatcher.cli.talking import talking
from dispatcher.cli.workers import HEADERS, rows_of
from dispatcher.database import Database
from dispatcher.fleet import ask_workers
from dispatcher.masking import printable
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects
from dispatcher.task_info import QueueInfo, jsonable
from dispatcher.wire import decode_settled
from state.queries import QUEUES

__all__ = ["command"]

_ASK_SECONDS = 0.3
_BEAT_SECONDS = 1.2
_BEAT_OLD_SECONDS = 3.0
_WIDTH = 100
_ENDS = ("succeeded", "failed", "cancelled")


def command(
    interval: Annotated[float, typer.Option("--interval", min=0.5, max=3600, help="Seconds between looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, schema: Schema = None, namespace: Namespace = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Watch queues, workers and relay live; Ctrl-C ends it."""
    settings = load_settings(database_url=database_url, nats_url=nats_url, db_schema=schema, namespace=namespace)
    require_database(settings)
    require_nats(settings)
    asyncio.run(_watch(settings, interval, once, json))


@dataclass
class _Heard:
    """What was pushed since the last look."""

    ended: int = 0
    leader: str | None = None
    beat_at: float = 0.0
    beat: asyncio.Event = field(default_factory=asyncio.Event)

    async def settled(self, message: Message) -> None:
        try:
            self.ended += len(decode_settled(message.data))
        except ValueError:
            return

    async def beaten(self, message: Message) -> None:
        self.leader, self.beat_at = bytes(message.data).decode(errors="replace"), time.monotonic()
        self.beat.set()


async def _watch(settings: Settings, interval: float, once: bool, json: bool) -> None:
    database = Database(settings, "dispatcher top", statement_timeout="30s")
    subjects, heard = Subjects(settings.namespace), _Heard()
    try:
        async with talking(settings, "top") as bus:
            await bus.subscribe(subjects.settled, heard.settled)
            await bus.subscribe(subjects.beat, heard.beaten)
            before: tuple[float, dict[str, int]] | None = None
            while True:
                began = time.monotonic()
                frame, before = await _look(database, bus, subjects, heard, before)
                if once:
                    emit(frame, json, partial(_screen, frame))
                    return
                emit_line(frame) if json else _draw(_screen(frame))
                await asyncio.sleep(max(0.1, interval - (time.monotonic() - began)))
    finally:
        await database.close()


async def _look(
    database: Database, bus: Bus, subjects: Subjects, heard: _Heard, before: tuple[float, dict[str, int]] | None
) -> tuple[dict[str, Any], tuple[float, dict[str, int]]]:
    """One frame, and the totals that the next one is compared with."""
    asking = asyncio.ensure_future(ask_workers(bus, subjects, wait=_ASK_SECONDS))
    try:
        queues = [QueueInfo.from_row(row) for row in await database.run(QUEUES)]
        now = time.monotonic()
        if before is None:
            async with asyncio.timeout(_BEAT_SECONDS):
                await heard.beat.wait()
    except TimeoutError:
        pass  # no relay leads, which is what will be shown
    workers = await asking
    totals = {queue.name: sum(queue.counts.get(end, 0) for end in _ENDS) for queue in queues}
    passed = now - before[0] if before else 0.0
    rates = {
        name: round(max(0, total - before[1].get(name, total)) / passed, 1) if before and passed else None
        for name, total in totals.items()
    }
    frame = {
        "queues": [{**jsonable(queue), "per_second": rates[queue.name]} for queue in queues],
        "workers": workers,
        "relay": heard.leader if time.monotonic() - heard.beat_at < _BEAT_OLD_SECONDS else None,
        "ended_per_second": round(heard.ended / passed, 1) if passed else None,
        "namespace": subjects.namespace,
    }
    heard.ended = 0
    return frame, (now, totals)


def _draw(text: str) -> None:
    """On a terminal in place, anything longer than the screen is cut; elsewhere one frame after another."""
    if not sys.stdout.isatty():
        print(text + "\n", flush=True)
        return
    size = shutil.get_terminal_size((_WIDTH, 40))
    lines = [line[: size.columns - 1] for line in text.splitlines()][: size.lines - 1]
    print("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J", end="", flush=True)


def _screen(frame: Mapping[str, Any]) -> str:
    workers, queues = frame["workers"], frame["queues"]
    slots = sum(int(worker.get("slots", 0)) for worker in workers)
    busy = sum(int(worker.get("executing", worker.get("running", 0))) for worker in workers)
    rate = frame["ended_per_second"]
    head = (
        f"{frame['namespace']}   {time.strftime('%H:%M:%S')}   relay: {printable(frame['relay'] or 'none leads')}   "
        f"workers: {len(workers)}, {busy} of {slots} slots busy   ended/s: {_number(rate)}"
    )
    rows = [
        (queue["name"] + (" (paused)" if queue["paused"] else ""), queue["depth"], queue["counts"].get("running", 0),
         queue["counts"].get("retrying", 0), queue["counts"].get("scheduled", 0), queue["counts"].get("failed", 0),
         _number(queue["per_second"]), queue["oldest"])
        for queue in ({**queue, "oldest": _age(queue)} for queue in queues)
    ]  # fmt: skip
    headers = ("queue", "queued", "running", "retrying", "scheduled", "failed", "ended/s", "oldest queued")
    parts = [head, "", table(headers, rows) if rows else "no queues yet"]
    return "\n".join([*parts, "", table(HEADERS, rows_of(workers)) if workers else "no worker answers"])


def _age(queue: Mapping[str, Any]) -> str:

    oldest = queue["oldest_queued_at"]
    return ago(datetime.fromisoformat(oldest)) if oldest else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
