"""What people see of tasks, in every state and on every kind of session."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from dispatcher import status, walking
from dispatcher.errors import OptionError, TaskNotFound
from dispatcher.masking import MASK
from dispatcher.task_info import Page
from state.claims import EXPIRE
from state.ids import new_id
from state.listing import listing
from state.requests import PARK
from state.settle import PROGRESS
from tests.integration.made_tasks import Made, invariants


@pytest.fixture
def made(database_url: str) -> Iterator[Made]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Made(connection)
        invariants(connection)


def ids(page: Page) -> list[UUID]:
    return [task.id for task in page.tasks]


def take(made: Made) -> None:
    """The relay's part: outbox rows become a batch of the dispatch log."""
    made.connection.execute(
        "WITH gone AS (DELETE FROM dispatcher.outbox RETURNING *) INSERT INTO dispatcher.dispatch_log"
        " (lane_id, task_ids, attempts, dispatches) SELECT lane_id, array_agg(task_id ORDER BY id),"
        " array_agg(attempt ORDER BY id), array_agg(dispatch ORDER BY id) FROM gone GROUP BY lane_id"
    )


def test_get_shows_everything_but_secrets(made: Made) -> None:
    task = made.succeeded(
        b'{"ok":true}', queue="billing", type="charge", tags=("a", "b"), key="k1", secret=["token"], headers={"h": "1"}
    )
    shown = status.get(made.connection, str(task))
    assert (shown.id, shown.type, shown.queue, shown.lane, shown.state) == (
        task,
        "charge",
        "billing",
        "default",
        "succeeded",
    )
    assert (shown.tags, shown.key, shown.headers, shown.finished) == (("a", "b"), "k1", {"h": "1"}, True)
    assert shown.args == {"n": 1, "token": MASK}
    assert shown.result == {"ok": True}
    assert "s3cret" not in str(shown.to_json())
    assert shown.to_json()["created_at"].endswith("Z")


def test_a_secret_result_is_masked(made: Made) -> None:
    task = made.succeeded(b'"s3cret"')
    made.connection.execute("UPDATE dispatcher.tasks SET flags = flags | 8")
    assert status.get(made.connection, task).result == MASK


def test_running_shows_worker_and_progress(made: Made) -> None:
    task = made.running()
    values = {"ids": [task], "attempts": [1], "fractions": [0.5], "messages": ["half"], "session": made.session}
    made.connection.execute(PROGRESS.psycopg("dispatcher"), values)
    shown = status.get(made.connection, task)
    assert shown.worker == "w1"
    assert shown.progress is not None
    assert (shown.progress.fraction, shown.progress.message) == (0.5, "half")
    assert abs(shown.progress.at - datetime.now(UTC)) < timedelta(minutes=5)


@pytest.mark.parametrize("state", ["failed", "retrying"])
def test_errors_are_shown(made: Made, state: str) -> None:
    task = made.failed() if state == "failed" else made.retrying()
    error = status.get(made.connection, task).error
    assert error is not None and (str(error), error.traceback) == ("ValueError: boom", "Trace…")
    (listed,) = status.list_(made.connection, state=state).tasks
    assert listed.error is not None and (str(listed.error), listed.error.traceback) == ("ValueError: boom", None)


def test_an_error_without_an_exception(made: Made) -> None:
    task = made.queued()
    made.connection.execute("UPDATE dispatcher.tasks SET expires_at = now() - interval '1 s'")
    made.connection.execute(EXPIRE.psycopg("dispatcher"), {"ids": [task], "attempts": [1]})
    shown = status.get(made.connection, task)
    assert (shown.state, shown.reason, str(shown.error)) == ("failed", "expired", "not started before its expiry")


def test_unknown_and_illegal_ids(made: Made) -> None:
    for ask in (status.get, status.history):
        with pytest.raises(TaskNotFound):
            ask(made.connection, new_id())
        with pytest.raises(OptionError, match="task id 'x' is not a UUID"):
            ask(made.connection, "x")


def test_history_names_the_worker(made: Made) -> None:
    task = made.failed()
    events = status.history(made.connection, task)
    assert [(e.seq, e.from_state, e.to_state, e.worker) for e in events] == [
        (1, None, "queued", None), (2, "queued", "running", "w1"), (3, "running", "failed", "w1"),
    ]  # fmt: skip
    assert events[2].detail["message"] == "boom"


def test_list_by_every_state(made: Made) -> None:
    expected = {
        "scheduled": [made.queued(delay=60)],
        "running": [made.running()],
        "retrying": [made.retrying()],
        "succeeded": [made.succeeded()],
        "failed": [made.failed()],
        "cancelled": [made.queued()],
        "blocked": [],
    }
    status.cancel(made.connection, expected["cancelled"])
    sent, parked = made.queued(), made.queued(queue="held")
    take(made)
    status.pause(made.connection, "held")
    made.connection.execute(PARK.psycopg("dispatcher"), {"ids": [parked], "attempts": [1]})
    waiting = made.queued()
    expected["queued"] = [waiting, parked, sent]
    for state, tasks in expected.items():
        page = status.list_(made.connection, state=state)
        assert (ids(page), page.next) == (tasks, None), state
    everything = sorted((task for tasks in expected.values() for task in tasks), reverse=True)
    assert ids(status.list_(made.connection)) == everything
    unsuccessful = [state for state in expected if state != "succeeded"]
    assert ids(status.list_(made.connection, state=unsuccessful)) == [
        task for task in everything if task not in expected["succeeded"]
    ]
    assert ids(status.list_(made.connection, state="queued", queue="held")) == [parked]


