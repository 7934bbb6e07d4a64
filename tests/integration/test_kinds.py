"""Each kind of execution against each fate of a handler: what becomes of the task, and what others notice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dispatcher import Retry
from dispatcher.cli.main import main
from dispatcher.errors import TaskNotFound
from dispatcher.handle import Task
from dispatcher.masking import MASK
from dispatcher.status import get
from state.machine import Reason
from tests.fixtures import kinds
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE
from workers.runtime import Worker

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


def is_gone(pid: int) -> bool:
    """Also when nobody has collected it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


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
    waiting = {kind: kinds.TELL[kind].options(timeout=90) for kind in ("async", "thread", "process")}
    others = {kind: fleet.enqueue(told.call("s", gate="end")) for kind, told in waiting.items()}
    await until(lambda: len(worker.executor.running) == 3)
    tasks = {(kind, fate): fleet.enqueue(call(kind, fate)) for kind, expected in EXPECTED.items() for fate in expected}
    for (kind, fate), task in tasks.items():
        await fleet.reaches(task, "succeeded", "failed", timeout=2 * PATIENCE)
        state, reason, tries, error = what_became(fleet, task)
        expected = EXPECTED[kind][fate]
        assert (kind, fate, state, reason, tries) == (kind, fate, *expected[:3]), error
        assert error is None if expected[3] is None else error and expected[3] in error, (kind, fate, error)
    # the handlers that swallow everything have no slot any more, and nobody else noticed anything
    await until(lambda: worker.executor.executing == len(others))
    assert {attempt.task_type.name for attempt in worker.executor.stuck} == {"async", "thread"}
    fleet.open("end")
    for kind, other in others.items():
        assert (await other.wait(PATIENCE))["left"], kind
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
        await until(partial(fleet.is_present, process))
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
        await other.wait(PATIENCE)
        assert what_became(fleet, other) == ("succeeded", None, 2, None)


@pytest.fixture
async def worker(fleet: Fleet) -> Worker:
    await fleet.relay()
    return await fleet.worker(kinds.app, slots=8)


async def test_what_a_handler_uses_works_the_same_in_every_kind(fleet: Fleet, worker: Worker) -> None:
    """Arguments, secrets, results, progress, log lines, context, resources."""
    tasks = {
        kind: fleet.enqueue(told.options(headers={"a": "b"}, max_attempts=1).call("hunter2"))
        for kind, told in kinds.TELL.items()
    }
    big = [fleet.enqueue(told.options(max_attempts=1).call("s", size=1 << 20)) for told in kinds.TELL.values()]
    for kind, task in tasks.items():
        found = await task.wait(PATIENCE)
        assert found["ids"] == [str(task.id), f"tell_{kind}", "default", 1, 1, 1, {"a": "b"}]
        assert (found["pool"], found["left"], found["overdue"]) == (True, True, False)
        assert (found["pid"] == os.getpid()) == ("process" not in kind)
        assert found["main"] == (kind != "thread")
        [attempt] = kinds.app.logs(fleet.connection, task.id)
        assert [(line.level, line.logger) for line in attempt.lines] == [
            ("info", "shop.kinds"),
            ("warning", "shop.kinds"),
        ]
        assert attempt.lines[0].message == f"working with {MASK}"
        assert attempt.lines[1].message.startswith("a warning\nTraceback")
        assert "hunter2" not in str(attempt.to_json())
        assert (attempt.attempt, attempt.dropped) == (1, 0)
    for task in big:
        await fleet.reaches(task, "failed")
        state, reason, tries, error = what_became(fleet, task)
        assert (state, reason, tries) == ("failed", "unserialisable", 1)
        assert error and "over the limit of 1,048,576" in error


async def test_a_soft_timeout_asks_and_a_handler_may_still_succeed(fleet: Fleet, worker: Worker) -> None:
    tasks = [fleet.enqueue(kind.options(soft_timeout=0.3, timeout=20).call(30)) for kind in kinds.TIDY.values()]
    for task in tasks:
        assert await task.wait(PATIENCE) == "in time"
        assert fleet.row(task)["tries"] == 1
    task = fleet.enqueue(kinds.ASYNC.options(soft_timeout=0.2, max_attempts=1).call("hangs"))
    await fleet.reaches(task, "failed")
    assert what_became(fleet, task)[1:] == (
        "timeout", 1, "workers.outcome.HandlerTimeout: stopped at its soft timeout of 0.2 s"
    )  # fmt: skip


async def _children_are_up(fleet: Fleet, worker: Worker, number: int) -> None:
    """Their start takes a busy machine longer than the limits that follow."""
    pool = worker.executor.processes
    assert pool is not None
    held = [fleet.enqueue(kinds.TELL["process"].call("s", gate="up")) for _ in range(number)]
    await until(lambda: len(pool.pids) == number)
    fleet.open("up")
    for task in held:
        await task.wait(PATIENCE)


