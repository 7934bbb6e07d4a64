"""``dispatcher tasks retry|cancel|delete``: tasks named by their ids, or all that match some filters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import psycopg
import typer
from psycopg.rows import TupleRow

from dispatcher import status
from dispatcher.bulk import Action, Bulk, BulkAnswer
from dispatcher.cli.asking import actor, asking, moment
from dispatcher.cli.failures import CONFLICT, NOT_FOUND
from dispatcher.cli.options import DatabaseUrl, Json, Schema, Yes, load_settings
from dispatcher.cli.output import emit
from dispatcher.cli.progress import Progress
from dispatcher.errors import OptionError
from dispatcher.settings import Settings
from dispatcher.task_info import Answer, jsonable

__all__ = ["cancel", "delete", "retry", "states_of"]

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of tasks; or use filters.")]
State = Annotated[list[str] | None, typer.Option("--state", "-s", help="Only these states; repeat it or use commas.")]
Queue = Annotated[str | None, typer.Option("--queue", "-q", help="Only this queue.")]
Type = Annotated[str | None, typer.Option("--type", "-t", help="Only this task type.")]
Tag = Annotated[str | None, typer.Option("--tag", help="Only tasks with this tag.")]
Error = Annotated[str | None, typer.Option("--error", help="Only failures whose error contains this text.")]
Since = Annotated[str | None, typer.Option("--since", help="Created at or after: 2026-01-31, 15m, 2h, 7d.")]
Until = Annotated[str | None, typer.Option("--until", help="Created before: 2026-01-31, 15m, 2h, 7d.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count what matches; change nothing.")]

_DONE = {"retry": "queued again", "cancel": "cancelled or asked to stop", "delete": "deleted"}
_LEFT = {
    "not_retryable": "changed meanwhile and not retried",
    "too_late": "ended meanwhile",
    "cancel_requested": "of them run; their workers are told to stop",
    "kept": "kept for now: somebody holds them, or their message is still on its way",
    "not_found": "gone meanwhile",
}


def retry(
    ids: Ids = None, state: State = None, queue: Queue = None, type: Type = None, tag: Tag = None, error: Error = None,
    since: Since = None, until: Until = None, dry_run: DryRun = False, yes: Yes = False,
    database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False,
) -> None:  # fmt: skip
    """Run failed or cancelled tasks again, with all their tries."""
    filters = _filters(state, queue, type, tag, error, since, until)
    _perform("retry", status.retry, ids, filters, dry_run, yes, load_settings(database_url=database_url,
             db_schema=schema), json)  # fmt: skip


def cancel(
    ids: Ids = None, state: State = None, queue: Queue = None, type: Type = None, tag: Tag = None,
    since: Since = None, until: Until = None, dry_run: DryRun = False, yes: Yes = False,
    database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False,
) -> None:  # fmt: skip
    """Cancel tasks.  Waiting ones end at once, running ones are asked to stop."""
    filters = _filters(state, queue, type, tag, None, since, until)
    _perform("cancel", status.cancel, ids, filters, dry_run, yes, load_settings(database_url=database_url,
             db_schema=schema), json)  # fmt: skip


def delete(
    state: State = None, queue: Queue = None, type: Type = None, tag: Tag = None, error: Error = None,
    since: Since = None, until: Until = None, dry_run: DryRun = False, yes: Yes = False,
    database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False,
) -> None:  # fmt: skip
    """Remove tasks that have ended, with their history, for good; the table deletions says who did."""
    filters = _filters(state, queue, type, tag, error, since, until)
    _perform("delete", None, None, filters, dry_run, yes, load_settings(database_url=database_url, db_schema=schema),
             json)  # fmt: skip


def states_of(given: list[str] | None) -> list[str] | None:
    """Every state named by ``--state``, commas split; ``None`` when none is."""
    return [name.strip() for part in given or () for name in part.split(",")] or None


def _filters(
    state: list[str] | None, queue: str | None, type: str | None, tag: str | None, error: str | None,
    since: str | None, until: str | None,
) -> dict[str, Any]:  # fmt: skip
    found = {
        "state": states_of(state), "queue": queue, "type": type, "tag": tag, "error": error,
        "created_after": moment("--since", since), "created_before": moment("--until", until),
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def _perform(
    action: Action, ask: Callable[..., Any] | None, ids: list[str] | None, filters: dict[str, Any],
    dry_run: bool, yes: bool, settings: Settings, json: bool,
) -> None:  # fmt: skip
    if ids and (filters or dry_run):
        raise OptionError("give ids or filters, not both; --dry-run goes with filters")
    if ids and ask is not None:
        with asking(settings) as connection, connection.transaction():
            answers: list[Answer] = ask(connection, ids, actor=actor(), schema=settings.db_schema)
        _show_answers(answers, json)
        return
    if not filters:
        what = "ids or " if ask is not None else ""
        raise OptionError(f"say which tasks: give {what}a filter such as --state, --queue, --type or --since")
    counting = Bulk(action, filters, dry_run=True, schema=settings.db_schema)
    with asking(settings) as connection:
        matched = None
        if dry_run or not yes:
            found = _run(counting, connection, "counting", None)
            matched = found.matched
            if dry_run or not matched:
                emit(found.to_json(), json, lambda: f"{matched:,} tasks match; nothing was changed")
                return
            _confirm(action, matched)
        bulk = Bulk(action, filters, actor=actor(), schema=settings.db_schema)
        answer = _run(bulk, connection, action, matched)
    emit(answer.to_json(), json, lambda: _told(answer))


def _run(bulk: Bulk, connection: psycopg.Connection[TupleRow], what: str, total: int | None) -> BulkAnswer:
    with Progress(what, total) as bar:
        answer: BulkAnswer = bulk.run(connection, lambda so_far: bar.show(so_far.matched))
    return answer


def _confirm(action: str, matched: int) -> None:
    if not sys.stdin.isatty():
        raise OptionError(f"{_tasks(matched)} found; pass --yes to {action} them, or --dry-run to only count")
    typer.confirm(f"{action.capitalize()} {_tasks(matched)}?", abort=True, err=True)


def _told(answer: BulkAnswer) -> str:
    lines = [f"{_tasks(answer.changed)} {_DONE[answer.action]}" if answer.matched else "no tasks match"]
    lines += [f"{n:,} {_LEFT[name]}" for name, n in answer.outcomes.items() if name in _LEFT and n]
    return "\n".join(lines)


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number:,} tasks"


def _show_answers(answers: list[Answer], json: bool) -> None:
    emit({"answers": jsonable(answers)}, json, lambda: "\n".join(_answer(answer) for answer in answers))
    code = _exit_code(answer.outcome for answer in answers)
    if code:
        raise typer.Exit(code)


def _exit_code(outcomes: Iterable[str]) -> int:
    found = set(outcomes)
    if "not_found" in found:
        return NOT_FOUND
    return CONFLICT if found & {"too_late", "not_retryable"} else 0


def _answer(answer: Answer) -> str:
    text = {
        "cancelled": "cancelled",
        "cancel_requested": "is running; its worker is told to stop",
        "too_late": f"too late, it is {answer.state}",
        "queued": "queued again",
        "not_retryable": f"not retried: it is {answer.state}; only failed and cancelled tasks can be",
        "not_found": "no such task",
    }
    return f"{answer.id}  {text[answer.outcome]}"
