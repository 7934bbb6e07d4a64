"""``dispatcher tasks list|show|history|stats`` and the commands of the other files about tasks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dispatcher import attempt_log, status
from dispatcher.attempt_log import AttemptLog
from dispatcher.cli import bulk
from dispatcher.cli.asking import ago, asking, moment
from dispatcher.cli.explain import explain
from dispatcher.cli.options import DatabaseUrl, Json, Schema, load_settings
from dispatcher.cli.output import emit, note, table, to_json
from dispatcher.cli.tail import tail
from dispatcher.masking import printable
from dispatcher.task_info import Event, Page, QueueInfo, TaskInfo, jsonable

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, show, explain, follow, retry, cancel and delete tasks.")
TaskId = Annotated[str, typer.Argument(metavar="ID", help="The task's id.")]


@app.command("list")
def list_tasks(
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help="Only these states; repeat it or use commas.")
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Only this queue.")] = None,
    type: Annotated[str | None, typer.Option("--type", "-t", help="Only this task type.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only tasks with this tag.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Only tasks with this key.")] = None,
    error: Annotated[str | None, typer.Option("--error", help="Only failures whose error contains this text.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="Created at or after: 2026-01-31, 15m, 2h, 7d.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Created before.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="At most so many, 1 to 1000.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where an earlier list ended.")] = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """List tasks, newest first."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    after, before = moment("--since", since), moment("--until", until)
    with asking(settings) as connection:
        page = status.list_(
            connection, state=bulk.states_of(state), queue=queue, type=type, tag=tag, key=key, error=error,
            created_after=after, created_before=before, limit=limit, cursor=cursor, schema=settings.db_schema,
        )  # fmt: skip
    emit(page.to_json(), json, lambda: _page(page))


@app.command()
def show(task_id: TaskId, database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """Show everything about one task, with what its attempts logged; secret arguments and results are masked."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        task = status.get(connection, task_id, schema=settings.db_schema)
        logs = attempt_log.logs(connection, task_id, schema=settings.db_schema)
    emit({**task.to_json(), "logs": [log.to_json() for log in logs]}, json, lambda: _task(task) + _logs(logs))


@app.command()
def history(task_id: TaskId, database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """Show every move of one task, oldest first."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        events = status.history(connection, task_id, schema=settings.db_schema)
    emit({"id": task_id, "events": jsonable(events)}, json, lambda: _events(events))


@app.command()
def stats(database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
    """Count tasks by queue and state, with the age of the oldest queued one."""
    settings = load_settings(database_url=database_url, db_schema=schema)
    with asking(settings) as connection:
        queues = status.queues(connection, schema=settings.db_schema)
    total: dict[str, int] = {}
    for queue in queues:
        for name, n in queue.counts.items():
            total[name] = total.get(name, 0) + n
    emit({"total": total, "queues": jsonable(queues)}, json, lambda: _stats(queues, total))


app.command("explain")(explain)
app.command("tail")(tail)
app.command("retry")(bulk.retry)
app.command("cancel")(bulk.cancel)
app.command("delete")(bulk.delete)


def _page(page: Page) -> str:
    if not page.tasks and page.next is None:
        return "no tasks match"
    rows = [
        (t.id, printable(t.type), t.queue, t.state + (" (parked)" if t.parked else ""), f"{t.tries}/{t.max_attempts}",
         ago(t.created_at), _short(str(t.error) if t.error else t.reason))
        for t in page.tasks
    ]  # fmt: skip
    if page.next is not None:
        note(f"more: --cursor {page.next}")
    return table(("id", "type", "queue", "state", "tries", "age", "reason"), rows)


def _short(text: str | None) -> str:
    line = printable(" ".join((text or "").split()))
    return line if len(line) <= 60 else line[:59] + "…"


def _task(task: TaskInfo) -> str:
    shown = {name: value for name, value in task.to_json().items() if value not in (None, (), [], {}, False)}
    error = shown.pop("error", None)
    lines = [f"{name:<16} {_value(value)}" for name, value in shown.items()]
    if task.error is not None:
        lines.append(f"{'error':<16} {printable(task.error)}")
    if error and error["traceback"]:
        lines.append(printable(error["traceback"]))
    return "\n".join(lines)


def _logs(logs: tuple[AttemptLog, ...]) -> str:
    lines = []
    for log in logs:
        before = f", {log.dropped} lines before these not kept" if log.dropped else ""
        lines.append(f"\nlog of attempt {log.attempt}{before}")
        lines += [
            f"  {line.at.isoformat(timespec='milliseconds')} {line.level:7} {printable(line.logger)}: "
            + printable(line.message).replace("\n", "\n    ")
            for line in log.lines
        ]
    return "\n".join(["", *lines]) if lines else ""


def _value(value: Any) -> str:
    return printable(value if isinstance(value, str) else to_json(value))


def _events(events: list[Event]) -> str:
    rows = [
        (e.seq, e.at.isoformat(timespec="milliseconds"), e.from_state or "", e.to_state, e.attempt, e.reason or "",
         printable(e.actor or e.worker or ""), _short(_detail(e.detail)))
        for e in events
    ]  # fmt: skip
    return table(("seq", "at", "from", "to", "attempt", "reason", "by", "detail"), rows)


def _detail(detail: Any) -> str:
    if isinstance(detail, dict) and "message" in detail:
        return f"{detail['type']}: {detail['message']}" if detail.get("type") else str(detail["message"])
    return "" if detail is None else to_json(detail)


def _stats(queues: list[QueueInfo], total: dict[str, int]) -> str:
    states = list(dict.fromkeys(["queued", "running", "retrying", "succeeded", "failed", *total]))
    rows = [
        (queue.name + (" (paused)" if queue.paused else ""), *(queue.counts.get(name, 0) for name in states),
         ago(queue.oldest_queued_at))
        for queue in queues
    ]  # fmt: skip
    rows.append(("all", *(total.get(name, 0) for name in states), ""))
    return table(("queue", *states, "oldest queued"), rows)