def test_stale_entries_of_side_tables_show_nothing_wrong(made: Made) -> None:
    """The dispatch log and claims keep entries of tasks that moved on, a duplicate message gives an id twice."""
    task = made.queued()
    take(made)
    again = "INSERT INTO dispatcher.outbox (task_id, attempt, dispatch, lane_id) VALUES (%s, 1, 2, 1)"
    made.connection.execute(again, [task])
    assert ids(status.list_(made.connection, state="queued")) == [task]
    made.claim(task)
    assert ids(status.list_(made.connection, state="queued")) == []
    assert ids(status.list_(made.connection, state=["queued", "running"])) == [task]
    other = made.queued()
    made.claim(other)
    made.leave(task, 7, 2)
    made.connection.execute(
        "INSERT INTO dispatcher.claims VALUES (%s, 99, ARRAY[CAST(%s AS uuid)], '{1}')", [made.session, task]
    )
    assert ids(status.list_(made.connection, state="running")) == [other]


def test_filters_combine(made: Made) -> None:
    a = made.failed(queue="one", type="x", tags=("red",), key="k")
    b = made.failed(queue="one", type="y", tags=("red", "blue"))
    c = made.succeeded(queue="two", type="x", tags=("red",))

    def found(**filters: Any) -> list[UUID]:
        return ids(status.list_(made.connection, **filters))

    assert found(queue="one") == [b, a]
    assert found(type="x") == [c, a]
    assert found(tag="red") == [c, b, a]
    assert found(tag="blue", state="failed") == [b]
    assert found(key="k") == [a]
    assert found(key="k", type="y") == []
    assert found(type="x", queue="one", tag="red") == [a]
    assert found(state=["succeeded", "failed"], type="x") == [c, a]
    assert found(state="failed", type="x", queue="two") == []
    assert found(error="VALUEERROR: b") == [b, a]
    assert found(error="%") == []
    assert found(error="boom", type="x") == [a]
    assert found(queue="nowhere") == []


def test_time_window(made: Made) -> None:
    task = made.queued()
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    assert ids(status.list_(made.connection, created_after=now - hour, created_before=now + hour)) == [task]
    assert ids(status.list_(made.connection, created_after=now + hour)) == []
    assert ids(status.list_(made.connection, created_before=now - hour)) == []


@pytest.mark.parametrize("filters", [{}, {"state": "failed"}, {"tag": "x"}, {"queue": "q", "type": "t"}])
def test_pages_join_up_without_gaps_or_repeats(made: Made, filters: dict[str, Any]) -> None:
    tasks = [made.failed(tags=("x",)) for _ in range(7)]
    seen: list[UUID] = []
    cursor = None
    for size in (3, 3, 1):
        page = status.list_(made.connection, limit=3, cursor=cursor, **filters)
        assert len(page.tasks) == size
        seen += ids(page)
        cursor = page.next
    assert cursor is None
    assert seen == tasks[::-1]


def test_a_walk_over_many_steps_finds_the_last_one(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    rare = made.succeeded()
    made.connection.execute(
        "INSERT INTO dispatcher.tasks (id, queue_id, lane_id, type_id, state, max_tries, created_at, args)"
        " SELECT CAST('ffffffff-0000-7000-8000-' || lpad(to_hex(n), 12, '0') AS uuid), 1, 1, 1, 3, 1, now(), ''"
        " FROM generate_series(1, 12000) n"
    )
    assert ids(status.list_(made.connection, state="succeeded")) == [rare]
    monkeypatch.setattr(walking, "_MOST_STEPS", 1)
    page = status.list_(made.connection, state="succeeded")
    assert page.tasks == () and page.next is not None
    monkeypatch.undo()
    assert ids(status.list_(made.connection, state="succeeded", cursor=page.next)) == [rare]
    made.connection.execute("DELETE FROM dispatcher.tasks WHERE created_at = now() OR args = ''")


def test_intersected_steps_find_what_lies_deep(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = [made.queued(queue="a", type="x") for _ in range(3)]
    made.queued(queue="b", type="y")
    made.connection.execute(
        "INSERT INTO dispatcher.tasks (id, queue_id, lane_id, type_id, state, max_tries, created_at, args)"
        " SELECT CAST('ffffffff-0000-7000-8000-' || lpad(to_hex(n), 12, '0') AS uuid), q.id, 1, t.id, 3, 1, now(), ''"
        " FROM generate_series(1, 60000) n, dispatcher.queues q, dispatcher.types t"
        " WHERE (q.name, t.name) IN (('a', 'y'), ('b', 'x')) AND (q.name = 'a') = (n % 2 = 0)"
    )
    assert ids(status.list_(made.connection, queue="a", type="x")) == deep[::-1]
    first = status.list_(made.connection, queue="a", type="x", limit=2)
    assert ids(first) == deep[:0:-1]
    assert ids(status.list_(made.connection, queue="a", type="x", cursor=first.next)) == deep[:1]
    monkeypatch.setattr("state.listing.WIDE", 10_000)
    listing.cache_clear()
    assert ids(status.list_(made.connection, queue="a", type="x")) == deep[::-1]
    listing.cache_clear()
    made.connection.execute("DELETE FROM dispatcher.tasks WHERE args = ''")


def test_counts_depth_and_age(made: Made) -> None:
    first = made.queued(queue="a")
    take(made)
    made.queued(queue="a")
    made.succeeded(queue="b")
    assert status.counts(made.connection) == {"a": {"queued": 2}, "b": {"succeeded": 1}}
    a, b = status.queues(made.connection)
    assert (a.depth, b.depth, b.oldest_queued_at) == (2, 0, None)
    assert a.oldest_queued_at == status.history(made.connection, first)[0].at
    made.claim(first)
    (a, _) = status.queues(made.connection)
    assert a.oldest_queued_at is not None and a.oldest_queued_at > status.history(made.connection, first)[0].at
