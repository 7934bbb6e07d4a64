"""``dispatcher drill list|run|check``: faults on purpose, and what remained true; exit code 0 only if all of it did."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dispatcher.cli.options import Json
from dispatcher.cli.output import emit, emit_line, guard, note, table
from dispatcher.errors import ConfigurationError

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Break real servers and processes on purpose, and check that nothing was lost.  Servers of its own.",
)


@app.command("list")
def list_(json: Json = False) -> None:
    """Every drill with what it breaks."""
    with guard():
        from dispatcher.drill.drills import DRILLS

        shown = [
            {"name": name, "tasks": drill.tasks, "kills": drill.kills, "breaks": drill.text}
            for name, drill in DRILLS.items()
        ]
        emit(shown, json, lambda: table(["name", "tasks", "kills", "breaks"], [list(row.values()) for row in shown]))


@app.command()
def run(
    name: Annotated[
        str, typer.Argument(metavar="NAME|all", help="A drill of `dispatcher drill list`, or all of them.")
    ],
    tasks: Annotated[int | None, typer.Option("--tasks", min=20, max=200_000, help="Tasks to be committed.")] = None,
    kills: Annotated[int | None, typer.Option("--kills", min=1, max=10_000, help="Faults to be done.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="For the same schedule of faults again.")] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Keep data, ledgers, faults and logs in this new folder."),
    ] = None,
    json: Json = False,
) -> None:
    """Run two relays, four workers and a client on real servers behind a proxy, break something, check everything."""
    with guard():
        from dispatcher.drill.drills import DRILLS

        if name != "all" and name not in DRILLS:
            raise ConfigurationError(f"there is no drill {name!r}; see: dispatcher drill list")
        seed = secrets.randbelow(1 << 31) if seed is None else seed
        folder = None if keep is None else keep.absolute()
        good = True
        for each in DRILLS if name == "all" else [name]:
            own = folder / each if folder is not None and name == "all" else folder
            good = _run(each, tasks, kills, seed, own, json) and good
    if not good:
        raise SystemExit(1)


@app.command()
def planted(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[BUG]...", help="Some of them, for example M1 M5; else all.")
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, max=20, help="Seeds to try before a bug counts as missed.")] = 3,
    json: Json = False,
) -> None:
    """Take guards out of the processes, one at a time, and see that the checker notices; and only then."""
    with guard():
        from dispatcher.drill.hunt import controls, hunt
        from dispatcher.drill.plants import PLANTS

        chosen = names or list(PLANTS)
        if unknown := [name for name in chosen if name not in PLANTS]:
            raise ConfigurationError(f"there is no planted bug {unknown[0]!r}; there are {', '.join(PLANTS)}")
        logging.getLogger("dispatcher").setLevel(logging.ERROR)
        began = time.monotonic()
        found = []
        for name in chosen:
            found.append(hunt(name, runs, note))
            note(f"{name}  {PLANTS[name].text}: {'; '.join(found[-1].by) or 'NOT CAUGHT'} {found[-1].trouble}")
        clean = controls(chosen, runs, note)
        result = {
            "planted": len(found),
            "caught": sum(bool(catch.by) for catch in found),
            "clean": all(not catch.by and not catch.trouble for catch in clean),
            "seconds": round(time.monotonic() - began, 1),
            "runs": {catch.name: asdict(catch) | {"bug": PLANTS[catch.name].text} for catch in found},
            "without": [asdict(catch) for catch in clean],
        }
        emit(result, json, lambda: _planted_text(found, clean))
    if result["caught"] != result["planted"] or not result["clean"]:
        raise SystemExit(1)


def _planted_text(found: list[Any], clean: list[Any]) -> str:
    rows = [[c.name, c.drill, c.runs, "; ".join(c.by)[:70] or f"NOT CAUGHT {c.trouble}"] for c in found]
    rows += [[c.name, c.drill, c.runs, "; ".join((*c.by, c.trouble)) if c.by or c.trouble else "good"] for c in clean]
    caught = sum(bool(catch.by) for catch in found)
    shown = table(["planted", "drill", "in run", "what the checker says"], rows)
    return f"{shown}\n{caught} of {len(found)} planted bugs were caught"


def _run(name: str, tasks: int | None, kills: int | None, seed: int, keep: Path | None, json: bool) -> bool:
    from dispatcher.drill.checker import check
    from dispatcher.drill.course import perform
    from dispatcher.drill.drills import DRILLS
    from dispatcher.drill.place import Plan, opened

    logging.getLogger("dispatcher").setLevel(logging.ERROR)  # that servers are away is no news here
    began = time.monotonic()
    drill = DRILLS[name]
    plan = Plan(
        name, tasks or drill.tasks, kills or drill.kills, seed, drill.default_settings, drill.streams
    )  # fmt: skip
    with opened(keep, plan) as place:
        course = perform(place, drill, lambda text: note(f"[{time.monotonic() - began:5.1f} s] {text}"))
        verdict = check(place, course)
    _show(verdict, keep, json, time.monotonic() - began)
    return verdict.ok


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `dispatcher drill run --keep DIR` left.")],
    json: Json = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Afterwards keep the servers up, and print their URLs, until Ctrl-C.")
    ] = False,
) -> None:
    """Start the kept servers again and check everything anew."""
    with guard():
        from dispatcher.drill.checker import check
        from dispatcher.drill.place import reopened

        began = time.monotonic()
        with reopened(folder.absolute()) as place:
            verdict = check(place)
            _show(verdict, folder, json, time.monotonic() - began)
            if serve:
                note(f"database: {place.direct.database_url}\nNATS: {place.direct.nats_url}\nCtrl-C ends them")
                while True:
                    time.sleep(3600)
    if not verdict.ok:
        raise SystemExit(1)


def _show(verdict: Any, kept: Path | None, json: bool, seconds: float) -> None:
    from dispatcher.drill.report import report

    if json:
        emit_line({**verdict.to_json(), "seconds": round(seconds, 1), "kept": None if kept is None else str(kept)})
    else:
        print(report(verdict, kept, seconds), flush=True)
