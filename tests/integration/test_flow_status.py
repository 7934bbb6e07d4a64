"""Flows as people see them: the commands, the time that an answer takes, repetition, and their end."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from dispatcher import FlowInUse, group
from dispatcher.cli.main import main
from dispatcher.database import Database
from dispatcher.handle import Task
from dispatcher.relay.pruner import Pruner
from dispatcher.streams.config import loads
from state.delete import DELETE_FINISHED
from state.flows import FORGET
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.flow_apps import add, app, fail, mark, total
from tests.fixtures.patience import PATIENCE


@pytest.fixture
async def flows(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    app.configure(fleet.settings)
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", fleet.settings.database_url or "")
    yield fleet
    await app.close()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*args: object, code: int = 0) -> str:
        capsys.readouterr()
        ended = 0
        try:
            main([str(arg) for arg in args])
        except SystemExit as end:
            ended = int(end.code or 0)
        captured = capsys.readouterr()
        assert ended == code, captured.err
        return captured.out or captured.err

    return run


def enqueue(fleet: Fleet, composed: Any) -> Task[Any]:
    with fleet.connection.transaction():
        task: Task[Any] = composed.enqueue(fleet.connection)
    return task


async def test_the_commands_draw_and_change_a_flow(flows: Fleet, cli: Callable[..., str]) -> None:
    await flows.relay()
    await flows.worker(app)
    task = enqueue(
        flows, group(add.call(1), fail.call(3, unless="mended"), name="pair").then(total).on_end(mark.call("e"))
    )
    await until(lambda: app.flows.get(flows.connection, task.id).state == "failed")
    drawing = cli("flows", "show", task.id).splitlines()
    assert drawing[0].startswith("✗ chain failed")
    assert "├─ ± group pair partly_succeeded" in drawing[1]
    assert "│  ├─ ✓ add succeeded" in drawing[2] and "│  └─ ✗ fail failed (exhausted)" in drawing[3]
    assert "├─ ✗ total failed (dependency_failed)" in drawing[4] and "└─ ✓ mark succeeded" in drawing[5]
    tree = json.loads(cli("flows", "show", task.id, "--json"))
    assert (tree["state"], [part["kind"] for part in tree["parts"]]) == ("failed", ["group", "task", "task"])
    assert json.loads(cli("flows", "state", task.id, "--json"))["counts"] == {"succeeded": 2, "failed": 2}
    flows.open("mended")
    assert json.loads(cli("flows", "retry", task.id, "--json"))["outcomes"] == {"queued": 1}
    assert await task.wait(PATIENCE) == 5
    assert [event["state"] for event in json.loads(cli("flows", "history", task.id, "--json"))["events"]] == [
        "running", "failed", "running", "succeeded"
    ]  # fmt: skip
    assert "nothing to do" in cli("flows", "cancel", task.id)
    copy = json.loads(cli("flows", "again", task.id, "--json"))["id"]
    await until(lambda: app.flows.get(flows.connection, copy).state == "succeeded")
    assert "✓ chain succeeded" in cli("flows", "show", copy, "--follow")
    assert json.loads(cli("flows", "delete", copy, "--json")) == {"id": copy, "deleted": 4}
    assert flows.count("tasks") == 4 and flows.rows("SELECT deleted FROM dispatcher.deletions") == [{"deleted": 4}]
    assert "no flow" in cli("flows", "delete", copy, code=3)
    assert "is a part of" in cli("flows", "delete", tree["parts"][0]["id"], code=2)
    assert "no flow 018f0000" in cli("flows", "show", "018f0000-0000-7000-8000-000000000001", code=3)
    assert "is not a UUID" in cli("flows", "show", "x", code=2)


async def test_the_state_of_ten_thousand_is_told_at_once_and_they_are_forgotten_as_a_whole(flows: Fleet) -> None:
    task = enqueue(flows, group(add.call(i) for i in range(10_000)).then(total))
    flows.connection.execute("ANALYZE")
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        info = app.flows.get(flows.connection, task.id)
        times.append(time.perf_counter() - begun)
    assert info.counts == {"queued": 10_000, "blocked": 1}
    assert sorted(times)[3] < 0.05, times
    assert len(list(app.flows.tree(flows.connection, task.id).tasks())) == 10_001
    forget = FORGET.psycopg("dispatcher").encode()
    [queue] = {row["queue_id"] for row in flows.rows("SELECT queue_id FROM dispatcher.tasks")}
    at_once: dict[str, Any] = {"low": UUID(int=0), "most": 10, "queues": [queue], "cancelled": [0.0]}
    at_once |= {"succeeded": [None], "failed": [0.0]}
    assert flows.connection.execute(forget, at_once).fetchall() == []  # it has not ended
    with pytest.raises(FlowInUse, match="still runs: cancel it first"):
        app.flows.delete(flows.connection, task.id)
    with flows.connection.transaction():
        app.flows.cancel(flows.connection, task.id)
    assert app.flows.get(flows.connection, task.id).state == "cancelled"
    members = [row["id"] for row in flows.rows("SELECT id FROM dispatcher.tasks ORDER BY id")]
    delete = DELETE_FINISHED.psycopg("dispatcher").encode()
    assert flows.connection.execute(delete, {"ids": members[:500]}).fetchall() == []  # not one by one
    with pytest.raises(FlowInUse, match="nothing was deleted"):  # messages for them may still come
        app.flows.delete(flows.connection, task.id)
    assert flows.count("tasks") == 10_001 and flows.count("flow_nodes") == 10_002
    late = at_once | {"cancelled": [3600.0]}
    assert flows.connection.execute(forget, late).fetchall() == []  # a part of it is kept longer
    assert flows.connection.execute(forget, at_once).fetchall() == [{"id": task.id}]
    flows.connection.execute("DELETE FROM dispatcher.outbox")  # nobody relays here: their messages never went out
    assert len(flows.connection.execute(delete, {"ids": members}).fetchall()) == 10_001
    assert [flows.count(name) for name in ("flows", "flow_nodes", "flow_events", "deps", "joins")] == [0] * 5


async def test_the_pruner_removes_a_flow_as_a_whole_and_nothing_of_one_that_goes_on(flows: Fleet) -> None:
    await flows.relay()
    await flows.worker(app, slots=4)
    over = enqueue(flows, group(add.call(1), add.call(2)).then(total))
    assert await over.wait(PATIENCE) == 5
    goes_on = enqueue(flows, group(add.call(1), add.call(2)).then(total.options(delay=3600)))
    await until(lambda: flows.count("tasks", "state = 2") == 1)
    at_once = flows.settings.model_copy(update={"keep_succeeded": timedelta(0)})
    database = Database(at_once, "dispatcher test prune")
    try:
        pruner = Pruner(database, at_once, loads(""))
        for dry_run in (True, False):
            assert (await pruner.once(dry_run=dry_run)).total() == 3 and pruner.flows == 1
    finally:
        await database.close()
    assert {row["root_id"] for row in flows.rows("SELECT root_id FROM dispatcher.flows")} == {goes_on.id}
    assert flows.count("tasks") == 3 and flows.count("flow_nodes") == 4 and flows.count("deps") == 1
