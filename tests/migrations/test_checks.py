"""Every CHECK constraint refuses a bad row, and the stored state machine is the one in the code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from state.machine import LEGAL_MOVES, Reason, State

ID = "018f0000-0000-7000-8000-000000000001"
NOW = "2026-01-01T00:00:00Z"
GOOD: dict[str, dict[str, Any]] = {
    "queues": {"name": "q"},
    "lanes": {"queue_id": 1, "name": "default", "priority": 20},
    "types": {"name": "mail.send"},
    "tasks": {
        "id": ID,
        "queue_id": 1,
        "lane_id": 1,
        "type_id": 1,
        "state": 3,
        "max_tries": 3,
        "created_at": NOW,
        "args": b"",
    },
    "deletions": {"id": ID, "filter": "{}", "deleted": 0},
    "task_events": {"task_id": ID, "seq": 1, "to_state": 3, "attempt": 1},
    "relay_state": {"singleton": True},
    "timers": {"task_id": ID, "kind": 1, "attempt": 1, "due_at": NOW},
    "parked": {"task_id": ID, "attempt": 1, "gate": 1, "gate_key": 1},
    "failures": {"task_id": ID, "tenant_id": 0, "queue_id": 1, "type_id": 1, "state": 7, "reason": 1},
    "task_labels": {"kind": 1, "value": "vip", "task_id": ID},
    "progress": {"task_id": ID, "attempt": 1, "fraction": 0.5},
    "attempt_logs": {"task_id": ID, "attempt": 1, "dropped": 0, "lines": "[]"},
    "task_steps": {"task_id": ID, "name": "pay", "attempt": 1, "result": b"1"},
    "flows": {"id": ID, "root_id": ID, "kind": 1, "total": 2},
    "deps": {"parent_id": ID, "child_id": ID, "rule": 1},
    "joins": {"node_id": ID, "shard": 0, "is_flow": False, "remaining": 1},
}
RUNNING = {"state": 4, "tries": 1, "started_at": NOW, "session_id": 1}
SUCCEEDED = {"state": 6, "tries": 1, "started_at": NOW, "finished_at": NOW}
FAILED = {"state": 7, "reason": 1, "finished_at": NOW}
ALSO_GOOD: list[tuple[str, dict[str, Any]]] = [
    ("tasks", RUNNING),
    ("tasks", {**SUCCEEDED, "result": b"1"}),
    ("tasks", FAILED),
    ("tasks", {"state": 5, "due_at": NOW, "tries": 3}),
    ("queues", {"paused": True, "paused_at": NOW}),
    ("task_events", {"seq": 2, "from_state": 3, "to_state": 4}),
]
BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("queues_name_legal", "queues", {"name": "a.b"}),
    ("queues_name_legal", "queues", {"name": ""}),
    ("queues_name_legal", "queues", {"name": "q" * 65}),
    ("queues_name_legal", "queues", {"name": "q\n"}),
    ("queues_stream_legal", "queues", {"stream": "a b"}),
    ("queues_paused_has_time", "queues", {"paused": True}),
    ("queues_paused_has_time", "queues", {"paused_at": NOW}),
    ("lanes_name_legal", "lanes", {"name": "*"}),
    ("types_name_length", "types", {"name": ""}),
    ("types_name_length", "types", {"name": "x" * 201}),
    ("tasks_state_known", "tasks", {"state": 0}),
    ("tasks_state_known", "tasks", {"state": 9, "finished_at": NOW}),
    ("tasks_reason_known", "tasks", {"reason": max(Reason) + 1}),
    ("tasks_numbers_positive", "tasks", {"attempt": 0}),
    ("tasks_numbers_positive", "tasks", {"generation": 0}),
    ("tasks_numbers_positive", "tasks", {"dispatch": 0}),
    ("tasks_numbers_positive", "tasks", {"seq": 0}),
    ("tasks_tries_bounded", "tasks", {"tries": 4}),
    ("tasks_tries_bounded", "tasks", {"tries": -1}),
    ("tasks_tries_bounded", "tasks", {"max_tries": 0}),
    ("tasks_running_has_session", "tasks", {**RUNNING, "session_id": None}),
    ("tasks_running_has_session", "tasks", {"session_id": 1}),
    ("tasks_running_has_try", "tasks", {**RUNNING, "tries": 0}),
    ("tasks_running_has_try", "tasks", {**SUCCEEDED, "started_at": None}),
    ("tasks_final_has_time", "tasks", {**FAILED, "finished_at": None}),
    ("tasks_final_has_time", "tasks", {"finished_at": NOW}),
    ("tasks_result_only_on_success", "tasks", {"result": b"1"}),
    ("tasks_stopped_has_reason", "tasks", {**FAILED, "reason": None}),
    ("tasks_waiting_has_due", "tasks", {"state": 2}),
    ("tasks_waiting_has_due", "tasks", {"state": 5}),
    ("task_events_created_is_first", "task_events", {"seq": 2}),
    ("task_events_created_is_first", "task_events", {"from_state": 3, "to_state": 4}),
    ("task_events_move_legal", "task_events", {"to_state": 6}),
    ("task_events_move_legal", "task_events", {"seq": 2, "from_state": 6, "to_state": 3}),
    ("task_events_move_legal", "task_events", {"seq": 2, "from_state": 3, "to_state": 9}),
    ("task_events_reason_known", "task_events", {"reason": 0}),
    ("relay_state_one_row", "relay_state", {"singleton": False}),
    ("timers_kind_known", "timers", {"kind": 3}),
    ("parked_gate_known", "parked", {"gate": 2}),
    ("failures_state_stopped", "failures", {"state": 6}),
    ("task_labels_kind_known", "task_labels", {"kind": 3}),
    ("task_labels_value_length", "task_labels", {"value": ""}),
    ("task_labels_value_length", "task_labels", {"value": "x" * 201}),
    ("progress_fraction_range", "progress", {"fraction": 1.01}),
    ("progress_fraction_range", "progress", {"fraction": -0.01}),
    ("attempt_logs_dropped_counts", "attempt_logs", {"dropped": -1}),
    ("attempt_logs_lines_listed", "attempt_logs", {"lines": "{}"}),
    ("deletions_count_positive", "deletions", {"deleted": -1}),
    ("task_steps_name_length", "task_steps", {"name": ""}),
    ("flows_kind_known", "flows", {"kind": 5}),
    ("flows_state_known", "flows", {"state": 3, "finished_at": NOW}),
    ("flows_final_has_time", "flows", {"state": 6}),
    ("deps_rule_known", "deps", {"rule": 4}),
    ("joins_counts", "joins", {"remaining": -1}),
    ("joins_counts", "joins", {"bad": -1}),
]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url) as opened:
        opened.execute("DELETE FROM dispatcher.relay_state")
        opened.execute("INSERT INTO dispatcher.queues (name) VALUES ('first')")
        yield opened
        opened.rollback()


def _insert(connection: psycopg.Connection, table: str, row: dict[str, Any]) -> int:
    """Insert one row and take it back."""
    if table == "lanes":
        queue = connection.execute("SELECT id FROM dispatcher.queues WHERE name = 'first'").fetchone()
        assert queue is not None
        row = {**row, "queue_id": queue[0]}
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier("dispatcher", table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(map(sql.Placeholder, row)),
    )
    with connection.transaction(force_rollback=True):
        return connection.execute(statement, row).rowcount


def test_good_rows_are_accepted(connection: psycopg.Connection) -> None:
    for table, row in GOOD.items():
        assert _insert(connection, table, row) == 1
    for table, change in ALSO_GOOD:
        assert _insert(connection, table, GOOD[table] | change) == 1


def test_every_check_refuses_its_bad_rows(connection: psycopg.Connection) -> None:
    for name, table, change in BAD:
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            _insert(connection, table, GOOD[table] | change)
        assert refused.value.diag.constraint_name == name, change


def test_every_check_is_tested(connection: psycopg.Connection) -> None:
    query = "SELECT conname FROM pg_constraint WHERE contype = 'c' AND connamespace = 'dispatcher'::regnamespace"
    assert {name for name, _, _ in BAD} == {row[0] for row in connection.execute(query)}


def test_task_moves_equal_the_machine(connection: psycopg.Connection) -> None:
    rows = connection.execute("SELECT from_state, to_state FROM dispatcher.task_moves").fetchall()
    assert {(State(a) if a else None, State(b)) for a, b in rows} == LEGAL_MOVES


def test_the_database_accepts_exactly_the_legal_moves(connection: psycopg.Connection) -> None:
    for before in (None, *State):
        for after in State:
            row = {"task_id": ID, "seq": 2 if before else 1, "from_state": before, "to_state": after, "attempt": 1}
            if (before, after) in LEGAL_MOVES:
                _insert(connection, "task_events", row)
            else:
                with pytest.raises(psycopg.errors.CheckViolation):
                    _insert(connection, "task_events", row)


def test_the_audit_trail_cannot_be_rewritten(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as refused:
        connection.execute("UPDATE dispatcher.task_events SET actor = 'me'")
    assert refused.value.sqlstate == "DS004"
