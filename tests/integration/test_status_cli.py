"""The commands about tasks, queues and workers: what they print, for people and as JSON, and their exit codes."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from dispatcher import status
from dispatcher.bus import Bus, Message
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects
from dispatcher.wire import encode_settled
from state.ids import new_id
from tests.fixtures.commands import Ran
from tests.fixtures.patience import PATIENCE, until
from tests.integration.made_tasks import Made, invariants


@pytest.fixture
def made(database_url: str) -> Iterator[Made]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Made(connection)
        invariants(connection)


def test_list_show_history_stats(made: Made, cli: Callable[..., Ran]) -> None:
    failed = made.failed(queue="billing", type="charge", secret=["token"])
    waiting = made.queued(queue="billing")
    shown = cli("tasks", "list", "--state", "failed,queued", "--json")
    assert (shown.code, [task["id"] for task in shown.json["tasks"]]) == (0, [str(waiting), str(failed)])
    assert shown.json["next"] is None
    assert str(failed) in cli("tasks", "list", "-s", "failed", "--error", "BOOM", "--since", "1h").out
    page = cli("tasks", "list", "-n", "1", "--json").json
    assert cli("tasks", "list", "--cursor", page["next"], "--json").json["tasks"][0]["id"] == str(failed)
    assert "no tasks match" in cli("tasks", "list", "--queue", "x").out

    one = cli("tasks", "show", failed, "--json").json
    assert (one["state"], one["error"]["type"], one["args"]["token"]) == ("failed", "ValueError", "**********")
    human = cli("tasks", "show", failed)
    assert "ValueError: boom" in human.out and "s3cret" not in human.out
    events = cli("tasks", "history", failed, "--json").json["events"]
    assert [event["to_state"] for event in events] == ["queued", "running", "failed"]
    assert "boom" in cli("tasks", "history", failed).out
    stats = cli("tasks", "stats", "--json").json
    assert stats["total"] == {"failed": 1, "queued": 1}
    assert stats["queues"][0]["depth"] == 1
    assert "billing" in cli("tasks", "stats").out


def test_cancel_and_retry_several(made: Made, cli: Callable[..., Ran]) -> None:
    waiting, done, running = made.queued(), made.succeeded(), made.running()
    answers = cli("tasks", "cancel", waiting, running, "--json")
    assert (answers.code, [a["outcome"] for a in answers.json["answers"]]) == (0, ["cancelled", "cancel_requested"])
    late = cli("tasks", "cancel", done)
    assert (late.code, "too late, it is succeeded" in late.out) == (4, True)
    assert cli("tasks", "retry", waiting).code == 0
    assert cli("tasks", "retry", waiting, done).code == 4
    assert cli("tasks", "retry", new_id(), done).code == 3
    assert status.history(made.connection, waiting)[-1].actor == status.history(made.connection, waiting)[-2].actor
    assert str(status.history(made.connection, waiting)[-1].actor).startswith("cli:")


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["tasks", "show", "nonsense"], 2, "task id 'nonsense' is not a UUID"),
        (["tasks", "cancel", "nonsense"], 2, "task id 'nonsense' is not a UUID"),
        (["tasks", "show", "00000000-0000-7000-8000-000000000000"], 3, "no task 00000000"),
        (["tasks", "history", "00000000-0000-7000-8000-000000000000"], 3, "no task 00000000"),
        (["tasks", "list", "--state", "faild"], 2, "no state 'faild'; did you mean 'failed'?"),
        (["tasks", "list", "--limit", "0"], 2, "limit is 0"),
        (["tasks", "list", "--cursor", "xyz"], 2, "cursor 'xyz'"),
        (["tasks", "list", "--since", "soon"], 2, "--since 'soon' is not a time"),
        (["queues", "pause", "nowhere"], 3, "no queue 'nowhere'"),
        (["queues", "resume", "nowhere"], 3, "no queue 'nowhere'"),
        (["enqueue", "t", "novalue"], 2, "argument 'novalue' is not of the form name=value"),
        (["enqueue", "t", "a=1", "a=2"], 2, "argument 'a' is given twice"),
        (["enqueue", "t", "--json-args", "[1]"], 2, "one JSON object"),
        (["enqueue", "t", "--json-args", "{"], 2, "--json-args is not JSON"),
        (["enqueue", "t", "--queue", "no good"], 2, "queue 'no good' is not a legal name"),
        (["enqueue", "t", "--lane", "fastest"], 2, 'no lane "fastest"'),
        (["enqueue", "t", "--app", "no_such_module:app"], 2, "there is no module 'no_such_module'"),
        (["enqueue", "t", "--app", "no good:app"], 2, "is not module:app"),
        (["enqueue", "t", "--app", "json:loads"], 2, "has no Dispatcher"),
    ],
)
def test_bad_input_gets_one_line_and_its_exit_code(
    cli: Callable[..., Ran], args: list[str], code: int, says: str
) -> None:
    ran = cli(*args)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert ran.err.count("\n") == 1


def test_a_missing_database(cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    ran = cli("tasks", "list", "--database-url", "postgresql://127.0.0.1:1/none")
    assert (ran.code, ran.err.count("\n")) == (5, 1)
    monkeypatch.delenv("DISPATCHER_DATABASE_URL")
    ran = cli("tasks", "list")
    assert (ran.code, "DISPATCHER_DATABASE_URL" in ran.err) == (2, True)


def test_a_database_without_tables(cli: Callable[..., Ran], empty_database_url: str) -> None:
    ran = cli("tasks", "list", "--database-url", empty_database_url)
    assert (ran.code, "dispatcher migrate" in ran.err) == (4, True)


def test_queues(made: Made, cli: Callable[..., Ran]) -> None:
    assert "no queues yet" in cli("queues", "list").out
    made.queued(queue="billing")
    assert cli("queues", "pause", "billing", "--json").json == {"queue": "billing", "paused": True, "changed": True}
    assert "already" in cli("queues", "pause", "billing").out
    (queue,) = cli("queues", "list", "--json").json["queues"]
    assert (queue["name"], queue["paused"], queue["depth"]) == ("billing", True, 1)
    assert "paused by cli:" in cli("queues", "list").out
    assert cli("queues", "resume", "billing").code == 0
    assert cli("queues", "resume", "billing", "--json").json["changed"] is False


def test_control_characters_are_shown_not_sent(made: Made, cli: Callable[..., Ran]) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J"
    task = made.running(type=evil, tags=(evil,))
    made.leave(task, 7, 2, detail={"type": "E", "message": evil, "traceback": evil})
    for command in (["list"], ["show", task], ["history", task]):
        out = cli("tasks", *command).out
        assert "\x1b" not in out and "\x07" not in out
        assert "\\x1b" in out


def test_enqueue_stores_json_values_and_text(made: Made, cli: Callable[..., Ran]) -> None:
    ran = cli("enqueue", "charge", "n=7", "who=Ann Lee", 'deep={"a": [1]}', "flag=true", "--queue", "billing",
              "--tag", "x", "--key", "k", "--max-attempts", "2", "--json")  # fmt: skip
    assert (ran.code, ran.json["created"]) == (0, True)
    task = status.get(made.connection, ran.json["id"])
    assert task.args == {"n": 7, "who": "Ann Lee", "deep": {"a": [1]}, "flag": True}
    assert (task.type, task.queue, task.tags, task.key, task.max_attempts) == ("charge", "billing", ("x",), "k", 2)
    again = cli("enqueue", "charge", "--json-args", '{"flag": true, "who": "Ann Lee", "deep": {"a": [1]}}', "n=7",
                "--key", "k", "--json")  # fmt: skip
    assert again.json == {"id": ran.json["id"], "created": False}
    conflict = cli("enqueue", "charge", "n=8", "--key", "k")
    assert (conflict.code, ran.json["id"] in conflict.err) == (4, True)
    assert cli("enqueue", "plain").code == 0
    assert cli("enqueue", "later", "--delay", "60").code == 0
    assert {t.type for t in status.list_(made.connection, state="scheduled").tasks} == {"later"}


APP = """
from dispatcher import Dispatcher
app = Dispatcher("shop")

