"""``dispatcher workers list|show|drain|stop``: asks the live workers themselves, over NATS; not the database."""

from __future__ import annotations

import asyncio
import json as json_codec
import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

import typer

from dispatcher.bus import Message
from dispatcher.cli.asking import actor, ago
from dispatcher.cli.failures import ERROR, NOT_FOUND
from dispatcher.cli.options import Json, Namespace, NatsUrl, Yes, load_settings, require_nats
from dispatcher.cli.output import emit, fail, table
from dispatcher.cli.progress import Progress
from dispatcher.cli.talking import talking
from dispatcher.errors import OptionError, did_you_mean
from dispatcher.fleet import ask_workers, control_workers
from dispatcher.masking import printable
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects

__all__ = ["app", "rows_of"]

app = typer.Typer(no_args_is_help=True, help="See which workers are there; drain and stop them.")

Wait = Annotated[float, typer.Option("--wait", min=0.05, max=30, help="Seconds to collect answers.")]
Name = Annotated[str | None, typer.Argument(metavar="NAME", help="A worker's name or boot id.")]
All = Annotated[bool, typer.Option("--all", help="Every worker.")]
UntilGone = Annotated[
    float | None, typer.Option("--until-gone", min=0.1, metavar="SECONDS", help="Wait until they have left.")
]
HEADERS = ("worker", "pid", "host", "queues", "busy", "version", "up", "state")


@app.command("list")
def list_workers(wait: Wait = 0.5, nats_url: NatsUrl = None, namespace: Namespace = None, json: Json = False) -> None:
    """List the workers that answer now, with their slots and versions."""
    found = asyncio.run(_ask(_settings(nats_url, namespace), {}, wait))
    emit({"workers": found}, json, lambda: table(HEADERS, rows_of(found)) if found else "no worker answers")


@app.command()
def show(
    name: Name = None,
    wait: Wait = 0.5, nats_url: NatsUrl = None, namespace: Namespace = None, json: Json = False,
) -> None:  # fmt: skip
    """Show a worker, or every one, with the tasks it holds, the oldest first."""
    answers = asyncio.run(_ask(_settings(nats_url, namespace), {"detail": True}, wait))
    found = [worker for worker in answers if name in (None, worker["worker"], worker.get("boot_id"))]
    if not found and name is not None:
        fail(_nobody(name, answers), NOT_FOUND)
    emit({"workers": found}, json, lambda: "\n\n".join(_worker(worker) for worker in found) or "no worker answers")


@app.command()
def drain(
    name: Name = None, all: All = False, until_gone: UntilGone = None, yes: Yes = False, wait: Wait = 0.5,
    nats_url: NatsUrl = None, namespace: Namespace = None, json: Json = False,
) -> None:  # fmt: skip
    """Let a worker take nothing new, finish what runs within its grace time, and leave."""
    _control("drain", name, all, until_gone, yes, wait, _settings(nats_url, namespace), json)


@app.command()
def stop(
    name: Name = None, all: All = False, until_gone: UntilGone = None, yes: Yes = False, wait: Wait = 0.5,
    nats_url: NatsUrl = None, namespace: Namespace = None, json: Json = False,
) -> None:  # fmt: skip
    """Let a worker leave now: what runs is stopped and given back without consuming a try."""
    _control("stop", name, all, until_gone, yes, wait, _settings(nats_url, namespace), json)


