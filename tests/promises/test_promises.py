"""What the dispatcher promises, one test for each sentence; the README's table names these tests.

The promises about broker stores, outages and database crashes need servers of their own and are in
``test_promises_servers.py``.
"""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import SecretStr

from dispatcher.bus import Message
from dispatcher.errors import (
    ArgumentsInvalid,
    ArgumentsTooLarge,
    CallError,
    KeyConflict,
    OptionError,
    QueueNameInvalid,
    RunAtNaive,
    UnknownLane,
)
from state.audit import VIOLATIONS
from state.locks import FULL_RECONCILE, LEADER, advisory_key
from state.machine import FINAL, State
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE

pytestmark = pytest.mark.usefixtures("_short_lease")


@pytest.fixture
def _short_lease(fleet: Fleet) -> None:
    fleet.use_streams('[defaults]\nack_wait = "2s"\n')
    fleet.configure(lease=timedelta(seconds=2))


async def test_rolled_back_task_never_exists(fleet: Fleet) -> None:
    relay, worker = await fleet.relay(), await fleet.worker()
    rolled_back = []
    for n in range(20):
        with fleet.connection.transaction(force_rollback=n % 2 == 0):
            task = apps.note.enqueue(fleet.connection, n)
        if n % 2 == 0:
            rolled_back.append(task.id)
    await until(lambda: fleet.finished() == 10)
    await fleet.stop(worker, relay)
    assert fleet.count("tasks") == 10 and fleet.count("outbox") == 0
    assert not {entry.task_id for entry in fleet.ledger()} & set(rolled_back)
    for table in ("task_events", "timers", "failures", "task_labels"):
        assert fleet.rows(f"SELECT 1 FROM dispatcher.{table} WHERE task_id = ANY (%s)", rolled_back) == []


async def test_committed_task_survives_relay_kill(fleet: Fleet) -> None:
    process = await fleet.relay_process()
    await fleet.worker(slots=8)
    tasks = [fleet.enqueue(apps.note.call(n)) for n in range(50)]
    process.kill()
    tasks += [fleet.enqueue(apps.note.call(n)) for n in range(50)]
    await fleet.relay()
    await fleet.all_finish(len(tasks))
    assert sorted(entry.task_id for entry in fleet.ledger("ran")) == sorted(task.id for task in tasks)  # each once


async def test_committed_task_survives_worker_kill(fleet: Fleet) -> None:
    await fleet.relay()
    process = await fleet.worker_process(slots=4)
    tasks = fleet.enqueue_many([apps.doze.options(max_attempts=9).call(0.05) for _ in range(60)])
    await until(lambda: len(fleet.ledger("ran")) > 10)
    process.kill()
    await fleet.worker(slots=8)
    await fleet.all_finish(len(tasks))
    assert {entry.task_id for entry in fleet.ledger("ran")} == {task.id for task in tasks}


async def test_committed_task_survives_a_frozen_worker(fleet: Fleet) -> None:
    await fleet.relay()
    process = await fleet.worker_process(slots=4)
    tasks = fleet.enqueue_many([apps.doze.options(max_attempts=9).call(0.05) for _ in range(60)])
    await until(lambda: len(fleet.ledger("ran")) > 10)
    process.send(signal.SIGSTOP)
    await fleet.worker(slots=8)
    await fleet.all_finish(len(tasks), timeout=2 * PATIENCE)
    process.send(signal.SIGCONT)
    process.send(signal.SIGTERM)
    await process.ended()
    assert fleet.count("tasks", "state = 6") == len(tasks)


async def test_committed_task_survives_a_frozen_relay(fleet: Fleet) -> None:
    process = await fleet.relay_process()
    await fleet.relay(leads=False)
    await fleet.worker()
    process.send(signal.SIGSTOP)
    tasks = [fleet.enqueue(apps.note.call(n)) for n in range(20)]
    await fleet.all_finish(len(tasks))
    assert sorted(entry.task_id for entry in fleet.ledger("ran")) == sorted(task.id for task in tasks)  # each once


