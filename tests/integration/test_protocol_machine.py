"""Any order of the protocol's steps, on the real statements and on the pure ones: Hypothesis looks for a difference.

The pure steps of ``state.protocol`` are those of the model checker.  So what it has shown for every interleaving of
them holds for the statements as far as these agree.
"""

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
from tests.integration.protocol_mirror import Mirror
from tests.integration.protocol_steps import Protocol

WORKERS = st.integers(0, 2)
TASKS = st.integers(0, 3)
EXITS = {
    "retry": (State.RETRYING, 11, 0), "snooze": (State.SCHEDULED, 12, 1), "release": (State.QUEUED, 13, 1),
    "fail": (State.FAILED, 2, 0), "cancel": (State.CANCELLED, 7, 0),
}  # fmt: skip


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
        self.both = Mirror(Protocol(self.connection))
        self.sessions = [self.both.open(f"w{n}") for n in range(3)]
        self.messages: set[tuple[UUID, int, int]] = set()
        self.believed: set[tuple[int, UUID, int]] = set()
        """(session, task, attempt) that some worker was once given: it may write at any time, however late."""
        self.ends: dict[tuple[UUID, int], State] = {}

    @initialize(tries=st.lists(st.integers(1, 3), min_size=1, max_size=4))
    def begin(self, tries: list[int]) -> None:
        for number in tries:
            self.both.create(tries=number)

    def _task(self, number: int) -> UUID:
        return self.both.ids[number % len(self.both.ids)]

    @rule(delay=st.sampled_from([None, 60.0]), expires=st.sampled_from([None, 60.0]))
    def create(self, delay: float | None, expires: float | None) -> None:
        if len(self.both.ids) < 4:
            self.both.create(delay=delay, expires=expires)

    @rule()
    def relay(self) -> None:
        self.messages.update(self.both.take())

    @rule()
    def forget(self) -> None:
        self.both.forget()

    @rule(worker=WORKERS, pick=st.integers(0, 99))
    def deliver(self, worker: int, pick: int) -> None:
        """Any message that was ever sent, again, or a hint of an entry that waits to be sent."""
        hints = {(self.both.ids[n], attempt, dispatch) for n, attempt, dispatch in self.both.db.outbox}
        if arriving := sorted(self.messages | hints):
            task, attempt, _ = arriving[pick % len(arriving)]
            if self.both.deliver(self.sessions[worker], task, attempt):
                self.believed.add((self.sessions[worker], task, attempt))

    @rule(pick=st.integers(0, 99), what=st.sampled_from(["succeed", *EXITS]))
    def settle(self, pick: int, what: str) -> None:
        """Whoever was once given an attempt writes its outcome, even if it lost it long ago, even twice."""
        if self.believed:
            held = sorted(self.believed)[pick % len(self.believed)]
            if what == "succeed":
                self.both.succeed(*held)
            else:
                self.both.leave(*held, *EXITS[what])

    @rule(pick=st.integers(0, 99))
    def progress(self, pick: int) -> None:
        if self.believed:
            self.both.progress(*sorted(self.believed)[pick % len(self.believed)])

    @rule(worker=WORKERS)
    def lease_ends(self, worker: int) -> None:
        self.both.end_lease(self.sessions[worker])

    @rule(worker=WORKERS)
    def renew(self, worker: int) -> None:
        if not self.both.renew(self.sessions[worker]):
            self.sessions[worker] = self.both.open(f"w{worker}")

    @rule()
    def rescue(self) -> None:
        self.both.rescue()

    @rule(number=TASKS, kind=st.sampled_from([1, 2]))
    def time_passes(self, number: int, kind: int) -> None:
        self.both.time_passes(self._task(number), kind)

    @rule()
    def promote(self) -> None:
        self.both.promote()

    @rule()
    def messages_are_lost_and_found_missing(self) -> None:
        self.both.reconcile()

    @rule(number=TASKS)
    def cancel(self, number: int) -> None:
        self.both.cancel(self._task(number))

    @rule(number=TASKS)
    def retry(self, number: int) -> None:
        self.both.retry(self._task(number))

    @rule(number=TASKS)
    def park(self, number: int) -> None:
        self.both.park(self._task(number))

    @rule()
    def pause(self) -> None:
        self.both.pause()

    @rule()
    def resume(self) -> None:
        self.both.resume()
        self.both.unpark()

    @invariant()
    def statements_and_pure_steps_agree(self) -> None:
        self.both.agree()

    @invariant()
    def a_final_state_stays(self) -> None:
        """Within one generation."""
        for task, row in zip(self.both.ids, self.both.db.tasks, strict=True):
            assert self.ends.get((task, row.generation), row.state) is row.state
            if row.state in FINAL:
                self.ends[task, row.generation] = row.state

    def teardown(self) -> None:
        assert_sound(self.connection)
        self._everything_ends()
        assert_sound(self.connection)

    def _everything_ends(self) -> None:
        """After the storm: one living worker and one relay finish every task that is left, so none was stranded."""
        both = self.both
        for session in self.sessions:
            both.end_lease(session)
        both.resume()
        worker = both.open("last")
        for _ in range(40):
            both.rescue()
            both.unpark()
            for task in both.ids:
                both.time_passes(task, 1)
            both.promote()
            both.reconcile()
            for task, attempt, _ in both.take():
                if both.deliver(worker, task, attempt):
                    both.succeed(worker, task, attempt)
            both.agree()
            if all(row.state in FINAL for row in both.db.tasks):
                break
        assert [row for row in both.db.tasks if row.state not in FINAL or row.timer or row.parked] == []


@pytest.fixture
def machine(database_url: str) -> Iterator[type[Machine]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        yield type("Machine", (Machine,), {"connection": connection})


def test_no_order_of_steps_breaks_an_invariant(machine: type[Machine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=50,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )


def test_a_statement_that_does_more_than_its_step_is_noticed(database_url: str) -> None:
    more = [
        "UPDATE dispatcher.tasks SET dispatch = dispatch + 1",
        "INSERT INTO dispatcher.outbox (task_id, attempt, dispatch, lane_id)"
        " SELECT id, 1, 1, lane_id FROM dispatcher.tasks",
        "DELETE FROM dispatcher.claims",
        "INSERT INTO dispatcher.task_events (task_id, seq, from_state, to_state, attempt)"
        " SELECT id, 3, 4, 3, 1 FROM dispatcher.tasks",
    ]
    with psycopg.connect(database_url, autocommit=True) as connection:
        both = Mirror(Protocol(connection))
        both.create()
        ((task, attempt, _),) = both.take()
        assert both.deliver(both.open("w"), task, attempt)
        both.agree()
        for statement in more:
            with connection.transaction(force_rollback=True):
                both.real.sql(statement)
                with pytest.raises(AssertionError):
                    both.agree()
        both.agree()