@app.task(name="charge", queue="billing")
def charge(order_id: int, *, currency: str = "EUR") -> None: ...
"""


def test_enqueue_with_an_app_checks_the_arguments(
    made: Made, cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "status_cli_shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    ran = cli("enqueue", "charge", "order_id=7", "--app", "status_cli_shop:app", "--tag", "x", "--json")
    assert ran.code == 0, ran.err
    task = status.get(made.connection, ran.json["id"])
    assert (task.type, task.queue, task.args, task.tags) == ("charge", "billing", {"order_id": 7}, ("x",))
    wrong = cli("enqueue", "charge", "order_id=x", "--app", "status_cli_shop:app")
    assert (wrong.code, "order_id" in wrong.err) == (2, True)
    unknown = cli("enqueue", "chargee", "--app", "status_cli_shop:app")
    assert (unknown.code, "did you mean 'charge'" in unknown.err) == (3, True)


def in_background(
    settings: Settings, work: Callable[[Bus, threading.Event], Any]
) -> tuple[threading.Thread, threading.Event]:
    """Runs ``work`` on a loop and a NATS connection of its own; the event says that it may leave."""
    ready, stop = threading.Event(), threading.Event()

    async def go() -> None:
        bus = await Bus.connect(settings, name="test", timeout=PATIENCE)
        try:
            await work(bus, ready)
            await asyncio.to_thread(stop.wait)
        finally:
            await bus.close()

    thread = threading.Thread(target=lambda: asyncio.run(go()))
    thread.start()
    assert ready.wait(PATIENCE)
    return thread, stop


def test_workers_list_asks_the_workers(settings: Settings, cli: Callable[..., Ran]) -> None:
    assert cli("workers", "list", "--wait", "0.1").out == "no worker answers\n"
    worker = {"worker": "w\x1b2", "running": 1, "slots": 4, "queues": ["a", "b"]}
    answers = [b"nonsense", b"[1]", json.dumps(worker).encode()]

    async def answer(bus: Bus, ready: threading.Event) -> None:
        async def reply(message: Message) -> None:
            for body in answers:
                await bus.publish(message.reply, body)

        await bus.subscribe(Subjects(settings.namespace).workers, reply)
        ready.set()

    thread, stop = in_background(settings, answer)
    try:
        found = cli("workers", "list", "--wait", "1", "--json").json["workers"]
        assert [worker["worker"] for worker in found] == ["w\x1b2"]
        human = cli("workers", "list", "--wait", "1").out
        assert "w\\x1b2" in human and "1/4" in human and "a, b" in human
    finally:
        stop.set()
        thread.join(PATIENCE)


def test_workers_list_without_a_server(cli: Callable[..., Ran]) -> None:
    ran = cli("workers", "list", "--nats-url", "nats://127.0.0.1:1")
    assert (ran.code, ran.err.count("\n")) == (5, 1)


def test_enqueue_wait_is_told_of_the_end(made: Made, settings: Settings, cli: Callable[..., Ran]) -> None:
    ended: list[UUID] = []

    async def work(bus: Bus, ready: threading.Event) -> None:
        async def play() -> None:
            await until(lambda: made.count("tasks", "state = 3"))
            (task,) = status.list_(made.connection, state="queued").tasks
            made.claim(task.id)
            made.succeed(task.id, b'{"sum": 3}')
            ended.append(task.id)
            await bus.publish(Subjects(settings.namespace).settled, encode_settled([(task.id, 6)]))

        ready.set()
        await play()

    thread, stop = in_background(settings, work)
    try:
        ran = cli("enqueue", "add", "a=1", "b=2", "--wait", "--timeout", PATIENCE, "--json")
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert (ran.code, ran.json["id"], ran.json["task"]["result"]) == (0, str(ended[0]), {"sum": 3})


def test_enqueue_wait_gives_up_in_time(cli: Callable[..., Ran]) -> None:
    ran = cli("enqueue", "never", "--wait", "--timeout", "0.1")
    assert (ran.code, "did not end within 0.1 s" in ran.err) == (1, True)
