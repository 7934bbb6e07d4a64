"""Every cause that ``tasks explain`` knows, made true on real servers and asked for as a person would."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from dispatcher.explain.answer import Code
from dispatcher.streams.ensure import ensure_stream
from dispatcher.subjects import Subjects
from state.ids import new_id
from state.machine import State
from tests.fixtures.apps import app, deaf_plain, flaky, hold, later, measured, nap, note, raising, stranger
from tests.fixtures.fleet import Fleet, until
from workers import housekeeping, runtime

CASES: dict[str, Callable[[Asked], Awaitable[None]]] = {}


def case(*codes: Code) -> Callable[[Callable[[Asked], Awaitable[None]]], Callable[[Asked], Awaitable[None]]]:
    """A scenario that makes these causes true."""

    def keep(function: Callable[[Asked], Awaitable[None]]) -> Callable[[Asked], Awaitable[None]]:
        CASES[function.__name__] = function
        COVERED.update(codes)
        return function

    return keep


COVERED: set[Code] = set()


@dataclass
class Asked:
    """A fleet, and the command line in a thread beside it."""

    fleet: Fleet
    cli: Any
    patch: pytest.MonkeyPatch

    async def explain(self, task: Any, *args: str) -> dict[str, Any]:
        """The causes by code."""
        ran = await asyncio.to_thread(
            self.cli, "tasks", "explain", getattr(task, "id", task), "--json", "--wait", "0.2", *args
        )
        assert ran.code in (0, 3), ran.err
        return {cause["cause"]: cause for cause in ran.json["causes"]}

    async def becomes(self, task: Any, *codes: str) -> dict[str, Any]:
        """Exactly these causes, soon."""

        async def found() -> dict[str, Any] | None:
            causes.clear()
            causes.update(await self.explain(task))
            return causes if set(causes) == set(codes) else None

        causes: dict[str, Any] = {}
        try:
            return dict(await until(found))
        except AssertionError:
            raise AssertionError(f"{sorted(causes)} instead of {codes}") from None


@pytest.fixture
def asked(fleet: Fleet, cli: Any, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(fleet, cli, monkeypatch)


@case(Code.UNKNOWN, Code.NOT_COMMITTED)
async def nobody_can_see_it(asked: Asked) -> None:
    id = new_id()
    assert set(await asked.explain(id)) == {"unknown"}
    with psycopg.connect(asked.fleet.settings.database_url or "", application_name="my-shop") as other:
        task = note.enqueue(other, 1)
        causes = await asked.explain(task)
        assert set(causes) == {"not_committed"}
        assert "my-shop" in causes["not_committed"]["text"] and causes["not_committed"]["since"]
        other.rollback()
    assert set(await asked.explain(task)) == {"unknown"}


@case(Code.IN_OUTBOX, Code.NO_RELAY, Code.OUTBOX_FULL, Code.STREAM_MISSING, Code.NO_WORKER_FOR_QUEUE)
async def nobody_publishes_it(asked: Asked) -> None:
    first, second = asked.fleet.enqueue(note.call(1)), asked.fleet.enqueue(note.call(2))
    causes = await asked.explain(second)
    assert set(causes) == {"in_outbox", "no_relay", "stream_missing", "no_worker_for_queue"}
    assert causes["in_outbox"]["facts"]["before"] == 1
    asked.fleet.rows("UPDATE dispatcher.relay_state SET outbox_limit = 2 RETURNING 1")
    assert set(await asked.explain(first)) == {*causes, "outbox_full"}
    explained = app.explain(asked.fleet.connection, first.id)
    assert not explained.live
    assert explained.codes == {"in_outbox", "no_relay", "outbox_full"}


@case(Code.BROKER_UNREACHABLE)
async def nats_is_away(asked: Asked) -> None:
    task = asked.fleet.enqueue(note.call(1))
    causes = await asked.explain(task, "--nats-url", "nats://127.0.0.1:1")
    assert set(causes) == {"in_outbox", "no_relay", "broker_unreachable"}


@case(Code.RELAY_SILENT)
async def the_relay_is_frozen(asked: Asked) -> None:
    relay = await asked.fleet.relay_process()
    os.kill(relay.pid, signal.SIGSTOP)
    task = asked.fleet.enqueue(note.call(1))
    causes = await asked.explain(task)
    assert {"in_outbox", "relay_silent"} <= set(causes)
    os.kill(relay.pid, signal.SIGCONT)
    await asked.becomes(task, "on_stream", "no_worker_for_queue")


@case(Code.STREAM_FULL)
async def the_stream_is_full(asked: Asked) -> None:
    asked.fleet.use_streams("[streams.TASKS]\nmax_msgs = 1\n")
    await asked.fleet.relay()
    asked.fleet.enqueue(note.call(1))
    await until(lambda: asked.fleet.count("outbox") == 0)
    second = asked.fleet.enqueue(note.call(2))
    await asked.becomes(second, "in_outbox", "stream_full", "no_worker_for_queue")


@case(Code.ON_STREAM, Code.NO_WORKER_FOR_TYPE, Code.WORKERS_BUSY)
async def nobody_has_room_or_knows_it(asked: Asked) -> None:
    await asked.fleet.relay()
    foreign = asked.fleet.enqueue(stranger.call(1))
    await asked.becomes(foreign, "on_stream", "no_worker_for_queue")
    await asked.fleet.worker(slots=1)
    causes = await asked.becomes(foreign, "on_stream", "no_worker_for_type")
    assert causes["no_worker_for_type"]["facts"]["type"] == "stranger"
    held = asked.fleet.enqueue(hold.call("gate"))
    await asked.fleet.entry("start", held)
    waiting = [asked.fleet.enqueue(note.call(n)) for n in range(3)]
    await until(lambda: asked.fleet.count("outbox") == 0)

    async def busy() -> Any:
        causes = await asked.explain(waiting[-1])
        return causes if {"on_stream", "workers_busy"} == set(causes) else None

    causes = await until(busy)
    assert causes["on_stream"]["facts"]["before"] == 3, "two notes and the stranger"
    assert causes["on_stream"]["facts"]["outstanding"] >= 1
    asked.fleet.open("gate")
    await asked.fleet.reaches(waiting[-1], "succeeded")


@case(Code.DELIVERED)
async def a_worker_cannot_claim(asked: Asked) -> None:
    await asked.fleet.relay()
    worker = await asked.fleet.worker(name="slow")
    with psycopg.connect(asked.fleet.settings.database_url or "") as other:
        other.execute("LOCK TABLE dispatcher.sessions IN SHARE MODE")
        task = asked.fleet.enqueue(note.call(1))
        causes = await asked.becomes(task, "delivered")
        assert causes["delivered"]["facts"]["boot_id"] == str(worker.boot_id)
    await asked.fleet.reaches(task, "succeeded")


@case(Code.MESSAGE_LOST)
async def the_message_is_lost(asked: Asked) -> None:
    relay = await asked.fleet.relay()
    task = asked.fleet.enqueue(note.call(1))
    await until(lambda: asked.fleet.count("dispatch_log") == 1)
    await asked.fleet.stop(relay)
    stream = Subjects(asked.fleet.settings.namespace).stream_name("TASKS")
    await asked.fleet.bus.api(f"STREAM.PURGE.{stream}")
    await asked.becomes(task, "message_lost", "no_relay", "no_worker_for_queue")


@case(Code.IN_TRANSIT)
async def it_is_between_two_places(asked: Asked) -> None:
    task = asked.fleet.enqueue(note.call(1))
    await ensure_stream(
        asked.fleet.bus, Subjects(asked.fleet.settings.namespace), "TASKS", asked.fleet.streams.streams["TASKS"]
    )
    # what a relay leaves for a moment cannot be held still: the row is taken away by hand
    taken = asked.fleet.rows("DELETE FROM dispatcher.outbox RETURNING task_id, attempt, dispatch, lane_id")
    await asked.becomes(task, "in_transit", "no_worker_for_queue")
    assert len(taken) == 1


@case(Code.PAUSED, Code.PARKED, Code.EXPIRED)
async def its_queue_is_paused(asked: Asked) -> None:
    relay = await asked.fleet.relay()
    await asked.fleet.worker(queues=("billing",))
    first = asked.fleet.enqueue(note.options(queue="billing").call(0))
    await asked.fleet.reaches(first, "succeeded")
    assert (await asyncio.to_thread(asked.cli, "queues", "pause", "billing")).code == 0
    task = asked.fleet.enqueue(note.options(queue="billing").call(1))
    await until(lambda: asked.fleet.count("parked") == 1)
    causes = await asked.becomes(task, "paused")
    assert causes["paused"]["facts"]["by"].startswith("cli:") and causes["paused"]["since"]
    assert causes["paused"]["facts"]["parked"] is True
    await asked.fleet.stop(relay)
    expiring = asked.fleet.enqueue(note.options(queue="billing", expires=timedelta(milliseconds=1)).call(2))
    await asked.becomes(expiring, "expired", "paused", "in_outbox", "no_relay")
    # a resume that died before it sent on what was parked
    asked.fleet.rows("UPDATE dispatcher.queues SET paused = false, paused_at = NULL RETURNING 1")
    await asked.becomes(task, "parked", "no_relay")


@case(Code.WAITING_FOR_TIME, Code.WAITING_FOR_RETRY)
async def it_waits_for_a_time(asked: Asked) -> None:
    planned = asked.fleet.enqueue(note.options(delay=3600).call(1))
    causes = await asked.explain(planned)
    assert set(causes) == {"waiting_for_time"}
    assert 3500 < causes["waiting_for_time"]["facts"]["seconds"] <= 3600
    overdue = asked.fleet.enqueue(note.options(delay=0.01).call(1))
    await asked.becomes(overdue, "waiting_for_time", "no_relay")
    await asked.fleet.relay()
    await asked.fleet.worker()
    failed, dozing = asked.fleet.enqueue(later.call(3600)), asked.fleet.enqueue(nap.call(1, 3600))
    causes = await asked.becomes(failed, "waiting_for_retry")
    facts = causes["waiting_for_retry"]["facts"]
    assert ("the other side is away" in facts["error"], facts["tries"], facts["max_attempts"]) == (True, 1, 2)
    causes = await asked.becomes(dozing, "waiting_for_time")
    assert causes["waiting_for_time"]["facts"]["reason"] == "snoozed"


@case(Code.RUNNING, Code.WAITING_FOR_SLOT, Code.CANCEL_REQUESTED)
async def it_runs(asked: Asked) -> None:
    await asked.fleet.relay()
    worker = await asked.fleet.worker(slots=1, name="busy")
    task = asked.fleet.enqueue(measured.call("gate"))
    await asked.fleet.entry("start", task)
    await until(lambda: asked.fleet.count("progress"))
    causes = await asked.becomes(task, "running")
    assert causes["running"]["facts"]["worker"] == "busy" and causes["running"]["since"]
    assert causes["running"]["facts"]["progress"]["fraction"] == 0.25
    asked.fleet.open("gate")
    await asked.fleet.reaches(task, "succeeded")
    deaf = asked.fleet.enqueue(deaf_plain.call("ears"))
    await asked.fleet.entry("start", deaf)
    with asked.fleet.connection.transaction():
        app.cancel(asked.fleet.connection, deaf.id)
    await asked.becomes(deaf, "running", "cancel_requested")
    # claims one ahead of its slots, as it does for types that run in milliseconds, and keeps it longer than a second
    worker.pace.ahead = 1
    asked.patch.setattr(housekeeping, "_LONGEST_AHEAD_SECONDS", 60.0)
    asked.patch.setattr(runtime, "_STUCK_SECONDS", 60.0)
    ahead = asked.fleet.enqueue(note.call(1))
    await asked.becomes(ahead, "running", "waiting_for_slot")
    asked.fleet.open("ears")
    await asked.fleet.reaches(ahead, "succeeded")


@case(Code.WORKER_SILENT, Code.LEASE_EXPIRED)
async def its_worker_died(asked: Asked) -> None:
    asked.fleet.configure(lease=timedelta(seconds=2))
    relay = await asked.fleet.relay()
    worker = await asked.fleet.worker_process()
    task = asked.fleet.enqueue(hold.call("gate"))
    await asked.fleet.entry("start", task)
    await asked.fleet.stop(relay)
    worker.kill()
    await asked.becomes(task, "running", "worker_silent")
    await asked.becomes(task, "running", "worker_silent", "lease_expired", "no_relay")


@case(Code.SUCCEEDED, Code.FAILED, Code.CANCELLED)
async def it_has_ended(asked: Asked) -> None:
    await asked.fleet.relay()
    await asked.fleet.worker()
    good, bad = asked.fleet.enqueue(flaky.call(0)), asked.fleet.enqueue(raising.call("no such customer"))
    unwanted = asked.fleet.enqueue(note.options(delay=3600).call(1))
    with asked.fleet.connection.transaction():
        app.cancel(asked.fleet.connection, unwanted.id, actor="ann")
    await asked.becomes(good, "succeeded")
    causes = await asked.becomes(bad, "failed")
    assert "no such customer" in causes["failed"]["facts"]["error"] and "tasks retry" in causes["failed"]["cure"]
    causes = await asked.becomes(unwanted, "cancelled")
    assert (causes["cancelled"]["facts"]["by"], causes["cancelled"]["facts"]["reason"]) == ("ann", "by_request")


@case(Code.BLOCKED)
async def it_waits_for_others(asked: Asked) -> None:
    with asked.fleet.connection.transaction():
        note.call(1).then(note).enqueue(asked.fleet.connection)
    ids = {row["state"]: row["id"] for row in asked.fleet.rows("SELECT id, state FROM dispatcher.tasks")}
    causes = await asked.becomes(ids[State.BLOCKED], "blocked")
    assert causes["blocked"]["facts"]["waits_for"] == [str(ids[State.QUEUED])]
    [view] = asked.fleet.rows("SELECT id, waits_for FROM dispatcher.v_waiting WHERE waits_for <> 'relay'")
    assert view == {"id": ids[State.BLOCKED], "waits_for": "tasks"}


@pytest.mark.parametrize("name", sorted(CASES))
async def test_the_answer_is_true(asked: Asked, name: str) -> None:
    await CASES[name](asked)


def test_every_cause_has_been_made_true() -> None:
    assert set(Code) == COVERED


async def test_for_people_it_is_one_line_per_cause_with_a_cure(asked: Asked) -> None:
    task = asked.fleet.enqueue(note.call(1))
    ran = await asyncio.to_thread(asked.cli, "tasks", "explain", task.id)
    assert (ran.code, ran.err) == (0, "")
    assert f"{task.id}  queued" in ran.out and "-> start one: dispatcher relay" in ran.out
    ran = await asyncio.to_thread(asked.cli, "tasks", "explain", "nonsense")
    assert (ran.code, "task id 'nonsense' is not a UUID" in ran.err, ran.err.count("\n")) == (2, True, 1)