def rows_of(found: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """The workers for a table with ``HEADERS``."""
    return [
        (printable(w["worker"]), w.get("pid"), printable(w.get("host", "")), _queues(w.get("queues")),
         f"{w.get('executing', w.get('running', '?'))}/{w.get('slots', '?')}", printable(w.get("version", "")),
         _since(w.get("started_at")), "draining" if w.get("draining") else "running")
        for w in found
    ]  # fmt: skip


def _settings(nats_url: str | None, namespace: str | None) -> Settings:
    settings = load_settings(nats_url=nats_url, namespace=namespace)
    require_nats(settings)
    return settings


async def _ask(settings: Settings, question: dict[str, Any], wait: float) -> list[dict[str, Any]]:
    async with talking(settings, "workers") as bus:
        return await ask_workers(bus, Subjects(settings.namespace), question, wait=wait)


def _control(
    action: str, name: str | None, all: bool, until_gone: float | None, yes: bool, wait: float, settings: Settings,
    json: bool,
) -> None:  # fmt: skip
    if (name is None) != all:
        raise OptionError("name one worker, or give --all for every worker; not both")
    if all and not yes:
        if not sys.stdin.isatty():
            raise OptionError(f"--all {action}s the whole fleet of namespace {settings.namespace}; confirm with --yes")
        typer.confirm(f"{action.capitalize()} every worker of namespace {settings.namespace}?", abort=True, err=True)
    asked, left = asyncio.run(_tell(settings, action, name, until_gone, wait))
    if not asked:
        if name is None:
            emit({"asked": []}, json, lambda: "no worker answers")
            return
        fail(_nobody(name, asyncio.run(_ask(settings, {}, wait))), NOT_FOUND)
    done = {"drain": "drains", "stop": "stops"}[action]
    shown = {"asked": asked} if until_gone is None else {"asked": asked, "left": left}
    emit(shown, json, lambda: "\n".join(f"{printable(worker['worker'])} {done}" for worker in asked))
    if left:
        names = ", ".join(printable(worker["worker"]) for worker in left)
        fail(f"still there after {until_gone:g} s: {names}; its grace time may be longer", ERROR)


async def _tell(
    settings: Settings, action: str, name: str | None, until_gone: float | None, wait: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Who was asked, and who of them is still there when the time is over."""
    subjects = Subjects(settings.namespace)
    async with talking(settings, f"workers {action}") as bus:
        farewells: asyncio.Queue[str] = asyncio.Queue()

        async def heard(message: Message) -> None:
            with suppress(ValueError, AttributeError):  # somebody else's message
                about = json_codec.loads(message.data)
                if about.get("want") == 0:
                    farewells.put_nowait(str(about.get("worker")))

        await bus.subscribe(subjects.demand, heard)
        asked = await control_workers(bus, subjects, action, name, actor(), wait=wait)
        if until_gone is None or not asked:
            return asked, []
        return asked, await _gone(asked, farewells, until_gone)


async def _gone(asked: list[dict[str, Any]], farewells: asyncio.Queue[str], seconds: float) -> list[dict[str, Any]]:
    left = {f"{worker['worker']}/{worker['boot_id']}": worker for worker in asked}
    until = time.monotonic() + seconds
    with Progress("left", len(asked)) as bar:
        while left:
            bar.show(len(asked) - len(left))
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    left.pop(await farewells.get(), None)
            except TimeoutError:
                break
    return list(left.values())


def _nobody(name: str, answers: list[dict[str, Any]]) -> str:
    known = [str(worker["worker"]) for worker in answers]
    return f"no worker {name!r} answers{did_you_mean(name, known)}" if known else "no worker answers"


def _worker(worker: dict[str, Any]) -> str:
    lines = [f"{name:<12} {printable(value if not isinstance(value, list) else ', '.join(map(str, value)))}"
             for name, value in worker.items() if name not in ("tasks",)]  # fmt: skip
    tasks = worker.get("tasks") or []
    rows = [
        (task["id"], printable(task["type"]), printable(task["queue"]), task["attempt"], task["place"],
         f"{task['age']:.1f}s")
        for task in tasks
    ]  # fmt: skip
    lines += ["", table(("task", "type", "queue", "attempt", "place", "age"), rows) if rows else "holds no task"]
    return "\n".join(lines)


def _queues(queues: Any) -> str:
    return printable(", ".join(map(str, queues)) if isinstance(queues, list) else queues or "")


def _since(started_at: Any) -> str:
    try:
        return ago(datetime.fromisoformat(started_at))
    except (TypeError, ValueError):
        return ""
