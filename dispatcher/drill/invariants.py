"""What must be true after a drill, by the numbers of the catalogue (I1, I2 …): each a function from facts to a verdict.

Each fact is looked at from two sides wherever there are two: what a client was told against the rows, what handlers
wrote down against what the database and the sink hold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from dispatcher.dev.ledger import Line, Mark
from dispatcher.drill.facts import Event, Facts, Task
from dispatcher.drill.tasks import BACK_OFF, result_of
from state.machine import FINAL, Reason, State

__all__ = ["INVARIANTS", "Invariant", "verdict"]

_SHOWN = 20
_EARLY_SECONDS = 0.002
"""Times are stored in microseconds and travel as floats."""


@dataclass(frozen=True)
class Invariant:
    """One verdict: how many facts were looked at and which of them are wrong."""

    name: str
    facts: int
    wrong: int
    violations: tuple[str, ...]
    """The first of them."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.wrong == 0


def verdict(name: str, facts: int, wrong: Iterable[str]) -> Invariant:
    """A verdict with its first violations."""
    found = list(wrong)
    return Invariant(name, facts, len(found), tuple(found[:_SHOWN]))


def no_task_lost(facts: Facts) -> Invariant:
    """I1: committed exists exactly once, rolled back and failed never, unknown at most once."""
    rows = Counter(task.order for task in facts.tasks.values() if task.order)
    committed = {line.order: line for line in facts.lines(Mark.COMMITTED)}
    never = [line for line in facts.lines(Mark.ROLLED_BACK, Mark.FAILED) if line.order not in committed]
    tried = {line.order for line in facts.lines(Mark.TRY)}
    wrong = [
        f"order {order}: task {line.task} was committed and is not there"
        for order, line in committed.items()
        if line.task not in facts.tasks or facts.tasks[line.task].order != order
    ]
    wrong += [f"order {order}: {n} tasks" for order, n in rows.items() if n > 1]
    wrong += [f"order {line.order}: {line.mark}, and yet there is a task" for line in never if rows[line.order]]
    wrong += [f"order {order}: a task that nobody tried to create" for order in rows if order not in tried]
    ran = {line.task for line in facts.worker}
    wrong += [f"task {line.task} was {line.mark} and ran" for line in never if line.task in ran]
    return verdict("I1 no task lost", len(tried | set(committed)), wrong)


def everything_ends(facts: Facts) -> Invariant:
    """I2: every task is final, as it should be: only what was asked is cancelled, and what does not fit fails."""
    asked = {line.task for line in facts.lines(Mark.CANCELLED, Mark.CANCEL_ASKED)}
    unfit = {line.order for line in facts.lines(Mark.UNFIT)}
    wrong = []
    for task in facts.tasks.values():
        if task.state not in FINAL:
            wrong.append(f"{task.id} ({task.type}) is still {State(task.state).label}")
        elif task.order in unfit:
            wrong += _decoded(facts, task)
        elif task.state == State.FAILED:
            wrong.append(f"{task.id} ({task.type}) failed after {task.tries} tries")
        elif task.state == State.CANCELLED and task.id not in asked and task.type != "long":
            wrong.append(f"{task.id} ({task.type}) is cancelled and nobody asked for it")
    return verdict("I2 everything ends", len(facts.tasks), wrong)


def _decoded(facts: Facts, task: Task) -> list[str]:
    """What is wrong with a task whose arguments do not fit: it has to say so, and never to start."""
    last = facts.events[task.id][-1]
    ran = any(line.task == task.id for line in facts.worker)
    if (task.state, last.reason, ran) == (State.FAILED, Reason.UNDECODABLE, False):
        return []
    return [f"{task.id} ({task.type}) does not fit, and is {State(task.state).label} for reason {last.reason}"]


def one_final_state(facts: Facts) -> Invariant:
    """I3: one final event per generation, none after it."""
    return verdict("I3 one final state", len(facts.tasks), facts.audit["one_final_per_generation"])


