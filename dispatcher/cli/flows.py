"""``dispatcher flows show|state|history|cancel|retry|again|delete``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from dispatcher.cli.asking import actor, ago, asking
from dispatcher.cli.options import DatabaseUrl, Json, Schema, load_settings
from dispatcher.cli.output import emit, emit_line, table
from dispatcher.flow_info import FlowNode
from dispatcher.flow_status import (
    again_steps,
    cancel_steps,
    delete_steps,
    history_steps,
    info_steps,
    retry_steps,
    tree_steps,
)
from dispatcher.masking import printable
from dispatcher.task_info import Answer, jsonable
from dispatcher.tx import run_steps

__all__ = ["app", "drawn"]

app = typer.Typer(no_args_is_help=True, help="Show, cancel and retry chains, groups and flows.")
FlowId = Annotated[str, typer.Argument(metavar="ID", help="The flow's id.")]
_MOST_SHOWN = 20
_FOLLOW_SECONDS = 0.5


@app.command()
def show(
    flow_id: FlowId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Draw it again until it has ended.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Draw every part of large groups.")] = False,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Draw the tree of a flow with every state; --json gives it whole."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    lines = 0
    with asking(settings) as connection:
        while True:
            tree = run_steps(connection, tree_steps(flow_id), settings.db_schema, atomic=False)
            going_on = follow and tree.state == "running"
            if json and follow:
                emit_line(tree.to_json())
            elif json:
                emit(tree.to_json(), True, lambda: None)
            else:
                text = "\n".join(drawn(tree, None if everything else _MOST_SHOWN))
                print((f"\x1b[{lines}F\x1b[J" if lines else "") + text, flush=True)
                lines = text.count("\n") + 1
            if not going_on:
                return
            time.sleep(_FOLLOW_SECONDS)


@app.command()
def state(flow_id: FlowId, database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """Show a flow's state and its tasks by state, without the tree."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        info = run_steps(connection, info_steps(flow_id), settings.db_schema, atomic=False)
    counted = ", ".join(f"{n:,} {name}" for name, n in sorted(info.counts.items()))
    emit(info.to_json(), json, lambda: f"{info.kind} {info.id}: {info.state} ({counted})")


@app.command()
def history(flow_id: FlowId, database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """Show every change of a flow's state, oldest first."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        events = run_steps(connection, history_steps(flow_id), settings.db_schema, atomic=False)
    rows = [(event.seq, event.state, event.at.isoformat(timespec="milliseconds"), event.actor) for event in events]
    emit({"id": flow_id, "events": jsonable(events)}, json, lambda: table(("seq", "state", "at", "by"), rows))


@app.command()
def cancel(flow_id: FlowId, database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """Cancel every task of a flow that has not ended."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        answers = run_steps(connection, cancel_steps(flow_id, actor()), settings.db_schema)
    emit(_answered(answers), json, lambda: _counted(answers))


@app.command()
def retry(flow_id: FlowId, database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """Run the failed and cancelled parts of a flow again; what waits for them follows."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        answers = run_steps(connection, retry_steps(flow_id, actor()), settings.db_schema)
    emit(_answered(answers), json, lambda: _counted(answers))


@app.command()
def again(flow_id: FlowId, database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """Run a whole flow again, also what succeeded, as a new one with an id of its own."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        copy = run_steps(connection, again_steps(flow_id), settings.db_schema)
    emit({"id": copy, "copy_of": flow_id}, json, lambda: str(copy))


@app.command()
def delete(flow_id: FlowId, database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """Remove a flow that has ended, with all its tasks and their history, for good; all of it or nothing."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        gone = run_steps(connection, delete_steps(flow_id, actor()), settings.db_schema)
    emit({"id": flow_id, "deleted": gone}, json, lambda: f"deleted, with {gone:,} tasks")


def _answered(answers: list[Answer]) -> dict[str, Any]:
    return {"tasks": jsonable(answers), "outcomes": Counter(answer.outcome for answer in answers)}


def _counted(answers: list[Answer]) -> str:
    found = Counter(answer.outcome for answer in answers)
    return ", ".join(f"{n:,} {outcome}" for outcome, n in found.items()) or "nothing to do"


def drawn(node: FlowNode, most: int | None) -> Iterator[str]:
    """The tree as lines; of a flow with more than ``most`` parts only the first ones, and a count of the others."""
    yield _line(node)
    yield from _below(node, "", most)


def _below(node: FlowNode, margin: str, most: int | None) -> Iterator[str]:
    shown = node.parts if most is None or len(node.parts) <= most else node.parts[:most]
    hidden = Counter(part.state for part in node.parts[len(shown) :])
    for i, part in enumerate(shown):
        last = i == len(shown) - 1 and not hidden
        yield f"{margin}{'└─ ' if last else '├─ '}{_line(part)}"
        yield from _below(part, margin + ("   " if last else "│  "), most)
    if hidden:
        yield f"{margin}└─ and {hidden.total():,} more: {', '.join(f'{n:,} {state}' for state, n in hidden.items())}"


_SIGNS = {"succeeded": "✓", "failed": "✗", "partly_succeeded": "±", "cancelled": "-", "running": "▶", "blocked": "…"}


def _line(node: FlowNode) -> str:
    name = " ".join(filter(None, (node.name, f"({node.type})" if node.name and node.type else node.type)))
    words = [_SIGNS.get(node.state, "·"), printable(name) if name else node.kind, node.state]
    if node.kind != "task" and name:
        words.insert(1, node.kind)
    if node.reason:
        words.append(f"({node.reason})")
    if (node.attempt or 1) > 1:
        words.append(f"attempt {node.attempt}")
    if node.finished_at is not None:
        words.append(f"{ago(node.finished_at)} ago")
    return " ".join([*words, str(node.id)])
