"""``dispatcher enqueue NAME key=value…``: one task, checked by its type when ``--app`` names it."""

from __future__ import annotations

import asyncio
import json as json_codec
import re
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import psycopg
import typer

from dispatcher import status
from dispatcher.cli.asking import asking
from dispatcher.cli.options import DatabaseUrl, Json, Namespace, NatsUrl, Schema, load_settings, require_nats
from dispatcher.cli.output import emit
from dispatcher.errors import KeyConflict, OptionError, UnknownTask, WaitTimeout
from dispatcher.masking import printable
from dispatcher.options import check_queue_name
from dispatcher.settings import Settings
from dispatcher.task_info import TaskInfo
from state.create import CALL_REFUSED, CREATE_CONFLICT, ENQUEUE

__all__ = ["command"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RECHECK = 5.0
"""Seconds after which a waiter looks again by itself: announcements on core NATS may get lost."""


@dataclass(frozen=True)
class _Wish:
    name: str
    arguments: dict[str, Any]
    options: dict[str, Any]


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The task type.")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Arguments; values are JSON, else plain text.")
    ] = None,
    json_args: Annotated[str | None, typer.Option("--json-args", help="Arguments as one JSON object.")] = None,
    app: Annotated[
        str | None, typer.Option("--app", "-A", envvar="DISPATCHER_APP", help="module:app; checks the arguments.")
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Another queue than the type's.")] = None,
    lane: Annotated[str | None, typer.Option("--lane", help="high, default or low.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key.")] = None,
    delay: Annotated[float | None, typer.Option("--delay", min=0, help="Start this many seconds from now.")] = None,
    max_attempts: Annotated[int | None, typer.Option("--max-attempts", min=1, max=32767, help="Most tries.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the task ended and print its result.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait at most.")] = 60.0,
    database_url: DatabaseUrl = None,
    nats_url: NatsUrl = None,
    namespace: Namespace = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Create one task.  Without --app the arguments are stored unchecked, by parameter name."""
    settings = load_settings(database_url=database_url, nats_url=nats_url, namespace=namespace, db_schema=schema)
    given = {"queue": queue, "lane": lane, "key": key, "delay": delay, "max_attempts": max_attempts, "tags": tag}
    options = {option: value for option, value in given.items() if value is not None and value != []}
    wish = _Wish(name, _arguments(values or [], json_args), options)
    with asking(settings) as connection:
        if wait:
            require_nats(settings)
            task_id, created, task = asyncio.run(_create_and_wait(settings, connection, app, wish, timeout))
        else:
            (task_id, created), task = _create(settings, connection, app, wish), None
    _report(task_id, created, task, json)


def _report(task_id: UUID, created: bool, task: TaskInfo | None, json: bool) -> None:
    document: dict[str, Any] = {"id": str(task_id), "created": created}
    if task is not None:
        document["task"] = task.to_json()
    emit(document, json, lambda: _human(task_id, created, task))
    if task is not None and task.state != "succeeded":
        raise typer.Exit(1)


def _human(task_id: UUID, created: bool, task: TaskInfo | None) -> str:
    if task is None:
        return f"{task_id}" if created else f"{task_id}  (the key already had this task)"
    if task.state == "succeeded":
        return f"{task_id}  succeeded\n{printable(json_codec.dumps(task.result, ensure_ascii=False))}"
    return f"{task_id}  {task.state} ({task.reason}) {printable(task.error or '')}".rstrip()


def _arguments(values: list[str], json_args: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if json_args is not None:
        try:
            found = json_codec.loads(json_args, parse_constant=_no_constant)
        except ValueError as error:
            raise OptionError(f"--json-args is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise OptionError("--json-args must be one JSON object, for example '{\"order_id\": 7}'")
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise OptionError(f"argument {text!r} is not of the form name=value")
        if name in found:
            raise OptionError(f"argument {name!r} is given twice")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    try:
        return json_codec.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _create(settings: Settings, connection: psycopg.Connection[Any], app: str | None, wish: _Wish) -> tuple[UUID, bool]:
    if app is not None:
        return _checked(settings, connection, app, wish)
    return _unchecked(settings, connection, wish)


def _checked(settings: Settings, connection: psycopg.Connection[Any], app: str, wish: _Wish) -> tuple[UUID, bool]:
    from dispatcher.load import load_app

    types: dict[str, Any] = dict(load_app(app).task_types)
    if wish.name not in types:
        raise UnknownTask(wish.name, types)
    call = types[wish.name].options(**wish.options).call(**wish.arguments)
    with connection.transaction():
        task = call.enqueue(connection)
    return task.id, task.created


def _unchecked(settings: Settings, connection: psycopg.Connection[Any], wish: _Wish) -> tuple[UUID, bool]:
    options = wish.options
    for name in ("queue", "lane"):
        if name in options:
            check_queue_name(options[name], name)
    parameters = {
        "type": wish.name,
        "args": json_codec.dumps(wish.arguments, separators=(",", ":"), ensure_ascii=False),
        **{name: options.get(name) for name in ("queue", "lane", "delay", "key", "max_attempts", "tags")},
    }
    try:
        row = connection.execute(ENQUEUE.psycopg(settings.db_schema), parameters).fetchone()
    except psycopg.Error as error:
        if error.sqlstate == CALL_REFUSED:
            raise OptionError(str(error.diag.message_primary)) from None
        if error.sqlstate != CREATE_CONFLICT:
            raise
        existing = re.search(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(error).rpartition("belongs to")[2])
        raise KeyConflict(wish.name, options["key"], UUID(existing[0]) if existing else UUID(int=0)) from None
    assert row is not None
    return row[0], row[1]


async def _create_and_wait(
    settings: Settings, connection: psycopg.Connection[Any], app: str | None, wish: _Wish, timeout: float
) -> tuple[UUID, bool, TaskInfo]:
    """Listens before it creates, so that no announcement can be missed; one look at the row for each that fits."""
    from dispatcher.bus import Message
    from dispatcher.cli.talking import talking
    from dispatcher.subjects import Subjects
    from dispatcher.wire import decode_settled

    ended: set[UUID] = set()
    news = asyncio.Event()

    async def settled(message: Message) -> None:
        ended.update(task_id for task_id, _ in decode_settled(bytes(message.data)))
        news.set()

    async with talking(settings, "enqueue") as bus:
        await bus.subscribe(Subjects(settings.namespace).settled, settled)
        task_id, created = _create(settings, connection, app, wish)
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            task = status.get(connection, task_id, schema=settings.db_schema)
            if task.finished:
                return task_id, created, task
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise WaitTimeout(task_id, timeout)
            await _announced(task_id, ended, news, min(left, _RECHECK))


async def _announced(task_id: UUID, ended: set[UUID], news: asyncio.Event, longest: float) -> None:
    try:
        async with asyncio.timeout(longest):
            while task_id not in ended:
                ended.clear()
                news.clear()
                await news.wait()
    except TimeoutError:
        return
    ended.discard(task_id)
