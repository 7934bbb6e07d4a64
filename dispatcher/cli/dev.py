"""``dispatcher dev module:app``: everything on this machine, found by other commands in the same folder."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dispatcher.cli.failures import NOT_FOUND, USAGE
from dispatcher.cli.options import Json, StreamsConf, load_settings
from dispatcher.cli.output import emit, emit_line, fail, guard, note
from dispatcher.dev.beacon import Beacon, default_folder, found
from dispatcher.embedded import EmbeddedServers
from dispatcher.errors import ConfigurationError
from dispatcher.settings import Settings

__all__ = ["command"]

_DIRECT = "DISPATCHER_DIRECT_DATABASE_URL"
_MISSING = "say which app to run: dispatcher dev MODULE:APP, for example dispatcher dev tasks:app"


def command(
    app: Annotated[str | None, typer.Argument(metavar="MODULE:APP", help="The Dispatcher, such as tasks:app.")] = None,
    queues: Annotated[
        list[str] | None,
        typer.Option("--queues", "-q", help="Queues to serve; else all that the app's task types use, and default."),
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=10_000, help="Tasks at a time.")] = 16,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", metavar="DIR", help="Where the data lies; else ./.dispatcher.")
    ] = None,
    env: Annotated[
        bool, typer.Option("--env", help='Print the running system\'s variables:  eval "$(dispatcher dev --env)"')
    ] = False,
    streams_conf: StreamsConf = None,
    json: Json = False,
) -> None:
    """Start PostgreSQL, NATS, a relay and a worker, keep them up, and say where everything is.

    Other commands in the same folder find them.  The first Ctrl-C lets running tasks finish, the second stops at once;
    data is kept for the next start.  With DISPATCHER_DATABASE_URL and DISPATCHER_NATS_URL those servers are used.
    """
    with guard():
        folder = default_folder() if data_dir is None else data_dir.absolute()
        if env:
            _print_environment(folder, json)
            return
        if app is None:
            fail(_MISSING, USAGE)
        names = _queues(app, queues or [])
        beacon = Beacon(folder)
        try:
            with _servers(folder, load_settings(use_dev=False, streams_conf=streams_conf)) as (settings, servers):
                _run(beacon, _About(folder, app, names, concurrency, settings, servers), json)
        finally:
            beacon.close()


class _About:
    """One system, as it is shown and found."""

    def __init__(
        self, folder: Path, app: str, queues: list[str], slots: int, settings: Settings, servers: EmbeddedServers | None
    ) -> None:
        self.folder, self.app, self.queues, self.slots = folder, app, queues, slots
        self.settings, self.servers = settings, servers

    @property
    def worker(self) -> list[str]:
        """The arguments of ``dispatcher worker``."""
        return [self.app, "-q", ",".join(self.queues), "-c", str(self.slots)]

    def document(self) -> dict[str, Any]:
        """For the beacon and ``--json``."""
        settings = self.settings
        given = {"database_url", "direct_database_url", "nats_url", "db_schema", "namespace", "streams_conf"}
        values = {name: getattr(settings, name) for name in sorted(given)}
        values["streams_conf"] = None if settings.streams_conf is None else str(settings.streams_conf.absolute())
        return {
            "pid": os.getpid(),
            "app": self.app,
            "queues": self.queues,
            "data_dir": str(self.folder),
            "settings": {name: value for name, value in values.items() if value is not None},
        }

    def text(self) -> str:
        """For a person.  Passwords are shown on a terminal only, so that no log file keeps them."""
        from dispatcher.cli.config import mask

        shown = str if sys.stdout.isatty() else mask
        postgres = f"PostgreSQL {self.servers.postgres_version}" if self.servers else "PostgreSQL (as configured)"
        nats = f"NATS {self.servers.nats_version}" if self.servers else "NATS (as configured)"
        place = "" if self.folder == default_folder() else f" --data-dir {shlex.quote(str(self.folder))}"
        rows = [
            (postgres, shown(self.settings.database_url or "")),
            (nats, shown(self.settings.nats_url or "")),
            ("relay, worker", f"{self.app}, queues {', '.join(self.queues)}, {self.slots} tasks at a time"),
            ("data", str(self.folder)),
        ]
        width = max(len(name) for name, _ in rows)
        found_by = "in this folder every dispatcher command finds this system" if not place else "its variables"
        return "\n".join(
            [*(f"  {name:<{width}}  {value}" for name, value in rows), "",
             f"Ready.  From another shell: {found_by};",
             f"your own programs take:  eval \"$(dispatcher dev --env{place})\"",
             "Ctrl-C lets running tasks finish and stops."]
        )  # fmt: skip


def _queues(app: str, wished: list[str]) -> list[str]:
    from dispatcher.load import load_app
    from dispatcher.options import check_queue_name

    loaded = load_app(app)
    if not loaded.task_types:
        raise ConfigurationError(f"{app} has no task types; decorate a function with @app.task in a module it imports")
    names = [part.strip() for text in wished for part in text.split(",") if part.strip()]
    names = names or sorted({"default", *(task_type.queue for task_type in loaded.task_types.values())})
    return [check_queue_name(name) for name in names]


@contextmanager
def _servers(folder: Path, settings: Settings) -> Iterator[tuple[Settings, EmbeddedServers | None]]:
    if settings.database_url and settings.nats_url:
        yield settings, None
        return
    if settings.database_url or settings.nats_url:
        name = "DISPATCHER_NATS_URL" if settings.database_url else "DISPATCHER_DATABASE_URL"
        other = "PostgreSQL" if settings.database_url else "NATS"
        raise ConfigurationError(f"only {other} is configured; set {name} too, or unset both and both are started here")
    note("starting PostgreSQL and NATS ...")
    with EmbeddedServers(folder / "servers") as servers:
        urls = {"database_url": servers.database_url, "direct_database_url": None, "nats_url": servers.nats_url}
        yield settings.model_copy(update=urls), servers


def _run(beacon: Beacon, about: _About, json: bool) -> None:
    from dispatcher.dev.prepare import prepare
    from dispatcher.dev.system import System

    prepare(about.settings)

    def ready() -> None:
        beacon.light(about.document())
        if json:
            emit_line({"ready": True, **about.document()})
        else:
            print(about.text(), flush=True)

    async def keep_up() -> None:
        await System(about.settings, about.servers, about.worker, note, ready).run()

    asyncio.run(keep_up())
    note("stopped; the data is kept" if about.servers else "stopped")


def _print_environment(folder: Path, json: bool) -> None:
    document = found(folder)
    if document is None:
        fail(f"no dispatcher dev runs in {folder}", NOT_FOUND)
    variables = {f"DISPATCHER_{name.upper()}": str(value) for name, value in document["settings"].items()}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if _DIRECT in os.environ and _DIRECT not in variables:  # it would lead a relay to another database than this one
        lines.append(f"unset {_DIRECT}")
    emit(variables, json, lambda: "\n".join(lines))