def one_completion(facts: Facts) -> Invariant:
    """I4: at most one success, by the row's attempt, whose effect the fenced sink accepted, and at most once."""
    accepted: Counter[tuple[str, int]] = Counter((task, attempt) for task, attempt, taken in facts.offers if taken)
    wrong = [f"{task} attempt {attempt}: {n} effects accepted" for (task, attempt), n in accepted.items() if n > 1]
    succeeded = 0
    for task in facts.tasks.values():
        wins = [event for event in facts.events.get(task.id, ()) if event.to_state == State.SUCCEEDED]
        if len(wins) > 1:
            wrong.append(f"{task.id} succeeded {len(wins)} times")
        if task.state != State.SUCCEEDED:
            continue
        succeeded += 1
        if not wins or wins[-1].attempt != task.attempt:
            wrong.append(f"{task.id} succeeded as another attempt than the row's {task.attempt}")
        elif not accepted[task.id, task.attempt]:
            wrong.append(f"{task.id} attempt {task.attempt} succeeded and the sink has no effect of it")
    return verdict("I4 one effective completion", succeeded, wrong)


def attempts_bounded(facts: Facts) -> Invariant:
    """I5: tries within their bound; one start per attempt, and none without its claim."""
    claims = {(event.task, event.attempt) for event in facts.all_events if event.to_state == State.RUNNING}
    starts = Counter((line.task, line.attempt) for line in facts.lines(Mark.START))
    wrong = list(facts.audit["tries_bounded"]) + list(facts.audit["one_claim_per_attempt"])
    wrong += [f"{task} attempt {attempt} started {n} times" for (task, attempt), n in starts.items() if n > 1]
    wrong += [
        f"{task} attempt {attempt} started without a claim" for task, attempt in starts if (task, attempt) not in claims
    ]
    return verdict("I5 attempts bounded and unique", sum(starts.values()), wrong)


