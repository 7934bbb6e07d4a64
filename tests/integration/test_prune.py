"""Retention: what is past its time goes with every side row, in bounded steps; what is needed stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import tuple_row

from dispatcher.cli.main import main
from dispatcher.database import Database
from dispatcher.relay import pruner
from dispatcher.relay.pruner import Pruned, Pruner
from dispatcher.settings import Settings
from dispatcher.streams.config import StreamsConfig, loads
from dispatcher.streams.units import FOREVER
from state.audit import VIOLATIONS
from state.delete import NOT_OWNED, OWNED
from state.machine import State
from tests.integration.made_tasks import Made


@pytest.fixture
def made(database_url: str) -> Iterator[Made]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Made(connection)


def ended(made: Made, state: int, queue: str = "q", **options: Any) -> UUID:
    task = made.running(queue=queue, **options)
    made.connection.execute("DELETE FROM dispatcher.outbox WHERE task_id = %s", [task])
    if state == State.SUCCEEDED:
        made.succeed(task)
    else:
        made.leave(task, state, 7)
    return task


def older(made: Made, task: UUID, days: float) -> UUID:
    """The same task as if it had been made and ended so long ago: its id carries the time."""
    move = "UPDATE dispatcher.{} SET {} = (SELECT id FROM aged) WHERE {} = %(task)s"
    with made.connection.transaction():
        made.connection.execute("ALTER TABLE dispatcher.task_events DISABLE TRIGGER task_events_append_only")
        made.connection.execute(
            "CREATE TEMP TABLE aged ON COMMIT DROP AS SELECT CAST(left(CAST(dispatcher.id_at(now() -"
            " make_interval(secs => %(s)s)) AS text), 14) || right(CAST(%(task)s AS text), 22) AS uuid) AS id",
            {"s": days * 86400, "task": str(task)},
        )
        for table in ("tasks", *OWNED):
            column = "id" if table == "tasks" else "task_id"
            made.connection.execute(move.format(table, column, column), {"task": task})
        row = made.connection.execute("SELECT id FROM aged").fetchone()
        for table, key in (("tasks", "id"), ("failures", "task_id")):
            made.connection.execute(
                f"UPDATE dispatcher.{table} SET finished_at = now() - make_interval(secs => %s) WHERE {key} = %s",
                [days * 86400, row[0]],  # type: ignore[index]
            )
        made.connection.execute("ALTER TABLE dispatcher.task_events ENABLE TRIGGER task_events_append_only")
    assert row
    return UUID(str(row[0]))


async def pruned(made: Made, settings: Settings, streams: StreamsConfig | None = None, dry_run: bool = False) -> Pruned:
    database = Database(settings, "test pruner")
    try:
        return await Pruner(database, settings, streams or StreamsConfig()).once(dry_run=dry_run)
    finally:
        await database.close()


def left(made: Made) -> set[UUID]:
    return {row[0] for row in made.connection.execute("SELECT id FROM dispatcher.tasks")}


async def test_only_what_is_past_its_time_goes_and_leaves_nothing_behind(made: Made, settings: Settings) -> None:
    old = {
        state: older(made, ended(made, state, tags=("tag",), key=f"key-{state}"), 100)
        for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)
    }
    kept = {
        older(made, ended(made, State.FAILED), 60),
        older(made, ended(made, State.SUCCEEDED, queue="audit"), 100),
        older(made, ended(made, State.CANCELLED, queue="audit"), 100),
        ended(made, State.SUCCEEDED),
        made.queued(),
        made.running(),
    }
    gone = {
        *old.values(),
        older(made, ended(made, State.SUCCEEDED), 60),
        older(made, ended(made, State.FAILED, queue="audit"), 2),
    }
    streams = loads('[queues.audit]\nkeep_succeeded = "forever"\nkeep_failed = "1d"\nkeep_cancelled = "200d"')
    expected = {
        ("q", State.SUCCEEDED): 2, ("q", State.FAILED): 1, ("q", State.CANCELLED): 1, ("audit", State.FAILED): 1,
    }  # fmt: skip
    assert await pruned(made, settings, streams, dry_run=True) == expected
    assert left(made) == kept | gone, "a dry run changes nothing"
    assert await pruned(made, settings, streams) == expected
    assert left(made) == kept
    for table in OWNED:
        rows = made.connection.execute(f"SELECT task_id FROM dispatcher.{table}").fetchall()
        assert not gone & {row[0] for row in rows}, table
    with made.connection.cursor(row_factory=tuple_row) as cursor:
        assert cursor.execute(VIOLATIONS.sqlalchemy("dispatcher").encode()).fetchall() == []
        counted = cursor.execute("SELECT queue, state, tasks FROM dispatcher.v_counts ORDER BY 1, 2").fetchall()
        real = cursor.execute("SELECT queue, state, count(*) FROM dispatcher.v_tasks GROUP BY 1, 2 ORDER BY 1, 2")
        assert counted == real.fetchall()
    assert not await pruned(made, settings, streams)


async def test_a_key_that_still_holds_keeps_its_task(made: Made, settings: Settings) -> None:
    held, free = (older(made, ended(made, State.SUCCEEDED, key=key), 100) for key in ("held", "free"))
    hold = "UPDATE dispatcher.task_keys SET expires_at = now() + %s * interval '1 day' WHERE task_id = %s"
    made.connection.execute(hold, [1, held])
    made.connection.execute(hold, [-1, free])
    made.connection.execute("UPDATE dispatcher.tasks SET flags = flags | 2")
    await pruned(made, settings)
    assert left(made) == {held}


async def test_steps_go_on_where_the_one_before_ended(
    made: Made, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "STEP", 3)
    kept = set()
    for number in range(10):
        task = older(made, ended(made, State.SUCCEEDED, queue=f"q{number % 2}"), 100 - number)
        if number % 3 == 0:
            made.connection.execute("UPDATE dispatcher.tasks SET finished_at = now() WHERE id = %s", [task])
            kept.add(task)
    assert (await pruned(made, settings, dry_run=True)).total() == 6
    assert (await pruned(made, settings)).total() == 6
    assert left(made) == kept
    forever = settings.model_copy(update=dict.fromkeys(("keep_succeeded", "keep_failed", "keep_cancelled"), FOREVER))
    assert not await pruned(made, forever)


async def test_names_of_workers_go_with_the_last_task_that_can_mention_them(made: Made, settings: Settings) -> None:
    made.queued()
    log = "INSERT INTO dispatcher.session_log SELECT n, 'old', gen_random_uuid(), now() - interval '91 days'"
    made.connection.execute(f"{log} FROM generate_series(1000, 2999) AS n")
    made.connection.execute("UPDATE dispatcher.session_log SET started_at = '2020-01-01' WHERE session_id < 1000")
    await pruned(made, settings)
    names = made.connection.execute("SELECT worker FROM dispatcher.session_log").fetchall()
    assert names == [("w1",)], "a session that lives stays"


def test_by_hand(made: Made, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    task = older(made, ended(made, State.SUCCEEDED), 31)
    main_ends_well("prune", "--dry-run", "--json", "--database-url", database_url)
    document = json.loads(capsys.readouterr().out)
    assert document["pruned"] == [{"queue": "q", "state": "succeeded", "tasks": 1}] and document["dry_run"]
    assert task in left(made)
    main_ends_well("prune", "--database-url", database_url)
    assert "removed" in capsys.readouterr().out
    assert task not in left(made)


def main_ends_well(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code in (0, None)


def test_every_table_of_a_task_is_dealt_with(made: Made) -> None:
    found = made.connection.execute(
        "SELECT table_name FROM information_schema.columns"
        " WHERE table_schema = 'dispatcher' AND column_name = 'task_id' AND table_name NOT LIKE 'v\\_%'"
    )
    assert {row[0] for row in found} == {*OWNED, *NOT_OWNED}
