"""Retry, cancel and delete by filter: what is touched, what is left, what is written down, on every kind of session."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from dispatcher import Dispatcher, bulk
from dispatcher.errors import OptionError
from state.delete import OWNED
from tests.integration.made_tasks import Made, invariants

app = Dispatcher("bulk", schema="dispatcher")


@pytest.fixture
def made(database_url: str) -> Iterator[Made]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Made(connection)
        invariants(connection)


def settle_messages(made: Made) -> None:
    """As if everything in the outbox had been published, received and acknowledged."""
    made.connection.execute("DELETE FROM dispatcher.outbox")


def states(made: Made, *tasks: UUID) -> list[int | None]:
    found = dict(made.connection.execute("SELECT id, state FROM dispatcher.tasks").fetchall())
    return [found.get(task) for task in tasks]


def test_retry_many_takes_what_matches_and_nothing_else(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    mine = [made.failed(queue="billing") for _ in range(5)]
    others = [made.failed(queue="mail"), made.succeeded(queue="billing"), made.running(queue="billing")]
    dry = app.retry_many(made.connection, state="failed", queue="billing", dry_run=True)
    assert (dry.matched, dry.changed, states(made, *mine)) == (5, 0, [7] * 5)
    answer = app.retry_many(made.connection, queue="billing", error="BOOM", actor="ann")
    assert (answer.matched, answer.changed, answer.outcomes) == (5, 5, {"queued": 5})
    assert (states(made, *mine), states(made, *others)) == ([3] * 5, [7, 6, 4])
    assert made.count("task_events", "actor = 'ann' AND to_state = 3") == 5
    assert made.count("outbox", "attempt = 2") == 5


def test_cancel_many_ends_what_waits_and_asks_what_runs(made: Made) -> None:
    waiting, later, running = made.queued(type="a"), made.queued(type="a", delay=60), made.running(type="a")
    other, done = made.queued(type="b"), made.succeeded(type="a")
    answer = app.cancel_many(made.connection, type="a", actor="ann")
    assert answer.outcomes == {"cancelled": 2, "cancel_requested": 1}
    assert states(made, waiting, later, running, other, done) == [8, 8, 4, 3, 6]


def test_delete_many_removes_every_trace_and_says_so(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    gone = [made.succeeded(key=f"k{n}", tags=("x",)) for n in range(3)] + [made.failed(tags=("x",)) for _ in range(2)]
    stays = [made.running(tags=("x",)), made.queued(tags=("x",)), made.succeeded(tags=("y",))]
    settle_messages(made)
    answer = app.delete_many(made.connection, tag="x", actor="ann")
    assert (answer.matched, answer.changed, answer.outcomes) == (5, 5, {"deleted": 5})
    assert states(made, *gone, *stays) == [None] * 5 + [4, 3, 6]
    for table in OWNED:
        assert not made.count(table, "task_id = ANY (%s)", gone), table
    (row,) = made.connection.execute("SELECT actor, filter, deleted FROM dispatcher.deletions").fetchall()
    assert row == ("ann", {"tag": "x"}, 5)
    again = made.queued(key="k0")
    assert states(made, again) == [3], "the key is free again"


def test_a_message_on_its_way_keeps_its_task(made: Made) -> None:
    in_outbox, published, settled = made.queued(), made.queued(), made.queued()
    app.cancel_many(made.connection, type="t")
    made.connection.execute("DELETE FROM dispatcher.outbox WHERE task_id <> %s", [in_outbox])
    made.connection.execute(
        "INSERT INTO dispatcher.dispatch_log (lane_id, task_ids, attempts, dispatches) VALUES (1, %s, '{1}', '{1}')",
        [[published]],
    )
    answer = app.delete_many(made.connection, state="cancelled")
    assert (answer.outcomes, states(made, in_outbox, published, settled)) == ({"deleted": 1, "kept": 2}, [8, 8, None])


def test_a_task_that_somebody_holds_is_kept_and_nobody_waits(made: Made, database_url: str) -> None:
    held, free = made.failed(), made.failed()
    settle_messages(made)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT 1 FROM dispatcher.tasks WHERE id = %s FOR NO KEY UPDATE", [held])
        made.connection.execute("SET lock_timeout = '1s'")
        answer = app.delete_many(made.connection, state="failed")
    assert (answer.outcomes, states(made, held, free)) == ({"deleted": 1, "kept": 1}, [7, None])


def test_in_the_callers_transaction_nothing_holds_before_its_commit(made: Made, database_url: str) -> None:
    task = made.failed()
    engine = create_engine("postgresql+psycopg://" + database_url.partition("://")[2])
    with Session(engine) as session:
        assert app.retry_many(session, state="failed").changed == 1
        session.rollback()
    engine.dispose()
    assert states(made, task) == [7]

    async def asynchronous() -> Any:
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            return await app.retry_many(connection, state="failed")

    assert asyncio.run(asynchronous()).to_json()["outcomes"] == {"queued": 1}
    assert states(made, task) == [3]


@pytest.mark.parametrize(
    ("call", "filters", "says"),
    [
        ("retry", {}, "at least one filter"),
        ("retry", {"state": "running"}, "state 'running': retry works on tasks that are failed, cancelled"),
        ("cancel", {"state": ["queued", "failed"]}, "state 'failed': cancel works on tasks that are blocked"),
        ("cancel", {"error": "x"}, "error: only failed and cancelled"),
        ("delete", {"state": "queued"}, "state 'queued': delete works on tasks that are succeeded"),
        ("delete", {"stat": "failed"}, "no filter 'stat'; did you mean 'state'?"),
        ("delete", {"queue": ""}, "queue is ''"),
    ],
)
def test_bad_filters_change_nothing(made: Made, call: str, filters: dict[str, Any], says: str) -> None:
    tasks = made.failed(), made.queued(), made.succeeded()
    with pytest.raises(OptionError, match=says.replace("?", r"\?")):
        getattr(app, f"{call}_many")(made.connection, **filters)
    assert states(made, *tasks) == [7, 3, 6]


def test_on_the_command_line(made: Made, cli: Any) -> None:
    tasks = [made.failed(queue="billing") for _ in range(3)]
    settle_messages(made)
    assert "say which tasks" in cli("tasks", "retry").err
    assert "not both" in cli("tasks", "retry", tasks[0], "--state", "failed").err
    unsure = cli("tasks", "retry", "--queue", "billing")
    assert (unsure.code, "3 tasks found; pass --yes" in unsure.err, states(made, *tasks)) == (2, True, [7] * 3)
    dry = cli("tasks", "delete", "--queue", "billing", "--since", "1h", "--dry-run", "--json").json
    assert (dry["dry_run"], dry["matched"], states(made, *tasks)) == (True, 3, [7] * 3)
    assert "no tasks match" in cli("tasks", "cancel", "--queue", "billing", "--yes").out
    assert cli("tasks", "retry", "--state", "failed", "--queue", "billing", "--yes").out == "3 tasks queued again\n"
    assert cli("tasks", "cancel", "-s", "queued", "-q", "billing", "-y", "--json").json["outcomes"] == {"cancelled": 3}
    settle_messages(made)
    assert cli("tasks", "delete", "-q", "billing", "--yes").out == "3 tasks deleted\n"
    (row,) = made.connection.execute("SELECT actor, filter FROM dispatcher.deletions").fetchall()
    assert (row[0].startswith("cli:"), json.loads(json.dumps(row[1]))) == (True, {"queue": "billing"})
