"""The guards of claim and settle: what each refuses, and that a refused write changes nothing at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest

from state.machine import State
from state.sessions import CLOSE
from state.settle import LEAVE, SUCCEED
from state.sql import Sql
from tests.fixtures.fleet import assert_sound
from tests.fixtures.patience import PATIENCE, until_blocking
from tests.integration.protocol_steps import Protocol
from workers.claimer import _verdict as verdict_of


@pytest.fixture
def steps(database_url: str) -> Iterator[Protocol]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Protocol(connection)
        assert_sound(connection)


def test_a_claim_takes_a_queued_task_once(steps: Protocol) -> None:
    one, two, task = steps.open(), steps.open(), steps.create()
    assert steps.claim(one, task) == [task]
    row = steps.row(task)
    assert (row["state"], row["session_id"], row["tries"], row["started_at"] is not None) == (4, one, 1, True)
    before = steps.snapshot()
    assert steps.claim(one, task) == [] and steps.claim(two, task) == []
    assert steps.snapshot() == before


def test_a_claim_of_another_attempt_is_refused(steps: Protocol) -> None:
    session, task = steps.open(), steps.create()
    before = steps.snapshot()
    for attempt in (0, 2):
        assert steps.claim(session, task, attempts=[attempt]) == []
    assert steps.snapshot() == before


def test_a_claim_by_a_session_that_was_rescued_is_refused(steps: Protocol) -> None:
    session, task = steps.open(), steps.create()
    steps.expire(session)
    assert steps.claim(session, task) == []  # its lease is over
    assert steps.end_expired() == [session]
    before = steps.snapshot()
    assert steps.claim(session, task) == []  # it is gone
    assert steps.snapshot() == before


@pytest.mark.parametrize("how", ["cancelled", "scheduled", "retrying", "succeeded", "failed", "running"])
def test_a_claim_of_a_task_that_is_not_queued_is_refused(steps: Protocol, how: str) -> None:
    session = steps.open()
    task = steps.create(delay=60 if how == "scheduled" else None)
    if how == "cancelled":
        steps.cancel(task)
    elif how != "scheduled":
        steps.claim(session, task)
    if how == "succeeded":
        steps.succeed(session, task, 1)
    elif how == "retrying":
        steps.leave(session, task, 1, State.RETRYING, 11)
    elif how == "failed":
        steps.leave(session, task, 1, State.FAILED, 2)
    assert steps.state(task).label == how
    before = steps.snapshot()
    assert steps.claim(steps.open(), task) == []
    after = steps.snapshot()
    assert after[0] == before[0] and after[1] == before[1]


def test_a_claim_of_an_expired_task_is_refused_and_it_ends(steps: Protocol) -> None:
    session, task = steps.open(), steps.create(expires=60)
    assert steps.expire_at_claim(task, 1) == []  # its time has not come
    steps.due(task, kind=2)
    assert steps.claim(session, task) == []
    assert verdict_of(steps.look(session, task, 1)) == "expired"
    assert steps.expire_at_claim(task, 2) == []  # another attempt
    assert steps.expire_at_claim(task, 1) == [task]
    assert (steps.state(task), steps.row(task)["reason"]) == (State.FAILED, 5)
    assert steps.sql("SELECT count(*) FROM dispatcher.timers") == [(0,)]
    assert steps.expire_at_claim(task, 1) == []


def test_a_claim_in_a_paused_queue_is_refused_and_it_is_parked(steps: Protocol) -> None:
    session, task = steps.open(), steps.create()
    assert steps.park(task, 1) == []  # the queue is open
    steps.pause()
    assert steps.claim(session, task) == []
    assert verdict_of(steps.look(session, task, 1)) == "paused"
    assert steps.park(task, 2) == []
    assert steps.park(task, 1) == [task]
    assert steps.unpark() == (0, 0)  # still paused
    steps.resume()
    assert steps.unpark() == (1, 1)
    assert steps.row(task)["dispatch"] == 2
    assert steps.claim(session, task) == [task]


def test_a_claim_of_an_unknown_type_is_refused_and_writes_nothing(steps: Protocol) -> None:
    session, known, task = steps.open(), steps.create(type="known"), steps.create(type="unknown")
    types = [steps.row(known)["type_id"]]
    before = steps.snapshot()
    assert steps.claim(session, task, types=types) == []
    assert verdict_of(steps.look(session, task, 1, types=types)) == "unknown_type"
    assert steps.snapshot() == before


def test_a_claim_skips_a_row_that_somebody_has_locked(steps: Protocol, database_url: str) -> None:
    session, tasks = steps.open(), [steps.create() for _ in range(3)]
    with psycopg.connect(database_url) as other:
        other.execute("SELECT 1 FROM dispatcher.tasks WHERE id = %s FOR SHARE", [tasks[1]])
        assert steps.claim(session, *tasks) == [tasks[0], tasks[2]]
        assert verdict_of(steps.look(session, tasks[1], 1)) == "locked"
    assert steps.claim(session, tasks[1]) == [tasks[1]]


def test_what_a_message_says_decides_what_becomes_of_it(steps: Protocol) -> None:
    session, task = steps.open(), steps.create()
    assert verdict_of(steps.look(session, uuid4(), 1)) == "foreign"
    assert verdict_of(steps.look(session, task, 2)) == "foreign"  # an attempt that does not exist yet
    steps.claim(session, task)
    assert verdict_of(steps.look(session, task, 1)) == "mine"
    assert verdict_of(steps.look(steps.open(), task, 1)) == "stale"
    steps.leave(session, task, 1, State.QUEUED, 13, refund=1)
    assert verdict_of(steps.look(session, task, 1)) == "stale"  # an older attempt
    steps.claim(session, task)
    steps.succeed(session, task, 2)
    assert verdict_of(steps.look(session, task, 2)) == "stale"


@pytest.mark.parametrize("stale", ["attempt below", "attempt above", "foreign session", "ended"])
def test_a_stale_settle_changes_nothing(steps: Protocol, stale: str) -> None:
    session, stranger, task = steps.open(), steps.open(), steps.create()
    steps.claim(session, task)
    steps.leave(session, task, 1, State.QUEUED, 13, refund=1)
    steps.claim(session, task)
    attempt = {"attempt below": 1, "attempt above": 3}.get(stale, 2)
    who = stranger if stale == "foreign session" else session
    if stale == "ended":
        steps.succeed(session, task, 2)
    before = steps.snapshot()
    assert not steps.succeed(who, task, attempt)
    for to, reason in (
        (State.RETRYING, 11),
        (State.SCHEDULED, 12),
        (State.QUEUED, 13),
        (State.FAILED, 2),
        (State.CANCELLED, 7),
    ):
        assert steps.leave(who, task, attempt, to, reason) is None
    steps.progress(who, task, attempt)
    assert steps.snapshot()[:-2] == before[:-2]


def test_every_exit_but_success_goes_to_cancelled_when_cancel_was_asked(steps: Protocol) -> None:
    session = steps.open()
    for to, reason in ((State.RETRYING, 11), (State.SCHEDULED, 12), (State.QUEUED, 13), (State.FAILED, 2)):
        task = steps.create()
        steps.claim(session, task)
        assert steps.cancel(task) == ["cancel_requested"]
        assert steps.leave(session, task, 1, to, reason, refund=1) is State.CANCELLED
        assert (steps.row(task)["tries"], steps.row(task)["attempt"]) == (1, 1)
    won = steps.create()
    steps.claim(session, won)
    steps.cancel(won)
    assert steps.succeed(session, won, 1)
    assert steps.state(won) is State.SUCCEEDED
    assert steps.sql("SELECT count(*) FROM dispatcher.cancel_requests") == [(0,)]


def test_tries_are_consumed_and_given_back_but_never_exceed_the_maximum(steps: Protocol) -> None:
    session, task = steps.open(), steps.create(tries=2)
    numbers = []
    for attempt, (to, reason, refund) in enumerate(
        [(State.SCHEDULED, 12, 1), (State.RETRYING, 11, 0), (State.QUEUED, 13, 1), (State.RETRYING, 11, 0)], 1
    ):
        assert steps.claim(session, task) == [task]
        steps.leave(session, task, attempt, to, reason, refund=refund, delay=0)
        steps.promote()
        numbers.append(steps.row(task)["tries"])
    assert numbers == [0, 1, 1, 2]
    assert (steps.state(task), steps.row(task)["reason"]) == (State.FAILED, 1)
    with pytest.raises(psycopg.errors.CheckViolation):
        steps.sql("UPDATE dispatcher.tasks SET tries = 3 WHERE id = %s", task)


@pytest.mark.parametrize("end", ["settle", "expire", "rescue", "cancel"])
def test_a_left_over_failure_row_stops_nothing(steps: Protocol, end: str) -> None:
    """It must not be there; were it, the statement that finds it would fail for ever."""
    session, task = steps.open(), steps.create(tries=1, expires=60)
    steps.sql("INSERT INTO dispatcher.failures SELECT id, 0, queue_id, type_id, 8, 7, 'old' FROM dispatcher.tasks")
    if end == "expire":
        steps.due(task, kind=2)
        assert steps.expire_due() == [task]
    elif end == "cancel":
        assert steps.cancel(task) == ["cancelled"]
    else:
        steps.claim(session, task)
        if end == "settle":
            assert steps.leave(session, task, 1, State.RETRYING, 11) is State.FAILED
        else:
            steps.expire(session)
            assert steps.rescue() == {task: State.FAILED}
    assert steps.sql("SELECT count(*) FROM dispatcher.failures WHERE error IS DISTINCT FROM 'old'") == [(1,)]


def test_a_renewal_needs_the_same_boot_and_a_session_that_lives(steps: Protocol) -> None:
    session = steps.open()
    assert steps.renew(session, uuid4()) == []
    assert [row[0] for row in steps.renew(session)] == [session]
    steps.expire(session)
    assert [row[0] for row in steps.renew(session)] == [session]  # nobody rescued it: it goes on
    steps.expire(session)
    steps.end_expired()
    assert steps.renew(session) == []


def test_a_renewal_tells_pending_cancels(steps: Protocol) -> None:
    session, task = steps.open(), steps.create()
    steps.claim(session, task)
    steps.cancel(task)
    assert steps.renew(session) == [(session, task, 1)]


def test_overlapping_settles_in_opposite_order_do_not_deadlock(steps: Protocol, database_url: str) -> None:
    session, tasks = steps.open(), [steps.create() for _ in range(60)]
    steps.claim(session, *tasks)
    errors: list[BaseException] = []

    def settle(order: list[object]) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            mine = Protocol(connection)
            try:
                mine.run(
                    SUCCEED,
                    session=session,
                    ids=order,
                    attempts=[1] * len(order),
                    results=[b"1"] * len(order),
                    batches=[],
                )
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=settle, args=(order,)) for order in (tasks, tasks[::-1]) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert errors == []
    while any(steps.state(task) is State.RUNNING for task in tasks):
        for task in tasks:
            steps.succeed(session, task, 1)


def test_a_cancel_that_commits_while_its_task_is_settled_leaves_nothing_behind(
    steps: Protocol, database_url: str
) -> None:
    """The settle locks the row in its newest version, and reads the requests as they were before: a blind spot."""
    stop, place = "SELECT pg_advisory_xact_lock(7)", "FROM input i JOIN"
    assert LEAVE.text.count(place) == 1
    stopped = Sql(LEAVE.text.replace(place, f"FROM ({stop}) AS held CROSS JOIN input i JOIN"))
    session, task = steps.open(), steps.create()
    steps.claim(session, task)
    params = {"session": session, "ids": [task], "attempts": [1], "to": [int(State.RETRYING)], "reasons": [11],
              "delays": [60], "refunds": [0], "details": ['{"type": "E", "message": "m"}'], "batches": [1]}  # fmt: skip
    with psycopg.connect(database_url, autocommit=True) as other, ThreadPoolExecutor(1) as thread:
        steps.sql("SELECT pg_advisory_lock(7)")
        settling = thread.submit(Protocol(other).run, stopped, **params)
        until_blocking(lambda: steps.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        assert steps.cancel(task) == ["cancel_requested"]
        steps.sql("SELECT pg_advisory_unlock(7)")
        assert settling.result(PATIENCE) == [(task, State.CANCELLED)]
    left = "SELECT session_id FROM dispatcher.cancel_requests"
    assert steps.sql(left) == [(session,)]  # nobody paid for a second look; the end of the busy period takes it away
    assert steps.run(CLOSE, session=session, batches=[]) == [(session,)]
    assert steps.sql(left) == []


def test_requests_to_sessions_that_are_gone_are_taken_away_by_the_leader(steps: Protocol) -> None:
    session, task = steps.open(), steps.create()
    steps.claim(session, task)
    steps.sql("INSERT INTO dispatcher.cancel_requests VALUES (%s, %s, 1), (%s, %s, 1)", 10**9, task, 10**9 + 1, task)
    steps.sql("UPDATE dispatcher.cancel_requests SET sent = true WHERE session_id = %s", 10**9)
    assert steps.cancel(task) == ["cancel_requested"]
    assert steps.cancels() == [(task, 1)]  # the one that somebody can hear
    assert steps.sql("SELECT session_id, sent FROM dispatcher.cancel_requests") == [(session, True)]
