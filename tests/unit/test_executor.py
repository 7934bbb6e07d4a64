"""The executor alone: slots, limits and stops, with real handlers, threads and child processes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.database import Database
from dispatcher.settings import Settings
from state.ids import new_id
from state.machine import Reason, State
from tests.fixtures import kinds
from tests.fixtures.apps import LEDGER
from tests.fixtures.patience import PATIENCE, until
from workers.attempt import Attempt, Delivery, Outcome, Stop
from workers.executor import Executor
from workers.inputs import Inputs
from workers.messages import Parcel
from workers.processes import Processes
from workers.session import Session


class Bench:
    """An executor and what it reported."""

    def __init__(self, slots: int, settings: Settings, home: Path) -> None:
        self.home = home
        self.done: dict[Any, Attempt] = {}
        self.calls_for_restart = 0
        self.said: list[Any] = []
        self._changed = asyncio.Event()
        self.executor = Executor(
            slots, {1: "default"}, settings, kinds.app.resources, self._finished, lambda *said: self.said.append(said),
            self._too_many, Inputs(Database(settings, "test")),
        )  # fmt: skip
        self.executor.processes = Processes(kinds.app, settings, {1: "default"}, lambda *said: None, None)

    def _finished(self, attempt: Attempt) -> None:
        self.done[attempt.task_id] = attempt
        self._changed.set()

    def _too_many(self) -> None:
        self.calls_for_restart += 1

    def start(self, kind: Any, *args: Any, **meta: Any) -> Attempt:
        attempt = Attempt(
            Delivery(new_id(), 1, (Parcel("", "", 0.0),)), Session(1, 0.0), 1, 1, 2, kind, 1, kind.call(*args).args,
            meta, time.monotonic(),
        )  # fmt: skip
        self.executor.submit([attempt])
        return attempt

    async def outcome(self, attempt: Attempt, timeout: float = PATIENCE) -> Outcome:
        async with asyncio.timeout(timeout):
            while attempt.outcome is None:
                self._changed.clear()
                await self._changed.wait()
        return attempt.outcome

    async def started(self, *attempts: Attempt) -> None:
        await self.until(lambda: all(str(a.task_id) in (self.home / "ledger").read_text() for a in attempts))

    async def until(self, condition: Callable[[], bool]) -> None:
        await until(condition)


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setenv(LEDGER, str(tmp_path))
    (tmp_path / "ledger").touch()
    made = Bench(2, Settings(processes=2), tmp_path)
    async with kinds.app.worker_life():
        yield made
        (tmp_path / "end.open").touch()
        await made.executor.close()
        await made.until(lambda: not made.executor.stuck and not made.executor.executing)


@pytest.mark.parametrize("kind", kinds.KINDS.values(), ids=str)
async def test_a_limit_ends_every_kind(bench: Bench, kind: Any) -> None:
    attempt = bench.start(kind, "hangs", timeout=0.3)
    outcome = await bench.outcome(attempt)
    assert (outcome.to, outcome.reason) == (State.RETRYING, Reason.TIMEOUT)
    assert outcome.detail and outcome.detail["message"] == "still running after 0.3 s"
    await bench.until(lambda: bench.executor.executing == 0)


async def test_slots_of_handlers_that_do_not_come_back_go_to_others(bench: Bench) -> None:
    lost = [bench.start(kind, "deaf", timeout=0.1) for kind in (kinds.ASYNC, kinds.THREAD)]
    waiting = bench.start(kinds.THREAD, "returns")
    assert (await bench.outcome(waiting)).to is State.SUCCEEDED
    await bench.until(lambda: len(bench.executor.stuck) == 2 and bench.executor.executing == 0)
    assert [attempt.outcome.reason for attempt in lost if attempt.outcome] == [Reason.TIMEOUT] * 2
    assert bench.calls_for_restart == 0
    bench.start(kinds.THREAD, "deaf", timeout=0.1)
    await bench.until(lambda: bench.calls_for_restart == 1)


@pytest.mark.parametrize("kind", [kinds.PROCESS, kinds.ASYNC_PROCESS], ids=str)
async def test_a_cancel_ends_a_child_within_a_tenth_of_a_second(bench: Bench, kind: Any) -> None:
    attempt = bench.start(kind, "deaf")
    await bench.started(attempt)
    asked = time.monotonic()
    bench.executor.stop_one(attempt, Stop.CANCEL)
    outcome = await bench.outcome(attempt)
    assert (outcome.to, outcome.reason) == (State.CANCELLED, Reason.BY_REQUEST)
    assert time.monotonic() - asked < 1.0  # 0.06 s and what a busy machine adds


async def test_an_attempt_that_waits_for_a_child_never_starts_when_it_is_stopped(bench: Bench) -> None:
    bench.executor.slots = 4
    busy = [bench.start(kinds.PROCESS, "deaf") for _ in range(2)]
    waits = bench.start(kinds.PROCESS, "returns")
    late = bench.start(kinds.PROCESS, "returns", deadline=5, left=0.1)
    assert (await bench.outcome(late)).reason is Reason.DEADLINE
    await bench.started(*busy)
    bench.executor.stop_one(waits, Stop.RELEASE)
    assert (await bench.outcome(waits)).reason is Reason.RELEASED
    assert str(waits.task_id) not in (bench.home / "ledger").read_text()
    for attempt in busy:
        bench.executor.stop_one(attempt, Stop.FENCE)
        assert (await bench.outcome(attempt)).reason is Reason.RELEASED


async def test_a_deadline_that_has_passed_starts_nothing(bench: Bench) -> None:
    attempt = bench.start(kinds.ASYNC, "returns", deadline=5, left=-0.1)
    outcome = await bench.outcome(attempt)
    assert (outcome.to, outcome.reason) == (State.FAILED, Reason.DEADLINE)
    assert (bench.home / "ledger").read_text().count("start\t") == 0


async def test_log_lines_of_a_child_that_dies_are_kept(bench: Bench) -> None:
    attempt = bench.start(kinds.last_words)
    outcome = await bench.outcome(attempt)
    assert outcome.detail and outcome.detail["type"] == "workers.outcome.ProcessDied"
    assert attempt.lines is not None
    assert [line[3] for line in json.loads(attempt.lines.packed()[1])] == ["this is the end"]
