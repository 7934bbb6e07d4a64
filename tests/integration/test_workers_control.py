"""Presence and control over core NATS: what workers tell of themselves, drain and stop, and that PostgreSQL sleeps."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

from dispatcher.fleet import ask_workers, control_workers
from dispatcher.subjects import Subjects
from tests.fixtures.apps import hold, hold_plain, note
from tests.fixtures.commands import answered
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE


async def in_thread(cli: Any, *args: object) -> Any:
    return await asyncio.to_thread(cli, *args)


async def test_a_drained_worker_finishes_what_runs_and_leaves(fleet: Fleet, cli: Any) -> None:
    await fleet.relay()
    first = await fleet.worker(name="first")
    held = fleet.enqueue(hold.call("gate"))
    await fleet.entry("start", held)
    (shown,) = (await answered(cli, "workers", "show", "first", "--json")).json["workers"]
    (task,) = shown["tasks"]
    assert (task["id"], task["type"], task["queue"], task["place"]) == (str(held.id), "hold", "default", "running")
    assert 0 < task["age"] < 60
    assert (shown["executing"], shown["slots"], shown["boot_id"]) == (1, 4, str(first.boot_id))
    assert str(held.id) in (await answered(cli, "workers", "show", "first")).out
    await answered(cli, "workers", "list", when=lambda ran: "1/4" in ran.out)

    answer = await answered(cli, "workers", "drain", "first", "--json")
    assert [worker["worker"] for worker in answer.json["asked"]] == ["first"]
    await answered(cli, "workers", "list", when=lambda ran: "draining" in ran.out)
    await fleet.worker(name="second")
    other = fleet.enqueue(note.call(1))
    await fleet.reaches(other, "succeeded")
    assert fleet.state(held) == "running"
    fleet.open("gate")
    await asyncio.wait_for(fleet.task_of(first), PATIENCE)
    assert fleet.state(held) == "succeeded"
    left = await until(lambda: ask_workers(fleet.bus, Subjects(fleet.settings.namespace), wait=0.2))
    assert [worker["worker"] for worker in left] == ["second"]


async def test_a_stopped_worker_gives_back_at_once_also_in_its_drain(fleet: Fleet, cli: Any) -> None:
    await fleet.relay()
    fleet.configure(grace=timedelta(seconds=4 * PATIENCE))  # nothing but the stop can end the wait
    worker = await fleet.worker(name="first")
    tasks = [fleet.enqueue(hold.call("gate")), fleet.enqueue(hold_plain.call("gate"))]
    for task in tasks:
        await fleet.entry("start", task)
    subjects = Subjects(fleet.settings.namespace)
    assert await until(lambda: control_workers(fleet.bus, subjects, "drain", None, "test", wait=0.1))
    assert await control_workers(fleet.bus, subjects, "stop", str(uuid4()), "test", wait=0.1) == []
    gone = await in_thread(cli, "workers", "stop", str(worker.boot_id), "--until-gone", PATIENCE, "--json")
    assert (gone.code, gone.json["left"]) == (0, [])
    await asyncio.wait_for(fleet.task_of(worker), PATIENCE)
    for task in tasks:
        row = fleet.row(task)
        assert (row["state"], row["tries"], row["attempt"]) == (3, 0, 2)
    fleet.open("gate")
    await fleet.worker()
    await fleet.all_finish(2)


async def test_who_cannot_be_meant_is_told_so(fleet: Fleet, cli: Any) -> None:
    await fleet.relay()
    worker = await fleet.worker(name="front-1")
    for args, code, says in (
        (["drain"], 2, "name one worker, or give --all"),
        (["stop", "front-1", "--all"], 2, "not both"),
        (["stop", "--all"], 2, "confirm with --yes"),
        (["drain", "front-2", "--wait", "0.5"], 3, "no worker 'front-2' answers; did you mean 'front-1'?"),
        (["show", "front-2", "--wait", "0.5"], 3, "did you mean 'front-1'?"),
    ):
        ran = await in_thread(cli, "workers", *args)
        assert (ran.code, ran.out, says in ran.err, ran.err.count("\n")) == (code, "", True, 1), ran.err
    await fleet.bus.publish(Subjects(fleet.settings.namespace).control, b"nonsense")
    await fleet.bus.publish(Subjects(fleet.settings.namespace).control, b'{"do": "explode", "worker": null}')
    await fleet.bus.publish(Subjects(fleet.settings.namespace).workers, b"nonsense")
    task = fleet.enqueue(note.call(1))
    await fleet.reaches(task, "succeeded")
    late = await in_thread(cli, "workers", "drain", "--all", "--yes", "--until-gone", PATIENCE)
    assert (late.code, late.out) == (0, "front-1 drains\n")
    await until(fleet.task_of(worker).done)


async def test_presence_asks_postgresql_nothing(fleet: Fleet, cli: Any) -> None:
    await fleet.worker(name="first")

    def last_statements() -> list[dict[str, Any]]:
        return fleet.rows(
            "SELECT pid, query_start FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() ORDER BY pid"
        )

    before = last_statements()
    for args in (["list"], ["show", "first"]):
        await answered(cli, "workers", *args)
    assert last_statements() == before
