"""The proof: what must be true afterwards, computed from the database and from the processes' own ledgers.

Each fact is looked at from both sides wherever there are two: what the service says it committed against the rows, what
the handlers say they did against what the database holds.  Nothing here trusts the code that it judges.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from dispatcher.demo.place import Place
from dispatcher.demo.work import do, kind_of
from dispatcher.dev.ledger import Line, Mark, read
from state.audit import VIOLATIONS
from state.machine import Reason, State

__all__ = ["Check", "Proof", "prove"]

_ORDERS = """
SELECT o.id, o.file, o.task_id::text, t.state, f.digest, coalesce(d.n, 0)
FROM {shop}.orders o LEFT JOIN {s}.tasks t ON t.id = o.task_id LEFT JOIN {shop}.effects f ON f.order_id = o.id
LEFT JOIN (SELECT order_id, count(*) AS n FROM {shop}.deliveries GROUP BY order_id) d ON d.order_id = o.id
"""
_TASKS = """
SELECT id::text, (convert_from(args, 'UTF8')::jsonb ->> 'order_id')::bigint, state FROM {s}.tasks
"""
_MOVED = "SELECT count(DISTINCT task_id) FROM {s}.task_events WHERE {where}"
_OUTBOX = "SELECT count(*) FROM {s}.outbox"
_STRAYS = """
SELECT count(*) FROM {shop}.deliveries d LEFT JOIN {shop}.orders o ON o.id = d.order_id WHERE o.id IS NULL
"""
_FINAL = (int(State.SUCCEEDED), int(State.FAILED), int(State.CANCELLED))


@dataclass(frozen=True)
class Check:
    """One line of the proof: it holds when ``value`` is ``wanted``; without ``wanted`` it is a figure, not a claim."""

    name: str
    value: int | float | None
    text: str
    wanted: int | None = None
    least: int | None = None

    @property
    def holds(self) -> bool:
        """Whether the claim is true."""
        if self.value is None:
            return self.wanted is None and self.least is None
        if self.wanted is not None and self.value != self.wanted:
            return False
        return self.least is None or self.value >= self.least

    @property
    def is_claim(self) -> bool:
        """Whether this line can be wrong."""
        return self.wanted is not None or self.least is not None


@dataclass(frozen=True)
class Proof:
    """Every check, and examples of what is wrong."""

    checks: tuple[Check, ...]
    kills: tuple[dict[str, Any], ...]
    violations: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return all(check.holds for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """One flat object, plus what does not hold."""
        return {
            "ok": self.ok,
            **{check.name: check.value for check in self.checks},
            "not_held": [check.name for check in self.checks if not check.holds],
            "kills": list(self.kills),
            "violations": list(self.violations),
        }


@dataclass
class _Facts:
    orders: list[tuple[Any, ...]]
    tasks: list[tuple[Any, ...]]
    service: list[Line]
    worker: list[Line]
    counts: dict[str, int]
    violations: list[str]
    by_task: dict[str, tuple[Any, ...]] = field(init=False)
    """Orders by the task they name."""

    def __post_init__(self) -> None:
        self.by_task = {order[2]: order for order in self.orders}

    def lines(self, *marks: str) -> list[Line]:
        return [line for line in (*self.service, *self.worker) if line.mark in marks]


def prove(place: Place) -> Proof:
    """Read everything and judge it.  Changes nothing; may be repeated at any time later."""
    facts = _gather(place)
    committed = facts.lines(Mark.COMMITTED, Mark.PACED)
    states = Counter(state for _, _, state in facts.tasks)
    starts = len(facts.lines(Mark.START))
    total = place.plan.tasks
    kills = place.kills()
    checks = (
        Check("created", len(facts.tasks), "tasks created, one for each committed order", total),
        Check("succeeded", states[State.SUCCEEDED], "tasks succeeded", total),
        Check("lost", _lost(facts, committed), "committed tasks that were lost or are not final", 0),
        Check("unmatched", _unmatched(facts, committed), "orders and tasks that do not belong together one to one", 0),
        Check("rolled_back_ran", _rolled_back_ran(facts), "tasks of rolled-back orders that exist or ran", 0),
        Check("effects", sum(1 for order in facts.orders if order[5]), "orders whose effect was applied", total),
        Check("effects_twice", _effects_twice(facts), "effects applied twice", 0),
        Check("wrong_results", _wrong_results(place, facts), "results that differ from the work done again now", 0),
        Check("keys_doubled", len(facts.lines(Mark.OTHER_TASK)), "enqueues with a used key that made another task", 0),
        Check("outbox_left", facts.counts["outbox"], "entries left in the outbox", 0),
        Check("audit_violations", len(facts.violations), "tasks whose audit trail does not add up", 0),
        Check("kills_done", len(kills), "processes killed with SIGKILL: a worker and the relay", least=2),
        Check("rolled_back", len(facts.lines(Mark.ROLLED_BACK)), "orders rolled back on purpose", least=1),
        Check("faults", len(facts.lines(Mark.FAULT)), "first tries that failed on purpose", least=1),
        Check("retried", facts.counts["retried"], "tasks retried after an error", least=1),
        Check("rescued", facts.counts["rescued"], "tasks given back after their worker was killed"),
        Check("same_key", len(facts.lines(Mark.SAME_KEY)), "enqueues with a used key that found the first task"),
        Check("starts", starts, "handler starts: at least once", least=total),
        Check("repeats", len(facts.lines(Mark.REPEAT)), "runs that found their effect applied already, and left it"),
        *_speed(facts),
    )  # fmt: skip
    return Proof(checks, tuple(kills), tuple(facts.violations[:20]))


def _gather(place: Place) -> _Facts:
    names = {"s": place.plan.db_schema, "shop": place.plan.shop}
    retried = f"to_state = {State.RETRYING:d}"
    rescued = f"from_state = {State.RUNNING:d} AND reason = {Reason.LEASE_EXPIRED:d}"
    with psycopg.connect(place.settings.database_url or "", autocommit=True) as connection:

        def rows(sql: str, **more: str) -> list[tuple[Any, ...]]:
            return connection.execute(sql.format(**names, **more).encode()).fetchall()

        violations = connection.execute(VIOLATIONS.psycopg(place.plan.db_schema).encode()).fetchall()
        return _Facts(
            orders=rows(_ORDERS),
            tasks=rows(_TASKS),
            service=list(read(place.root / "ledger", "service")),
            worker=list(read(place.root / "ledger", "worker")),
            counts={
                "outbox": rows(_OUTBOX)[0][0],
                "retried": rows(_MOVED, where=retried)[0][0],
                "rescued": rows(_MOVED, where=rescued)[0][0],
                "strays": rows(_STRAYS)[0][0],
            },
            violations=[f"{name}: {task} {what}" for name, task, what in violations],
        )


def _lost(facts: _Facts, committed: list[Line]) -> int:
    """By the service's word: orders it saw committed whose row, task or final state is missing."""
    state = {task: state for task, _, state in facts.tasks}
    ids = {order[0] for order in facts.orders}
    return sum(1 for line in committed if line.order not in ids or state.get(line.task) not in _FINAL)


