"""``dispatcher drill``: faults on purpose, and what remained true; exit code 0 only if all of it did."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dispatcher.cli.campaign import Entry, campaign
from dispatcher.cli.options import Json, load_settings, require_database, require_nats
from dispatcher.cli.output import emit, emit_line, guard, note, table
from dispatcher.errors import ConfigurationError
from dispatcher.settings import Settings

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
    skip: Annotated[
        list[str] | None, typer.Option("--skip", metavar="NAME", help="With all: leave this drill out; repeatable.")
    ] = None,
    configured: Annotated[
        bool,
        typer.Option(
            "--configured",
            help="On the servers of DISPATCHER_DATABASE_URL and DISPATCHER_NATS_URL, in a schema of its own.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Run two relays, four workers and a client on real servers behind a proxy, break something, check everything."""
    with guard():
        theirs = _configured() if configured else None
        chosen = _chosen(name, skip or [], configured)
        seed = secrets.randbelow(1 << 31) if seed is None else seed
        folder = None if keep is None else keep.absolute()
        if name != "all":
            good = _run(name, tasks, kills, seed, folder, theirs, json).ok
        else:
            good = _campaign(
                [Entry(each, *_numbers(each, tasks, kills), seed) for each in chosen], folder, theirs, json
            )
    if not good:
        raise SystemExit(1)


@app.command()
def proof(json: Json = False) -> None:
    """The whole campaign: every drill, then 200 faults over 10,000 tasks with three seeds; about half an hour.

    A drill that only missed a limit of time is run once more, and the last lines say so.
    """
    with guard():
        drills = [Entry(each, *_numbers(each, None, None), 1) for each in _chosen("all", ["mixed"], configured=False)]
        drills += [Entry("mixed", 10_000, 200, seed) for seed in (1, 2, 3)]
        good = _campaign(drills, None, None, json, tries=2)
    if not good:
        raise SystemExit(1)


def _configured() -> Settings:
    settings = load_settings().direct()
    require_database(settings)
    require_nats(settings)
    return settings


def _chosen(name: str, skip: list[str], configured: bool) -> list[str]:
    from dispatcher.drill.drills import DRILLS

    for each in ([] if name == "all" else [name]) + skip:
        if each not in DRILLS:
            raise ConfigurationError(f"there is no drill {each!r}; see: dispatcher drill list")
    if skip and name != "all":
        raise ConfigurationError("--skip goes with: dispatcher drill run all")
    refused = [each for each, drill in DRILLS.items() if configured and drill.needs_own_servers]
    if name in refused:
        raise ConfigurationError(f"{name} ends or damages servers; it is not done to yours: leave out --configured")
    if refused and name == "all":
        note(f"left out, because they end or damage servers: {', '.join(refused)}")
    return [each for each in DRILLS if each not in (*skip, *refused)]


def _numbers(name: str, tasks: int | None, kills: int | None) -> tuple[int | None, int | None]:
    """Of one drill among all of them: the long ones are shorter there."""
    from dispatcher.drill.drills import DRILLS

    least = DRILLS[name].in_all
    return (tasks, kills) if least is None else (tasks or least[0], kills or least[1])


def _campaign(entries: list[Entry], keep: Path | None, theirs: Settings | None, json: bool, tries: int = 1) -> bool:
    def run(entry: Entry) -> Any:
        folder = None if keep is None else keep / entry.drill
        return _run(entry.drill, entry.tasks, entry.kills, entry.seed, folder, theirs, json)

    def failed(entry: Entry, why: str) -> None:
        note(f"{entry}: {why}")
        if json:
            emit_line({"ok": False, "drill": entry.drill, "seed": entry.seed, "error": why})

    return campaign(entries, run, failed, tries)


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


def _run(
    name: str, tasks: int | None, kills: int | None, seed: int, keep: Path | None, theirs: Settings | None, json: bool
) -> Any:
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
    with opened(keep, plan, theirs) as place:
        course = perform(place, drill, lambda text: note(f"[{time.monotonic() - began:5.1f} s] {text}"))
        verdict = check(place, course)
        versions = place.versions
    _show(verdict, keep, json, time.monotonic() - began, versions)
    return verdict


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
            _show(verdict, folder, json, time.monotonic() - began, place.versions)
            if serve:
                note(f"database: {place.direct.database_url}\nNATS: {place.direct.nats_url}\nCtrl-C ends them")
                while True:
                    time.sleep(3600)
    if not verdict.ok:
        raise SystemExit(1)


@app.command("table")
def table_(
    results: Annotated[Path, typer.Argument(metavar="FILE", help="What `dispatcher drill run all --json` printed.")],
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="PAGE", help="Put it between <!-- table --> and <!-- /table --> in this file."),
    ] = None,
) -> None:
    """Make the Markdown table of docs/fault-campaign.md from the results of a campaign."""
    with guard():
        from dispatcher.drill.table import markdown, put, read_results

        found = read_results(results)
        if into is None:
            print(markdown(found), end="")
        else:
            put(found, into)


def _show(verdict: Any, kept: Path | None, json: bool, seconds: float, versions: str) -> None:
    from dispatcher.bench.facts import machine
    from dispatcher.drill.report import report

    if json:
        where = {name: machine()[name] for name in ("cores", "cpu")}
        emit_line({
            **verdict.to_json(), "seconds": round(seconds, 1), "kept": None if kept is None else str(kept),
            "date": f"{datetime.now(UTC):%Y-%m-%d}", "servers": versions, **where,
        })  # fmt: skip
    else:
        print(report(verdict, kept, seconds), flush=True)
