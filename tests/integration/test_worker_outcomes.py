"""What a handler does and what becomes of its task: relay and worker in this process, real servers."""

from __future__ import annotations

import pytest

from dispatcher.errors import TaskFailed
from state.machine import Reason
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE


def reason(row: dict[str, object]) -> str:
    assert isinstance(row["reason"], int)
    return Reason(row["reason"]).label


@pytest.mark.parametrize("kind", [apps.note, apps.note_plain])
async def test_async_and_plain_handlers_run_and_their_result_is_stored(fleet: Fleet, kind: object) -> None:
    assert kind in (apps.note, apps.note_plain)
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(kind.call(21))
    assert await task.wait(PATIENCE) == 42
    assert [entry.value for entry in fleet.ledger("ran")] == ["21"]
    row = fleet.row(task)
    assert (row["tries"], row["attempt"], row["dispatch"]) == (1, 1, 1)


async def test_a_failing_handler_is_retried_after_its_back_off(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.flaky.call(2))
    assert await task.wait(PATIENCE) == 3
    events = fleet.rows(
        "SELECT to_state, at, detail FROM dispatcher.task_events WHERE task_id = %s ORDER BY seq", task.id
    )
    assert [event["to_state"] for event in events] == [3, 4, 5, 3, 4, 5, 3, 4, 6]
    first, second = ((events[i + 1]["at"] - events[i]["at"]).total_seconds() for i in (2, 5))
    assert first >= 0.05 and second >= 0.1  # doubled
    assert events[2]["detail"]["message"] == "try 1 failed"
    assert "flaky" in events[2]["detail"]["traceback"]


async def test_the_last_try_ends_as_failed(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.flaky.call(99))
    with pytest.raises(TaskFailed, match="try 3 failed"):
        await task.wait(PATIENCE)
    row = fleet.row(task)
    assert (reason(row), row["tries"], row["max_tries"]) == ("exhausted", 3, 3)


@pytest.mark.parametrize(
    ("kind", "tries", "why"), [("value", 3, "exhausted"), ("missing", 1, "rejected"), ("key", 1, "rejected")]
)
async def test_only_errors_of_the_policy_are_retried(fleet: Fleet, kind: str, tries: int, why: str) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.picky.call(kind))
    row = await fleet.reaches(task, "failed")
    assert (row["tries"], reason(row)) == (tries, why)


async def test_a_call_may_bring_its_own_policy(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.flaky.options(max_attempts=1).call(1))
    row = await fleet.reaches(task, "failed")
    assert (row["tries"], reason(row)) == (1, "exhausted")


async def test_retry_in_overrides_the_back_off_and_consumes_a_try(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.later.call(0.2))  # its back-off would be an hour
    assert await task.wait(PATIENCE) == "done"
    assert fleet.row(task)["tries"] == 2
    first, second = (event["at"] for event in fleet.rows(
        "SELECT at FROM dispatcher.task_events WHERE task_id = %s AND to_state IN (5, 3)"
            " AND seq > 1 ORDER BY seq", task.id
    ))  # fmt: skip
    assert 0.2 <= (second - first).total_seconds() < 1.5


async def test_snooze_consumes_no_try(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.nap.call(3))
    assert await task.wait(PATIENCE) == 1
    row = fleet.row(task)
    assert (row["tries"], row["attempt"]) == (1, 4)


async def test_cancel_from_inside(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.give_up.call("not wanted any more"))
    row = await fleet.reaches(task, "cancelled")
    assert reason(row) == "by_request"
    assert fleet.rows("SELECT error FROM dispatcher.failures")[0]["error"] == "not wanted any more"


@pytest.mark.parametrize("kind", [apps.stuck, apps.stuck_plain])
async def test_a_handler_that_runs_too_long_times_out(fleet: Fleet, kind: object) -> None:
    await fleet.relay()
    await fleet.worker(slots=1)
    task = fleet.enqueue(kind.call())  # type: ignore[attr-defined]
    row = await fleet.reaches(task, "failed")
    assert reason(row) == "timeout"
    if kind is apps.stuck_plain:  # the thread was told, and what it returned changed nothing
        assert (await fleet.entry("end", task)).value == "True"
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2  # the slot is free again
    assert fleet.row(task)["result"] is None


async def test_progress_is_stored_and_its_last_value_wins(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.measured.call("go"))
    await fleet.entry("start", task)
    found = await until(lambda: fleet.rows("SELECT fraction, message, attempt FROM dispatcher.progress"))
    assert found == [{"fraction": 0.25, "message": "a quarter", "attempt": 1}]
    fleet.open("go")
    await task.wait(PATIENCE)


async def test_a_result_that_cannot_be_stored_fails_the_task(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.unstorable.call())
    row = await fleet.reaches(task, "failed")
    assert (reason(row), row["tries"]) == ("unserialisable", 1)


async def test_arguments_that_do_not_fit_any_more_fail_the_task(fleet: Fleet) -> None:
    await fleet.relay()
    task = fleet.enqueue(apps.note.call(1))
    fleet.rows("UPDATE dispatcher.tasks SET args = %s RETURNING 1", b'{"value":"not a number"}')
    await fleet.worker()
    row = await fleet.reaches(task, "failed")
    assert (reason(row), row["tries"]) == ("undecodable", 1)
    assert fleet.ledger() == []


@pytest.mark.parametrize("kind", ["stop", "exit", "interrupt", "value"])
async def test_whatever_a_plain_function_raises_is_an_outcome(fleet: Fleet, kind: str) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.raising_plain.call(kind))
    await fleet.reaches(task, "failed")
    assert await fleet.enqueue(apps.note_plain.call(1)).wait(PATIENCE) == 2


@pytest.mark.parametrize("text", apps.TEXTS)
async def test_no_text_of_a_handler_can_stop_a_worker(fleet: Fleet, text: str) -> None:
    """Texts that PostgreSQL cannot store must not end the process that carries them, and the next one after it."""
    await fleet.relay()
    worker = await fleet.worker()
    tasks = [fleet.enqueue(kind.call(text)) for kind in (apps.raising, apps.give_up, apps.not_now, apps.telling)]
    for task in tasks:
        await fleet.reaches(task, "failed", "cancelled", "succeeded")
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2
    assert not fleet.task_of(worker).done()
