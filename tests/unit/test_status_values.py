"""Rows become values with a JSON form."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

from dispatcher.masking import MASK
from dispatcher.task_info import Answer, Event, Page, QueueInfo, TaskInfo, jsonable

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
ID = UUID(int=7)


def row(**changes: Any) -> list[Any]:
    columns: dict[str, Any] = {
        "id": ID, "type": "t", "queue": "q", "lane": "default", "state": 7, "reason": 2, "attempt": 3, "tries": 2,
        "max_tries": 5, "generation": 1, "dispatch": 4, "flags": 9, "created_at": NOW, "due_at": None,
        "started_at": NOW, "finished_at": NOW, "expires_at": None,
        "meta": '{"tags": ["a"], "headers": {"h": "1"}, "secret": ["token"]}', "key": "k", "worker": None,
        "parked": False, "detail": '{"type": "ValueError", "message": "boom", "traceback": "T"}', "error": "x",
        "progress": "[0.5, null, 1767323045.678]", "args": memoryview(b'{"token": "s3cret", "n": 1}'),
        "result": b'"s3cret"', "codec": 1, "key_id": None,
    }  # fmt: skip
    return list({**columns, **changes}.values())


def test_a_full_row() -> None:
    task = TaskInfo.from_row(row())
    assert (task.state, task.reason, task.attempt, task.tries, task.max_attempts, task.dispatch) == (
        "failed",
        "rejected",
        3,
        2,
        5,
        4,
    )
    assert task.cancel_requested and task.finished
    assert task.args == {"token": MASK, "n": 1}
    assert task.result == MASK
    document = task.to_json()
    assert json.loads(json.dumps(document)) == document
    assert document["id"] == str(ID)
    assert document["created_at"] == "2026-01-02T03:04:05.678000Z"
    assert document["error"] == {"message": "boom", "type": "ValueError", "traceback": "T"}
    assert document["progress"] == {"fraction": 0.5, "message": None, "at": "2026-01-02T03:04:05.678000Z"}


def test_a_listed_row_has_no_arguments() -> None:
    task = TaskInfo.from_row(row(meta=None, flags=0, detail=None, progress=None)[:24])
    assert (task.args, task.result, task.tags, str(task.error)) == (None, None, (), "x")


def test_foreign_id_types_become_uuid() -> None:
    class Other(UUID):
        """What asyncpg returns is a subclass."""

    task = TaskInfo.from_row(row(id=Other(int=7)))
    assert type(task.id) is UUID and task.id == ID


def test_times_are_shown_in_utc() -> None:
    assert jsonable(NOW.astimezone(timezone(timedelta(hours=5)))) == "2026-01-02T03:04:05.678000Z"


def test_events_queues_answers_and_pages() -> None:
    event = Event.from_row([1, None, 3, None, 1, NOW, "me", None, '{"a": 1}'])
    assert (event.from_state, event.to_state, event.detail) == (None, "queued", {"a": 1})
    queue = QueueInfo.from_row(["q", "TASKS", True, NOW, "me", 2, NOW, '{"3": 3, "7": 1}'])
    assert (queue.depth, queue.parked, queue.to_json()["counts"]) == (3, 2, {"queued": 3, "failed": 1})
    assert jsonable([Answer(ID, "too_late", "failed")]) == [{"id": str(ID), "outcome": "too_late", "state": "failed"}]
    assert Page((TaskInfo.from_row(row()),), None).to_json()["tasks"][0]["type"] == "t"
