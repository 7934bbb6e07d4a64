"""``dispatcher streams validate|plan|apply|diff|export``: streams.conf and the NATS server, from the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dispatcher.cli.failures import CONFLICT, USAGE
from dispatcher.cli.options import DatabaseUrl, Json, Namespace, NatsUrl, Schema, load_settings, require_nats
from dispatcher.cli.output import emit, fail, note
from dispatcher.settings import Settings
from dispatcher.streams.config import StreamsConfig, load
from dispatcher.streams.plan import Change
from dispatcher.streams.problems import StreamsFileError
from dispatcher.subjects import Subjects

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Check streams.conf and bring the NATS server in line with it.")

T = TypeVar("T")
_MARKS = {"create": "+", "update": "~", "forbidden": "!", "extra": "-", "unknown": "?", "unchanged": " "}
_CONNECT_SECONDS = 5.0

File = Annotated[
    Path | None,
    typer.Option("--file", "-f", metavar="FILE", help="streams.conf (DISPATCHER_STREAMS_CONF); else the built-in one."),
]


@app.command()
def validate(file: File = None, json: Json = False) -> None:
    """Read the file and show every mistake with its line; asks no server.  Code 2 if there is one."""
    path = load_settings(streams_conf=file).streams_conf
    try:
        config = load(path)
    except StreamsFileError as error:
        if json:
            emit({"ok": False, "file": str(path), "problems": list(error.problems)}, True, lambda: None)
        else:
            for problem in error.problems:
                note(str(problem))
        raise SystemExit(USAGE) from None
    name = str(path) if path else "built-in"
    counts = f"streams: {len(config.streams)}, queues: {len(config.queues)}"
    data = {"ok": True, "file": name, "problems": [], "streams": list(config.streams), "queues": list(config.queues)}
    emit(data, json, lambda: f"{name}: ok, {counts}")


@app.command()
def plan(file: File = None, nats_url: NatsUrl = None, namespace: Namespace = None, json: Json = False) -> None:
    """Show what ``apply`` would change on the server; changes nothing."""
    settings, config = _read(file, nats_url=nats_url, namespace=namespace)
    _show(_planned(settings, config), json)


@app.command()
def diff(file: File = None, nats_url: NatsUrl = None, namespace: Namespace = None, json: Json = False) -> None:
    """Like ``plan``, with code 4 if the server is not as the file says: for scheduled checks."""
    settings, config = _read(file, nats_url=nats_url, namespace=namespace)
    changes = _planned(settings, config)
    _show(changes, json)
    if any(change.action != "unchanged" for change in changes):
        raise SystemExit(CONFLICT)


@app.command()
def apply(
    file: File = None,
    nats_url: NatsUrl = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    namespace: Namespace = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete our streams and consumers that the file does not name.")
    ] = False,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Delete and make anew consumers that cannot be changed; loses nothing.")
    ] = False,
    skip_database: Annotated[
        bool, typer.Option("--skip-database", help="Do not write queues and lanes into PostgreSQL.")
    ] = False,
    json: Json = False,
) -> None:
    """Make the server as the file says, and write its queues and lanes into PostgreSQL.  Idempotent."""
    settings, config = _read(file, nats_url=nats_url, namespace=namespace, database_url=database_url, db_schema=schema)
    registered = [] if skip_database else _register(settings, config)

    async def work(bus: Any, subjects: Subjects) -> list[Change]:
        from dispatcher.streams.apply import apply

        return await apply(config, bus, subjects, prune=prune, recreate=recreate)

    _show(_on_bus(settings, work), json, registered)


@app.command()
def export(file: File = None, namespace: Namespace = None, json: Json = False) -> None:
    """Print the streams and consumers as the JSON that the JetStream API and the ``nats`` command take."""
    from dispatcher.streams.wanted import consumer_document, stream_document

    settings, config = _read(file, namespace=namespace)
    subjects = Subjects(settings.namespace)
    consumers = [
        {"stream_name": subjects.stream_name(queue.stream), "config": document}
        for name, queue in config.queues.items()
        for lane in queue.lanes
        for document in [consumer_document(subjects, queue.stream, name, lane, queue)]
    ]
    streams = [stream_document(subjects, name, stream) for name, stream in config.streams.items()]
    emit({"streams": streams, "consumers": consumers}, True, lambda: None)


def _read(file: Path | None, **flags: Any) -> tuple[Settings, StreamsConfig]:
    settings = load_settings(streams_conf=file, **flags)
    try:
        return settings, load(settings.streams_conf)
    except StreamsFileError as error:
        for problem in error.problems[:-1]:
            note(str(problem))
        fail(str(error.problems[-1]), USAGE)


def _planned(settings: Settings, config: StreamsConfig) -> list[Change]:
    async def work(bus: Any, subjects: Subjects) -> list[Change]:
        from dispatcher.streams.plan import plan

        return await plan(config, bus, subjects)

    return _on_bus(settings, work)


def _on_bus(settings: Settings, work: Callable[[Any, Subjects], Awaitable[T]]) -> T:
    """Connect, check the server's version, do the work, disconnect."""
    from dispatcher.bus import Bus
    from dispatcher.streams.server import check_server_version

    require_nats(settings)

    async def run() -> T:
        bus = await Bus.connect(settings, name="dispatcher streams", timeout=_CONNECT_SECONDS)
        try:
            warning = check_server_version(bus.server_version)
            if warning:
                note(f"warning: {warning}")
            return await work(bus, Subjects(settings.namespace))
        finally:
            await bus.close()

    return asyncio.run(run())


def _register(settings: Settings, config: StreamsConfig) -> list[str]:
    """Queues and lanes go first: a stream without them does no harm, a lane without its row refuses tasks."""
    if not config.queues:
        return []
    if not settings.database_url:
        fail(
            "the file names queues, and they belong into PostgreSQL: pass --database-url or set"
            " DISPATCHER_DATABASE_URL, or say --skip-database",
            USAGE,
        )
    from dispatcher.database import connect_sync
    from dispatcher.streams.registry import register_queues

    with connect_sync(settings, "dispatcher streams") as connection:
        return register_queues(connection, config, settings.db_schema)


def _show(changes: Sequence[Change], json: bool, registered: Sequence[str] = ()) -> None:
    counts = {action: sum(change.action == action for change in changes) for action in _MARKS}
    data = {
        "changes": [change.as_json() for change in changes],
        "counts": counts,
        "in_sync": counts["unchanged"] == len(changes),
        "queues_registered": list(registered),
    }
    emit(data, json, lambda: _text(changes, counts, registered))


def _text(changes: Sequence[Change], counts: dict[str, int], registered: Sequence[str]) -> str:
    lines = []
    for change in changes:
        lines.append(f"{_MARKS[change.action]} {change}")
        lines += [f"    {difference}" for difference in change.differences if difference.field != "metadata"]
    lines += [f"+ queue {name}: written into PostgreSQL" for name in registered]
    lines.append(", ".join(f"{count} {action}" for action, count in counts.items() if count) or "nothing to do")
    return "\n".join(lines)
