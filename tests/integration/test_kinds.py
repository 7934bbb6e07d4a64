"""Each kind of execution against each fate of a handler: what becomes of the task, and what others notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.handle import Task
from dispatcher.status import get
from state.machine import Reason
from tests.fixtures import kinds
from tests.fixtures.fleet import Fleet, until

TIMEOUT = 0.5
# state, reason, tries, part of the error; the policy gives two tries, a fate that takes long has one
SAME = {
    "returns": ("succeeded", None, 1, None),
    "raises": ("failed", "exhausted", 2, "ValueError: it went wrong"),
    "hangs": ("failed", "timeout", 1, "still running after 0.5 s"),
    "deaf": ("failed", "timeout", 1, "still running after 0.5 s"),
    "exits": ("failed", "rejected", 1, "SystemExit: 3"),
    "eats": ("failed", "exhausted", 2, "MemoryError"),
    "unserialisable": ("failed", "unserialisable", 1, "no JSON form"),
}
"""What harms nobody else is the same in every kind."""
PROCESS = SAME | {
    "eats": ("failed", "exhausted", 1, "MB of memory, more than it may"),
    "dies": ("failed", "exhausted", 2, "ProcessDied: the child process ended with exit code 9"),
    "segfaults": ("failed", "exhausted", 1, "ProcessDied: the child process was ended by SIGSEGV"),
}
EXPECTED = {
    "async": SAME,
    "thread": SAME,
    "process": PROCESS,
    "async_process": {fate: PROCESS[fate] for fate in ("returns", "raises", "hangs", "exits")},
}
ONE_TRY = {("process", "eats"), ("process", "segfaults")}


def call(kind: str, fate: str) -> Any:
    one_try = fate in ("hangs", "deaf") or (kind, fate) in ONE_TRY
    options: dict[str, Any] = {"max_attempts": 1} if one_try else {}
    if fate in ("hangs", "deaf"):
        options["timeout"] = TIMEOUT
    return kinds.KINDS[kind].options(**options).call(fate)


def what_became(fleet: Fleet, task: Task[Any]) -> tuple[str, str | None, int, str | None]:
    info = get(fleet.connection, task.id)
    return info.state, info.reason, info.tries, str(info.error) if info.error else None


@pytest.fixture(autouse=True)
async def _app(fleet: Fleet) -> AsyncIterator[None]:
    kinds.app.configure(fleet.settings)
    yield
    fleet.open("end")  # nobody else ends the handlers that swallow every cancellation
    await kinds.app.close()


async def test_every_fate_in_every_kind_of_execution(fleet: Fleet) -> None:
    fleet.configure(processes=3, process_memory=256)
    await fleet.relay()
    worker = await fleet.worker(kinds.app, slots=32)
    others = {
        kind: fleet.enqueue(kinds.TELL[kind].call("secret", gate="end")) for kind in ("async", "thread", "process")
    }
    await until(lambda: len(worker.executor.running) == 3)
    tasks = {(kind, fate): fleet.enqueue(call(kind, fate)) for kind, expected in EXPECTED.items() for fate in expected}
    for (kind, fate), task in tasks.items():
        await fleet.reaches(task, "succeeded", "failed", timeout=40)
        state, reason, tries, error = what_became(fleet, task)
        expected = EXPECTED[kind][fate]
        assert (kind, fate, state, reason, tries) == (kind, fate, *expected[:3]), error
        assert error is None if expected[3] is None else error and expected[3] in error, (kind, fate, error)
    # the handlers that swallow everything have no slot any more, and nobody else noticed anything
    await until(lambda: worker.executor.executing == len(others))
    assert {attempt.task_type.name for attempt in worker.executor.stuck} == {"async", "thread"}
    fleet.open("end")
    for kind, other in others.items():
        assert (await other.wait(10))["left"], kind
        assert what_became(fleet, other) == ("succeeded", None, 1, None)
    await until(lambda: not worker.executor.stuck)
    assert not worker.must_restart


async def test_outside_the_process_pool_a_worker_dies_with_its_handler(fleet: Fleet) -> None:
    """Each of its tasks costs one try; the others of the fleet notice nothing."""
    fleet.configure(lease=timedelta(seconds=2))
    await fleet.relay()
    cases = [(kind, fate) for kind in ("async", "thread") for fate in ("dies", "segfaults")]
    queues = [f"{kind}-{fate}" for kind, fate in cases]
    processes = [
        fleet.process("worker", "tests.fixtures.kinds:app", "-c", "2", "-q", queue, "--lease", "2") for queue in queues
    ]
    others = [fleet.enqueue(kinds.TELL["async"].options(queue=queue).call("secret", gate="end")) for queue in queues]
    for process in processes:
        await until(lambda process=process: fleet.is_present(process), 30)
    for other in others:
        await fleet.reaches(other, "running")
    tasks = [
        fleet.enqueue(kinds.KINDS[kind].options(queue=queue, max_attempts=1).call(fate))
        for queue, (kind, fate) in zip(queues, cases, strict=True)
    ]
    assert await asyncio.gather(*(process.ended() for process in processes)) == [9, -11, 9, -11]
    for task, other in zip(tasks, others, strict=True):
        await fleet.reaches(task, "failed")
        assert what_became(fleet, task)[:3] == ("failed", "lease_expired", 1)
        row = await fleet.reaches(other, "queued")
        assert (Reason(row["reason"]), row["tries"]) == (Reason.LEASE_EXPIRED, 1)
    fleet.open("end")
    await fleet.worker(kinds.app, queues=tuple(queues))
    for other in others:
        await other.wait(10)
        assert what_became(fleet, other) == ("succeeded", None, 2, None)
