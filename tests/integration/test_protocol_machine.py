"""Any order of the protocol's steps, on the real statements: Hypothesis looks for one that breaks an invariant."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from state.machine import FINAL, State
from tests.fixtures.fleet import assert_sound
from tests.integration.protocol_steps import Protocol

WORKERS = st.integers(0, 2)
TASKS = st.integers(0, 3)


class Machine(RuleBasedStateMachine):
    """Three workers of which any may lag behind, a relay, a rescuer, a broker that repeats and loses, a person."""

    connection: psycopg.Connection[object]

    def __init__(self) -> None:
        super().__init__()
        tables = (
            "tasks, task_events, outbox, timers, parked, failures, task_counts, claims, cancel_requests, progress,"
            " sessions, session_log, dispatch_log"
        )
        with self.connection.transaction():
            for table in tables.split(", "):
                self.connection.execute(f"DELETE FROM dispatcher.{table}".encode())
            self.connection.execute("UPDATE dispatcher.queues SET paused = false, paused_at = NULL")
        self.steps = Protocol(self.connection)
        self.tasks: list[UUID] = []
        self.sessions = [self.steps.open(f"w{n}") for n in range(3)]
        self.messages: set[tuple[UUID, int, int]] = set()
        self.believed: set[tuple[int, UUID, int]] = set()
        """(session, task, attempt) that some worker was once given: it may write at any time, however late."""
        self.ends: dict[tuple[UUID, int], State] = {}

    @initialize(tries=st.lists(st.integers(1, 3), min_size=1, max_size=4))
    def begin(self, tries: list[int]) -> None:
        self.tasks = [self.steps.create(tries=number) for number in tries]

    def _task(self, number: int) -> UUID:
        return self.tasks[number % len(self.tasks)]

    def _session(self, worker: int) -> int:
        return self.sessions[worker]

    @rule(delay=st.sampled_from([None, 60.0]), expires=st.sampled_from([None, 60.0]))
    def create(self, delay: float | None, expires: float | None) -> None:
        if len(self.tasks) < 4:
            self.tasks.append(self.steps.create(delay=delay, expires=expires))

    @rule()
    def relay(self) -> None:
        self.messages.update(self.steps.take())

    @rule(worker=WORKERS, pick=st.integers(0, 99))
    def deliver(self, worker: int, pick: int) -> None:
        """Any message that was ever sent, again."""
        if self.messages:
            task, attempt, _ = sorted(self.messages)[pick % len(self.messages)]
            session = self._session(worker)
            if self.steps.claim(session, task, attempts=[attempt]):
                self.believed.add((session, task, attempt))

    @rule(pick=st.integers(0, 99), what=st.sampled_from(["succeed", "retry", "snooze", "release", "fail", "cancel"]))
    def settle(self, pick: int, what: str) -> None:
        """Whoever was once given an attempt writes its outcome, even if it lost it long ago, even twice."""
        if not self.believed:
            return
        session, task, attempt = sorted(self.believed)[pick % len(self.believed)]
        row = self.steps.row(task)
        holds = row["state"] == State.RUNNING and row["attempt"] == attempt and row["session_id"] == session
        if what == "succeed":
            accepted = self.steps.succeed(session, task, attempt)
        else:
            to, reason, refund = {
                "retry": (State.RETRYING, 11, 0), "snooze": (State.SCHEDULED, 12, 1),
                "release": (State.QUEUED, 13, 1), "fail": (State.FAILED, 2, 0), "cancel": (State.CANCELLED, 7, 0),
            }[what]  # fmt: skip
            accepted = self.steps.leave(session, task, attempt, to, reason, refund=refund) is not None
        assert accepted == holds
        if not accepted:
            assert self.steps.row(task) == row

    @rule(pick=st.integers(0, 99))
    def progress(self, pick: int) -> None:
        if self.believed:
            self.steps.progress(*sorted(self.believed)[pick % len(self.believed)])

    @rule(worker=WORKERS)
    def lease_ends(self, worker: int) -> None:
        self.steps.expire(self._session(worker))

    @rule(worker=WORKERS)
    def renew(self, worker: int) -> None:
        session = self._session(worker)
        self.steps.sql("UPDATE dispatcher.sessions SET lease = '1 h' WHERE id = %s", session)
        if not self.steps.renew(session):
            self.sessions[worker] = self.steps.open(f"w{worker}")

    @rule()
    def rescue(self) -> None:
        self.steps.rescue()

    @rule(number=TASKS, kind=st.sampled_from([1, 2]))
    def time_passes(self, number: int, kind: int) -> None:
        self.steps.due(self._task(number), kind)

    @rule()
    def promote(self) -> None:
        self.steps.promote()
        self.steps.expire_due()

    @rule()
    def messages_are_lost_and_found_missing(self) -> None:
        if self.steps.sql("SELECT 1 FROM dispatcher.lanes"):
            self.steps.reconcile()

    @rule(number=TASKS)
    def cancel(self, number: int) -> None:
        task = self._task(number)
        (outcome,) = self.steps.cancel(task)
        state = self.steps.state(task)
        assert (outcome == "cancelled") == (state is State.CANCELLED)
        assert (outcome == "cancel_requested") == (state is State.RUNNING)

    @rule(number=TASKS)
    def retry(self, number: int) -> None:
        self.steps.retry(self._task(number))

    @rule(number=TASKS)
    def park(self, number: int) -> None:
        task = self._task(number)
        self.steps.park(task, self.steps.row(task)["attempt"])

    @rule()
    def pause(self) -> None:
        self.steps.pause()

    @rule()
    def resume(self) -> None:
        self.steps.resume()
        self.steps.unpark()

    @invariant()
    def a_final_state_stays(self) -> None:
        """Within one generation."""
        for task in self.tasks:
            row = self.steps.row(task)
            key, state = (task, row["generation"]), State(row["state"])
            assert self.ends.get(key, state) is state
            if state in FINAL:
                self.ends[key] = state

    def teardown(self) -> None:
        assert_sound(self.connection)
        self._everything_ends()
        assert_sound(self.connection)

    def _everything_ends(self) -> None:  # noqa: C901
        """After the storm: one living worker and one relay finish every task that is left, so none was stranded."""
        steps = self.steps
        for session in self.sessions:
            steps.expire(session)
        steps.resume()
        worker = steps.open("last")
        for _ in range(40):
            steps.rescue()
            while steps.unpark()[0]:
                pass
            for task in self.tasks:
                steps.due(task, 1)
            steps.promote()
            if steps.sql("SELECT 1 FROM dispatcher.lanes"):
                steps.reconcile()
            for task, attempt, _ in steps.take():
                if steps.claim(worker, task, attempts=[attempt]):
                    steps.succeed(worker, task, attempt)
            if all(steps.state(task) in FINAL for task in self.tasks):
                break
            steps.expire_due()
        left = [steps.row(task) for task in self.tasks if steps.state(task) not in FINAL]
        assert left == []
        assert steps.sql("SELECT * FROM dispatcher.timers WHERE kind = 1") == []
        assert steps.sql("SELECT * FROM dispatcher.parked") == []


@pytest.fixture
def machine(database_url: str) -> Iterator[type[Machine]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        yield type("Machine", (Machine,), {"connection": connection})


def test_no_order_of_steps_breaks_an_invariant(machine: type[Machine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )
