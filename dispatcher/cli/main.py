"""The top command: knows the name, the place and the one-line help of every command, and loads only the one that runs.

Commands are found by module *name*, so that no layer has to import a higher one and ``dispatcher --help`` loads
nothing but typer.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from dispatcher.cli.output import fail, guard, set_debug

__all__ = ["COMMANDS", "app", "main"]


class Place(NamedTuple):
    """Where a command lives.  ``attribute`` is a typer app (nouns) or a function (single verbs)."""

    module: str
    attribute: str
    help: str


COMMANDS: dict[str, Place] = {
    "dev": Place("dispatcher.cli.dev", "command", "Start everything on this machine: PostgreSQL, NATS, relay, worker."),
    "worker": Place("workers.cli", "command", "Run tasks of an application."),
    "relay": Place("dispatcher.cli.relay", "command", "Carry committed tasks to the stream; run timers and rescue."),
    "enqueue": Place("dispatcher.cli.enqueue", "command", "Create one task."),
    "flows": Place("dispatcher.cli.flows", "app", "Show, cancel and retry chains, groups and flows."),
    "tasks": Place("dispatcher.cli.tasks", "app", "List, show, explain, follow, retry, cancel and delete tasks."),
    "queues": Place("dispatcher.cli.queues", "app", "List, pause and resume queues."),
    "workers": Place("dispatcher.cli.workers", "app", "See which workers are there; drain and stop them."),
    "top": Place("dispatcher.cli.top", "command", "Watch queues, workers and relay live."),
    "streams": Place("dispatcher.cli.streams", "app", "Check streams.conf and bring the NATS server in line with it."),
    "migrate": Place("dispatcher.cli.migrate", "app", "Create or change the tables in PostgreSQL."),
    "export": Place("dispatcher.cli.export", "app", "Write least-privilege roles for PostgreSQL and NATS."),
    "prune": Place("dispatcher.cli.prune", "command", "Remove finished tasks that were kept long enough."),
    "config": Place("dispatcher.cli.config", "app", "Show every setting and where its value comes from."),
    "health": Place("dispatcher.cli.health", "command", "Ask a relay or worker on this machine whether it is ready."),
    "bench": Place("dispatcher.cli.bench", "app", "Measure speed on real servers."),
    "demo": Place("dispatcher.cli.demo", "app", "See thousands of tasks survive killed processes, with proof."),
    "drill": Place(
        "dispatcher.cli.drill", "app", "Break servers and processes on purpose, and check that nothing is lost."
    ),
    "version": Place("dispatcher.cli.version", "command", "Show the versions of the package and its parts."),
}


class LazyGroup(TyperGroup):
    """A group whose commands are light stand-ins until one of them is really called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, place in COMMANDS.items():
            self.add_command(TyperCommand(name, help=place.help, add_help_option=False), name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Put the real command in the place of its stand-in."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        if name is None or name not in COMMANDS:
            return name, stand_in, rest
        return name, _load(name, COMMANDS[name]), rest


def _load(name: str, place: Place) -> Any:
    try:
        module = importlib.import_module(place.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] in ("dispatcher", "state", "workers"):
            fail(f"the command {name!r} is not part of this version")
        fail(
            f"the command {name!r} needs the package {missing!r}; install everything with:"
            " pip install 'jetstream-dispatcher[embedded]'"
        )
    found = getattr(module, place.attribute)
    if isinstance(found, typer.Typer):
        group = typer.main.get_group(found)
        group.help = group.help or place.help
        return group
    single = typer.Typer(add_completion=False)
    single.command(name, help=found.__doc__ or place.help)(found)
    return typer.main.get_command(single)


def _show_version(wanted: bool) -> None:
    if wanted:
        from dispatcher.cli.version import version_of

        print(f"dispatcher {version_of('jetstream-dispatcher') or 'unknown (not installed)'}")
        raise typer.Exit()


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _top(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (also DISPATCHER_DEBUG=1).")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Dispatch tasks through PostgreSQL and NATS JetStream.

    Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 server unavailable.
    """
    if debug:
        set_debug(True)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with the command's exit code."""
    with guard():
        app(args=None if args is None else list(args), prog_name="dispatcher")