def one_owner(facts: Facts) -> Invariant:
    """I6: two attempts overlap only when the earlier one's lease had ended, or its thread could not be stopped."""
    spans: dict[str, dict[int, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in facts.worker:
        spans[line.task][line.attempt].append(line)
    left = {(event.task, event.attempt): event for event in facts.all_events if event.from_state == State.RUNNING}
    wrong, pairs = [], 0
    for task, attempts in spans.items():
        numbers = sorted(attempts)
        for earlier, later in pairwise(numbers):
            pairs += 1
            last = max(line.ns for line in attempts[earlier])
            if min(line.ns for line in attempts[later]) >= last:
                continue
            event = left.get((task, earlier))
            plain = task in facts.tasks and facts.tasks[task].type == "plain"
            if not plain and (event is None or event.reason != Reason.LEASE_EXPIRED):
                wrong.append(f"{task}: attempt {later} started before attempt {earlier} had stopped")
    return verdict("I6 no two valid owners", pairs, wrong)


def stale_never_lands(facts: Facts) -> Invariant:
    """I7: attempts never fall, neither in the events nor among the effects that the sink accepted."""
    wrong = []
    highest: dict[str, int] = {}
    for task, attempt, accepted in facts.offers:
        if accepted and attempt < highest.get(task, 0):
            wrong.append(f"{task}: the sink accepted attempt {attempt} after {highest[task]}")
        highest[task] = max(attempt, highest.get(task, 0)) if accepted else highest.get(task, 0)
    for task, events in facts.events.items():
        for before, after in pairwise(events):
            if after.attempt < before.attempt:
                wrong.append(f"{task}: event {after.seq} of attempt {after.attempt} after attempt {before.attempt}")
    return verdict("I7 stale writes never land", len(facts.offers) + sum(map(len, facts.events.values())), wrong)


def cancelled_stays(facts: Facts) -> Invariant:
    """I8: who was told "cancelled" never sees anything else, and nothing starts afterwards."""
    told = {line.task: line for line in facts.lines(Mark.CANCELLED)}
    asked = {line.task for line in facts.lines(Mark.CANCEL_ASKED)}
    wrong = [
        f"{task}: answered cancelled, now {State(facts.tasks[task].state).label if task in facts.tasks else 'gone'}"
        for task in told
        if task not in facts.tasks or facts.tasks[task].state != State.CANCELLED
    ]
    wrong += [
        f"{line.task} attempt {line.attempt} started after the answer cancelled"
        for line in facts.lines(Mark.START)
        if line.task in told and line.ns > told[line.task].ns
    ]
    # who waits has not started its attempt yet: an attempt that had started was not cancelled but running
    wrong += [
        f"{line.task} attempt {line.attempt} was running when the answer was cancelled"
        for line in facts.lines(Mark.START)
        if line.task in told
        and line.ns <= told[line.task].ns
        and line.task in facts.tasks
        and line.attempt == facts.tasks[line.task].attempt
    ]
    wrong += [
        f"{task}: asked to stop, now {State(facts.tasks[task].state).label}"
        for task in asked
        if task in facts.tasks and facts.tasks[task].state not in (State.CANCELLED, State.SUCCEEDED)
    ]
    return verdict("I8 cancelled stays cancelled", len(told) + len(asked), wrong)


def audit_complete(facts: Facts) -> Invariant:
    """I10: events without holes, each from where the one before ended, agreeing with the row."""
    wrong = facts.audit["gapless"] + facts.audit["continuous"] + facts.audit["agrees_with_task"]
    return verdict("I10 audit complete", sum(map(len, facts.events.values())), wrong)


def moves_legal(facts: Facts) -> Invariant:
    """I10: every move is in the table of the state machine."""
    return verdict("I10 moves legal", sum(map(len, facts.events.values())), facts.audit["legal"])


def nothing_left(facts: Facts) -> Invariant:
    """I11, I15: outbox, claims, sessions, parked and cancel requests are empty when all is calm."""
    return verdict(
        "I11 outbox and leases empty", len(facts.left), [text for found in facts.left.values() for text in found]
    )


def never_early(facts: Facts) -> Invariant:
    """I13, I20: nothing starts before its time: delays, snoozes and the pause that a failing task asked for."""
    wrong, waits = [], 0
    for task in facts.tasks.values():
        events = facts.events.get(task.id, [])
        for before, after in _waits(events):
            waits += 1
            if before.from_state is None:
                continue
            pause = BACK_OFF if before.reason in (Reason.SNOOZED, Reason.ERROR) else 0.0
            if after.at - before.at < pause - _EARLY_SECONDS and task.type in ("flaky", "sleepy"):
                wrong.append(f"{task.id}: went on {after.at - before.at:.3f} s after it asked for {pause} s")
        claims = [event.at for event in events if event.to_state == State.RUNNING]
        # one that waits still has its next claim before it
        if task.state in FINAL and task.due is not None and claims and claims[-1] < task.due - _EARLY_SECONDS:
            wrong.append(f"{task.id}: claimed {task.due - claims[-1]:.3f} s before it was due")
    return verdict("I13 never early", waits, wrong)


def _waits(events: list[Event]) -> Iterable[tuple[Event, Event]]:
    return (
        (before, after) for before, after in pairwise(events) if before.to_state in (State.SCHEDULED, State.RETRYING)
    )


def keys_unique(facts: Facts) -> Invariant:
    """I14: the same key always gave the same task."""
    wrong = [f"order {line.order}: the key gave another task {line.task}" for line in facts.lines(Mark.OTHER_TASK)]
    return verdict("I14 keys unique", len(facts.lines(Mark.SAME_KEY, Mark.OTHER_TASK)), wrong)


def results_kept(facts: Facts) -> Invariant:
    """I18: every result is the right one."""
    done = [task for task in facts.tasks.values() if task.state == State.SUCCEEDED]
    wrong = [f"{task.id}: result {task.result}" for task in done if task.result != str(result_of(task.order))]
    return verdict("I18 results kept", len(done), wrong)


def secrets_hidden(facts: Facts) -> Invariant:
    """I19: the secret argument is in no log, ledger, message, event, error or label."""
    return verdict("I19 no secrets out", facts.shown[0], facts.shown[1])


def sides_agree(facts: Facts) -> Invariant:
    """I21: counters, failures, timers, claims and sessions agree with the tasks."""
    wrong = [f"{name}: {text}" for name, found in facts.sides.items() for text in found]
    return verdict("I21 side tables agree", len(facts.tasks) * len(facts.sides), wrong)


INVARIANTS: Mapping[str, Callable[[Facts], Invariant]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            no_task_lost, everything_ends, one_final_state, one_completion, attempts_bounded, one_owner,
            stale_never_lands, cancelled_stays, audit_complete, moves_legal, nothing_left, never_early, keys_unique,
            results_kept, secrets_hidden, sides_agree,
        )
    }
)  # fmt: skip
"""Those that need nothing but facts."""
