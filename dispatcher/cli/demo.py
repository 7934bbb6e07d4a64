"""``dispatcher demo`` and ``dispatcher demo verify DIR``: exit code 0 only if the proof holds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dispatcher.cli.options import Json
from dispatcher.cli.output import emit_line, guard

__all__ = ["app"]

app = typer.Typer(invoke_without_command=True, help="See thousands of tasks survive killed processes, with proof.")


@app.callback()
def run(
    context: typer.Context,
    json: Json = False,
    tasks: Annotated[int, typer.Option("--tasks", min=200, max=200_000, help="How many orders are committed.")] = 5000,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep data, ledgers and logs in this new folder.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="For the same orders and files again.")] = None,
) -> None:
    """Run real servers, a relay, two workers and a service; kill some of them with -9; prove that nothing was lost.

    Uses DISPATCHER_DATABASE_URL and DISPATCHER_NATS_URL when both are set, otherwise servers of its own.
    """
    if context.invoked_subcommand is not None:
        return
    with guard():
        from dispatcher.demo.place import opened
        from dispatcher.demo.proof import prove
        from dispatcher.demo.run import perform
        from dispatcher.demo.show import Show

        began = time.monotonic()
        # the display starts first: making a database takes its seconds too
        with Show(tasks) as show, opened(None if keep is None else keep.absolute(), tasks, seed) as place:
            perform(place, show)
            show.say("computing the proof")
            proof = prove(place)
        _finish(proof, keep, json, time.monotonic() - began)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `dispatcher demo --keep DIR` left.")],
    json: Json = False,
) -> None:
    """Start the kept servers again and compute the proof anew."""
    with guard():
        from dispatcher.demo.place import reopened
        from dispatcher.demo.proof import prove

        began = time.monotonic()
        with reopened(folder.absolute()) as place:
            proof = prove(place)
        _finish(proof, folder, json, time.monotonic() - began)


def _finish(proof: Any, kept: Path | None, json: bool, seconds: float) -> None:
    from dispatcher.demo.report import report

    if json:
        emit_line({**proof.to_json(), "seconds": round(seconds, 1), "kept": None if kept is None else str(kept)})
    else:
        print(report(proof, kept, seconds), flush=True)
    if not proof.ok:
        raise SystemExit(1)