async def test_a_deadline_ends_what_runs_and_what_waits(fleet: Fleet, worker: Worker) -> None:
    await _children_are_up(fleet, worker, 2)
    running = [fleet.enqueue(kind.options(deadline=2, timeout=60).call("hangs")) for kind in kinds.KINDS.values()]
    waiting = fleet.enqueue(kinds.ASYNC.options(queue="nobody", deadline=0.5).call("returns"))
    late = kinds.ASYNC.options(deadline=30, retry=Retry(max_attempts=3, backoff=90, jitter=False)).call("raises")
    retrying = fleet.enqueue(late)
    fine = fleet.enqueue(kinds.THREAD.options(deadline=30).call("returns"))
    for task in (*running, waiting, retrying):
        await fleet.reaches(task, "failed")
        assert what_became(fleet, task)[1] == "deadline", what_became(fleet, task)
    assert [fleet.row(task)["tries"] for task in (*running, waiting, retrying)] == [1, 1, 1, 1, 0, 1]
    assert what_became(fleet, waiting)[3] == "not finished by its deadline"
    error = what_became(fleet, retrying)[3]
    assert error and "it went wrong (and it would start again only after its deadline)" in error
    assert (await fine.wait(PATIENCE))["n"] == 7
    with fleet.connection.transaction():  # a person's retry lifts the deadline
        kinds.app.retry(fleet.connection, retrying.id)
    row = await fleet.reaches(retrying, "retrying")
    assert row["due_at"] > row["created_at"] + timedelta(seconds=60)


async def test_a_child_is_cancelled_within_a_tenth_of_a_second_and_killed_if_need_be(
    fleet: Fleet, worker: Worker
) -> None:
    deaf = fleet.enqueue(kinds.PROCESS.call("deaf"))
    tidy = fleet.enqueue(kinds.TIDY["process"].call(60))
    pids = [(await fleet.entry("start", task)).pid for task in (deaf, tidy)]
    for task in (deaf, tidy):
        with fleet.connection.transaction():
            kinds.app.cancel(fleet.connection, task.id)
    for task in (deaf, tidy):
        await fleet.reaches(task, "cancelled")
        assert what_became(fleet, task)[1:3] == ("by_request", 1)
    assert [is_gone(pid) for pid in pids] == [True, False]  # killed; ended its task in order and is kept
    assert (await fleet.enqueue(kinds.PROCESS.call("returns")).wait(PATIENCE))["n"] == 7


async def test_children_are_replaced_after_their_share_and_end_in_order(fleet: Fleet) -> None:
    fleet.configure(processes=1, process_recycle_after=2, process_memory=400)
    await fleet.relay()
    worker = await fleet.worker(kinds.app, slots=4)
    pids = [await fleet.enqueue(kinds.leak.call(1)).wait(PATIENCE) for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    fifth = await fleet.enqueue(kinds.leak.call(300)).wait(PATIENCE)  # above four fifths: no other task is blamed
    assert fifth != await fleet.enqueue(kinds.leak.call(1)).wait(PATIENCE)
    await fleet.stop(worker)
    lines = [(entry.what, entry.pid) for entry in fleet.ledger()]
    own = ["open-pool", "start-hook", "stop-hook", "close-pool"]
    for pid in {pid for _, pid in lines}:
        assert [what for what, by in lines if by == pid] == own
    assert {pid for _, pid in lines} >= {os.getpid(), *pids, fifth}


async def test_children_die_with_their_worker(fleet: Fleet) -> None:
    fleet.configure(lease=timedelta(seconds=2))
    await fleet.relay()
    process = fleet.process("worker", "tests.fixtures.kinds:app", "-c", "2", "--processes", "1")
    task = fleet.enqueue(kinds.PROCESS.options(max_attempts=1).call("deaf"))
    child = (await fleet.entry("start", task)).pid
    assert child != process.pid
    process.kill()
    await until(lambda: is_gone(child))
    row = await fleet.reaches(task, "failed")
    assert Reason(row["reason"]) == Reason.LEASE_EXPIRED


async def test_a_worker_with_too_many_lost_handlers_asks_to_be_started_again(fleet: Fleet) -> None:
    await fleet.relay()
    process = fleet.process("worker", "tests.fixtures.kinds:app", "-c", "1")
    deaf = [kind.options(timeout=0.2, max_attempts=1).call("deaf") for kind in (kinds.ASYNC, kinds.THREAD)]
    tasks = fleet.enqueue_many(deaf)
    assert await process.ended() == 70, process.output
    assert "this worker must restart" in process.output
    for task in tasks:
        assert what_became(fleet, task)[:2] == ("failed", "timeout")


async def test_log_lines_are_bounded_kept_per_attempt_and_shown(
    fleet: Fleet, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    many, flaky, silent = (
        fleet.enqueue(call) for call in (kinds.chatty.call(500), kinds.flaky_log.call(), kinds.ASYNC.call("returns"))
    )
    for task in (many, flaky, silent):
        await task.wait(PATIENCE)
    [attempt] = kinds.app.logs(fleet.connection, many.id)
    assert len(attempt.lines) + attempt.dropped == 500
    assert 100 < len(attempt.lines) <= 200
    assert attempt.lines[-1].message.startswith("line 499")
    assert [(a.attempt, a.lines[0].message) for a in kinds.app.logs(fleet.connection, flaky.id)] == [
        (1, "try 1"), (2, "try 2")
    ]  # fmt: skip
    assert kinds.app.logs(fleet.connection, silent.id) == ()
    assert fleet.count("attempt_logs") == 3
    [failure] = [event for event in kinds.app.history(fleet.connection, flaky.id) if event.to_state == "retrying"]
    assert "flaky_log" in failure.detail["traceback"]
    url = fleet.settings.database_url
    for arguments, wanted in ((["--json"], '"try 2"'), ([], "shop.kinds: try 2")):
        with pytest.raises(SystemExit):
            main(["tasks", "show", str(flaky.id), "--database-url", str(url), *arguments])
        assert wanted in capsys.readouterr().out
    with pytest.raises(TaskNotFound):
        kinds.app.logs(fleet.connection, uuid4())