async def test_a_relay_frozen_in_a_full_reconcile_does_not_stop_push(fleet: Fleet) -> None:
    """It holds the fence that every drain shares: whoever steps in has to end it before draining."""
    process = await fleet.relay_process()
    await fleet.relay(leads=False)
    await fleet.worker()
    process.send(signal.SIGSTOP)
    leader = advisory_key("dispatcher", LEADER)
    names = fleet.rows(
        "SELECT a.application_name AS name FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        f" WHERE l.granted AND l.locktype = 'advisory' AND l.objid = {leader[1]} AND l.objsubid = 2"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    first, second = advisory_key("dispatcher", FULL_RECONCILE)
    url = fleet.settings.database_url
    assert url and len(names) == 1
    with psycopg.connect(url, autocommit=True, application_name=names[0]["name"]) as frozen:
        frozen.execute(f"SELECT pg_advisory_lock({first}, {second})")  # as the frozen leader would
        task = fleet.enqueue(apps.note.call(1))
        await fleet.reaches(task, "succeeded")
        with pytest.raises(psycopg.OperationalError):
            frozen.execute("SELECT 1")


def _more_than(fleet: Fleet, number: int) -> bool:
    return fleet.finished() > number


async def test_committed_task_survives_ending_database_sessions(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker(slots=4)
    tasks = fleet.enqueue_many([apps.doze.options(max_attempts=20).call(0.02) for _ in range(100)])
    for _ in range(3):
        done = fleet.finished()
        fleet.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND starts_with(application_name, 'dispatcher ')"
        )
        await until(partial(_more_than, fleet, min(done + 5, 99)))
    await fleet.all_finish(len(tasks), timeout=2 * PATIENCE)
    assert {entry.task_id for entry in fleet.ledger("ran")} == {task.id for task in tasks}


async def test_each_task_ends_in_exactly_one_final_state(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker(slots=8)
    await fleet.worker(slots=8)
    calls: list[Any] = [apps.note.call(1), apps.flaky.call(1), apps.flaky.call(9), apps.picky.call("key")]
    calls += [apps.give_up.call("no"), apps.stuck.call(), apps.unstorable.call(), apps.nap.call(1)]
    tasks = fleet.enqueue_many(calls * 8)
    await until(lambda: fleet.finished() == len(tasks))
    finals = fleet.rows(
        "SELECT t.state, count(e.*) AS n FROM dispatcher.tasks t LEFT JOIN dispatcher.task_events e"
        " ON e.task_id = t.id AND e.to_state IN (6, 7, 8) GROUP BY t.id, t.state"
    )
    assert {row["n"] for row in finals} == {1}
    assert {State(row["state"]) for row in finals} == FINAL


async def test_stale_workers_write_changes_nothing(fleet: Fleet) -> None:
    await fleet.relay()
    process = await fleet.worker_process()
    task = fleet.enqueue(apps.hold.call("go"))
    await fleet.entry("start", task)
    process.send(signal.SIGSTOP)
    await fleet.worker()
    await fleet.entry("start", task, number=2)
    fleet.open("go")
    await fleet.reaches(task, "succeeded")
    before = fleet.rows("SELECT * FROM dispatcher.task_events ORDER BY task_id, seq"), fleet.row(task)
    process.send(signal.SIGCONT)
    process.send(signal.SIGTERM)
    await process.ended()
    assert (fleet.rows("SELECT * FROM dispatcher.task_events ORDER BY task_id, seq"), fleet.row(task)) == before
    assert before[1]["attempt"] == 2


async def test_tries_never_exceed_the_maximum(fleet: Fleet) -> None:
    await fleet.relay()
    task = fleet.enqueue(apps.vanish.call(99))
    failing = fleet.enqueue(apps.flaky.options(queue="other").call(99))
    await fleet.worker(queues=("other",))
    for _ in range(3):
        assert await fleet.process("worker", "tests.fixtures.apps:app").ended() == 9
    await fleet.reaches(task, "failed")
    await fleet.reaches(failing, "failed")
    for each in (task, failing):
        assert (fleet.row(each)["tries"], fleet.row(each)["max_tries"]) == (3, 3)
    assert len(fleet.ledger("start")) == len(fleet.ledger("ran")) == 3
    with pytest.raises(psycopg.errors.CheckViolation):
        fleet.rows("UPDATE dispatcher.tasks SET tries = max_tries + 1 RETURNING 1")


async def test_cancelled_is_only_said_when_true(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    running, deaf = fleet.enqueue(apps.hold.call("never")), fleet.enqueue(apps.deaf_plain.call("go"))
    later, done = fleet.enqueue(apps.note.options(delay=60).call(9)), fleet.enqueue(apps.note.call(1))
    for task in (running, deaf):
        await fleet.entry("start", task)
    await done.wait(PATIENCE)
    ids = [running.id, deaf.id, later.id, done.id, UUID(int=1)]
    with fleet.connection.transaction():
        answers = {answer.id: answer.outcome for answer in apps.app.cancel(fleet.connection, *ids)}
    assert [answers[id] for id in ids] == ["cancel_requested", "cancel_requested", "cancelled", "too_late", "not_found"]
    fleet.open("go")
    await fleet.reaches(running, "cancelled")
    await fleet.reaches(deaf, "succeeded")  # it was only asked, and it won
    assert fleet.state(later) == "cancelled"
    starts = fleet.rows("SELECT 1 FROM dispatcher.task_events WHERE task_id = %s AND to_state = 4", later.id)
    assert starts == []


SECRET = 'hunter2 "quoted" \\ ünïq'
HOW = ("return", "error", "key", "cancel", "snooze", "retry", "cause")


async def test_secrets_appear_nowhere(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[bytes] = []

    async def listen(message: Message) -> None:
        seen.append(message.subject.encode() + b" " + bytes(message.data))

    await fleet.bus.subscribe(f"{fleet.settings.namespace}.>", listen)
    await fleet.relay()
    process = await fleet.worker_process()
    tasks = [fleet.enqueue(apps.login.call("ann", SecretStr(SECRET), how)) for how in HOW]
    await until(lambda: fleet.finished() == len(tasks))
    process.send(signal.SIGTERM)
    await process.ended()
    assert (await tasks[0].wait(PATIENCE)).get_secret_value() == SECRET  # the handler and who may know it get it intact

    shown: dict[str, str] = {"log of the worker": process.output, "own log": caplog.text, "messages": repr(seen)}
    for table in (
        "task_events",
        "failures",
        "progress",
        "outbox",
        "dispatch_log",
        "quarantine",
        "task_labels",
        "types",
    ):
        shown[table] = json.dumps(fleet.rows(f"SELECT * FROM dispatcher.{table}"), default=str, ensure_ascii=False)
    for task in tasks:
        info = apps.app.get(fleet.connection, task.id)
        shown[f"get {task.id}"] = repr(info) + str(info)
        shown[f"history {task.id}"] = repr(apps.app.history(fleet.connection, task.id))
    shown["list"] = repr(apps.app.list(fleet.connection))
    cli = fleet.process("tasks", "list", "--json")
    assert await cli.ended() == 0, cli.output
    shown["command line"] = cli.output
    show = fleet.process("tasks", "show", str(tasks[1].id))
    await show.ended()
    shown["show"] = show.output
    assert "ann" in show.output
    for form in {SECRET, "hunter2", repr(SECRET)[1:-1], json.dumps(SECRET)[1:-1]}:
        for place, text in shown.items():
            assert form not in text, place


async def test_audit_trail_is_complete(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.flaky.call(1))
    await task.wait(PATIENCE)
    cancelled = fleet.enqueue(apps.note.options(delay=60).call(1))
    with fleet.connection.transaction():
        apps.app.cancel(fleet.connection, cancelled.id, actor="ann")
    with fleet.connection.transaction():
        apps.app.retry(fleet.connection, cancelled.id, actor="bob")
    await fleet.reaches(cancelled, "succeeded")
    history = apps.app.history(fleet.connection, task.id)
    assert [event.to_state for event in history] == [
        "queued", "running", "retrying", "queued", "running", "succeeded",
    ]  # fmt: skip
    assert [event.seq for event in history] == list(range(1, 7))
    actors = [event.actor for event in apps.app.history(fleet.connection, cancelled.id)]
    assert "ann" in actors and "bob" in actors
    assert fleet.connection.execute(VIOLATIONS.sqlalchemy("dispatcher").encode()).fetchall() == []
    with pytest.raises(psycopg.Error, match="append-only"):
        fleet.rows("UPDATE dispatcher.task_events SET actor = 'nobody' RETURNING 1")


BAD: dict[str, tuple[type[CallError], Callable[[Fleet], Any]]] = {
    "argument": (ArgumentsInvalid, lambda fleet: apps.note.enqueue(fleet.connection, "many")),  # type: ignore[call-overload]
    "missing": (ArgumentsInvalid, lambda fleet: apps.hold.enqueue(fleet.connection)),  # type: ignore[call-overload]
    "large": (ArgumentsTooLarge, lambda fleet: apps.hold.enqueue(fleet.connection, "x" * 2_000_000)),
    "option": (OptionError, lambda fleet: apps.note.options(colour="red").enqueue(fleet.connection, 1)),  # type: ignore[call-arg]
    "queue": (QueueNameInvalid, lambda fleet: apps.note.options(queue="a.b").enqueue(fleet.connection, 1)),
    "lane": (UnknownLane, lambda fleet: apps.note.options(lane="fastest").enqueue(fleet.connection, 1)),
    "naive time": (
        RunAtNaive,
        lambda fleet: apps.note.options(run_at=datetime(2030, 1, 1)).enqueue(fleet.connection, 1),
    ),
    "key": (KeyConflict, lambda fleet: apps.note.options(key="taken").enqueue(fleet.connection, 2)),
    "many": (ArgumentsInvalid, lambda fleet: fleet.enqueue_many([apps.note.call(1), apps.note.call("x")])),  # type: ignore[arg-type]
    "session": (OptionError, lambda fleet: apps.note.enqueue("no session", 1)),  # type: ignore[call-overload]
    "id": (OptionError, lambda fleet: apps.app.get(fleet.connection, "not-an-id")),
}


@pytest.mark.parametrize("what", BAD)
async def test_bad_input_changes_nothing(fleet: Fleet, what: str) -> None:
    fleet.enqueue(apps.note.options(key="taken").call(1))
    tables = ("tasks", "task_events", "outbox", "timers", "task_keys", "task_labels", "queues", "lanes", "types")
    before = {name: fleet.rows(f"SELECT * FROM dispatcher.{name}") for name in tables}
    error, act = BAD[what]
    with pytest.raises(error) as caught, fleet.connection.transaction():
        act(fleet)
    assert {name: fleet.rows(f"SELECT * FROM dispatcher.{name}") for name in tables} == before
    assert str(caught.value).strip() and "\n" not in str(caught.value).strip()