def _unmatched(facts: _Facts, committed: list[Line]) -> int:
    by_order = Counter(order for _, order, _ in facts.tasks)
    named = {(order[0], order[2]) for order in facts.orders}
    made = {(order, task) for task, order, _ in facts.tasks}
    said = {(line.order, line.task) for line in committed}
    return len(named ^ made) + len(said ^ named) + sum(1 for n in by_order.values() if n != 1)


def _rolled_back_ran(facts: _Facts) -> int:
    """Tasks or orders that were rolled back and yet are in a table, or in a handler's ledger."""
    gone = facts.lines(Mark.ROLLED_BACK)
    there = {task for task, _, _ in facts.tasks} | {line.task for line in facts.worker}
    orders = {order for _, order, _ in facts.tasks} | {order[0] for order in facts.orders}
    orders |= {line.order for line in facts.worker}
    return sum(1 for line in gone if line.task in there or line.order in orders) + facts.counts["strays"]


def _effects_twice(facts: _Facts) -> int:
    """By the database and by the handlers' word: whoever saw more."""
    in_database = sum(1 for order in facts.orders if order[5] > 1)
    told = Counter(line.order for line in facts.lines(Mark.EFFECT))
    return max(in_database, sum(1 for n in told.values() if n > 1))


def _wrong_results(place: Place, facts: _Facts) -> int:
    """Every file once more through the same work."""
    files = {order[1] for order in facts.orders}
    wanted = {
        name: hashlib.sha256(do(kind_of(name), (place.root / "files" / name).read_bytes())).hexdigest()
        for name in files
    }
    made = {(name, task) for _, name, task, *_ in facts.orders if not _is_made(place, task, wanted[name])}
    return len(made | {(name, task) for _, name, task, _, digest, _ in facts.orders if digest != wanted[name]})


def _is_made(place: Place, task: str, digest: str) -> bool:
    try:
        return hashlib.sha256((place.root / "out" / task).read_bytes()).hexdigest() == digest
    except FileNotFoundError:
        return False


def _speed(facts: _Facts) -> Iterable[Check]:
    paced = {line.task: line.ns for line in facts.lines(Mark.PACED)}
    first: dict[str, int] = {}
    for line in facts.lines(Mark.START):
        if line.task in paced:
            first[line.task] = min(line.ns, first.get(line.task, line.ns))
    waits = sorted((first[task] - at) / 1e6 for task, at in paced.items() if task in first)
    yield Check("p50_ms", _percentile(waits, 50), f"commit to handler start, median of {len(waits)} unloaded tasks, ms")
    yield Check("p99_ms", _percentile(waits, 99), "the same, 99th percentile, ms")
    bulk = [line for line in facts.lines(Mark.COMMITTED) if not paced or line.ns > max(paced.values())]
    tasks = {line.task for line in bulk}
    ends = [line.ns for line in facts.lines(Mark.END) if line.task in tasks]
    seconds = (max(ends) - min(line.ns for line in bulk)) / 1e9 if ends and bulk else 0.0
    rate = round(len(tasks) / seconds, 1) if seconds else None
    yield Check("tasks_per_s", rate, "tasks a second after that, all kills and the wait for leases included")


def _percentile(values: list[float], percent: int) -> float | None:
    if not values:
        return None
    return round(values[min(len(values) - 1, len(values) * percent // 100)], 2)
