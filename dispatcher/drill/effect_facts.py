"""What must be true after the drill ``effects``: each transfer and its receipt once, no money lost or made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from dispatcher.drill.effect_tasks import BALANCE, SCHEMA, amount_of
from dispatcher.drill.facts import Facts, Rows, Task
from dispatcher.drill.invariants import Invariant, verdict
from state.machine import State

__all__ = ["Bank", "applied_once", "counts", "followed_once", "gather", "money_conserved", "results_kept"]

_PARTS = {"transfer": [""], "transfer_plain": [""], "transfer_steps": ["give", "take"]}
"""What each kind of transfer notes beside the money that it moves."""
_BALANCES = f"SELECT name, balance FROM {SCHEMA}.accounts"
_TRANSFERS = f"SELECT task_id::text, part, attempt, amount FROM {SCHEMA}.transfers ORDER BY part"
_RECEIPTS = f"SELECT transfer::text, task_id::text, attempt FROM {SCHEMA}.receipts"
_FOLLOWING = """
SELECT convert_from(t.args, 'UTF8')::jsonb ->> 'transfer', t.id::text FROM {s}.tasks t
JOIN {s}.types y ON y.id = t.type_id WHERE y.name = 'receipt'
"""


@dataclass(frozen=True)
class Bank:
    """The application's own tables."""

    balances: Mapping[str, int]
    transfers: Mapping[str, list[tuple[str, int, int]]]
    """By task: part, attempt and amount of everything that was applied."""
    receipts: Mapping[str, list[tuple[str, int]]]
    """By transfer: task and attempt of every receipt that was written."""
    following: Mapping[str, list[str]]
    """By transfer: the tasks that are to write its receipt."""


def gather(rows: Rows) -> Bank:
    """Read them."""
    transfers: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    receipts: dict[str, list[tuple[str, int]]] = defaultdict(list)
    following: dict[str, list[str]] = defaultdict(list)
    for task, part, attempt, amount in rows(_TRANSFERS):
        transfers[task].append((part, attempt, amount))
    for transfer, task, attempt in rows(_RECEIPTS):
        receipts[transfer].append((task, attempt))
    for transfer, task in rows(_FOLLOWING):
        following[transfer].append(task)
    return Bank({name: int(balance) for name, balance in rows(_BALANCES)}, transfers, receipts, following)


def _transfers(facts: Facts, state: State | None = None) -> list[Task]:
    return [task for task in facts.tasks.values() if task.type in _PARTS and state in (None, task.state)]


def money_conserved(facts: Facts) -> Invariant:
    """E1: the sum of both accounts is what it was, and what was moved is what the transfers that succeeded moved."""
    bank: Bank = facts.own
    done = _transfers(facts, State.SUCCEEDED)
    total, moved = sum(bank.balances.values()), bank.balances.get("b", 0) - BALANCE
    wanted = sum(amount_of(task.order) for task in done)
    wrong = [f"the accounts hold {total}, not {2 * BALANCE}"] if total != 2 * BALANCE else []
    wrong += [f"{moved} was moved, by transfers of {wanted}"] if moved != wanted else []
    return verdict("E1 money conserved", len(done), wrong)


def applied_once(facts: Facts) -> Invariant:
    """I4: a transfer that succeeded was applied once, whole, in the commit of its own attempt; any other never."""
    bank: Bank = facts.own
    wrong = [f"{task}: applied, and there is no such transfer" for task in bank.transfers if task not in facts.tasks]
    for task in _transfers(facts):
        found = bank.transfers.get(task.id, [])
        wins = [event for event in facts.events.get(task.id, ()) if event.to_state == State.SUCCEEDED]
        if len(wins) > 1:
            wrong.append(f"{task.id} succeeded {len(wins)} times")
        if task.state != State.SUCCEEDED:
            wrong += [f"{task.id} did not succeed and was applied"] if found else []
            continue
        if [(part, amount) for part, _, amount in found] != [
            (part, amount_of(task.order)) for part in _PARTS[task.type]
        ]:
            wrong.append(f"{task.id} ({task.type}) was applied as {found}, not once with {amount_of(task.order)}")
        elif any(attempt != task.attempt if part == "" else attempt > task.attempt for part, attempt, _ in found):
            wrong.append(f"{task.id} succeeded in attempt {task.attempt} and was applied as {found}")
    return verdict("I4 each transfer applied once", len(_transfers(facts)), wrong)


def followed_once(facts: Facts) -> Invariant:
    """I9: the task that follows exists once for each transfer that was applied and for no other, and ran once."""
    bank: Bank = facts.own
    done = {task.id for task in _transfers(facts, State.SUCCEEDED)}
    wrong = []
    for transfer in done | set(bank.following) | set(bank.receipts):
        tasks, written = bank.following.get(transfer, []), bank.receipts.get(transfer, [])
        if transfer not in done:
            wrong.append(f"{transfer}: a receipt of a transfer that did not happen")
        elif len(tasks) != 1:
            wrong.append(f"{transfer}: {len(tasks)} tasks follow it")
        elif facts.tasks[tasks[0]].state != State.SUCCEEDED:
            wrong.append(f"{transfer}: the receipt {tasks[0]} did not succeed")
        elif written != [(tasks[0], facts.tasks[tasks[0]].attempt)]:
            wrong.append(f"{transfer}: the receipt {tasks[0]} was written as {written}")
    return verdict("I9 each transfer followed once", len(done), wrong)


def results_kept(facts: Facts) -> Invariant:
    """I18: the result of every transfer is its amount."""
    done = _transfers(facts, State.SUCCEEDED)
    wrong = [f"{task.id}: result {task.result}" for task in done if task.result != str(amount_of(task.order))]
    return verdict("I18 results kept", len(done), wrong)


def counts(facts: Facts) -> dict[str, int]:
    """What the verdict says besides."""
    bank: Bank = facts.own
    done = _transfers(facts, State.SUCCEEDED)
    return {
        "effects_checked": len(done),
        "follow_ups_checked": sum(map(len, bank.following.values())),
        "sum_before": 2 * BALANCE,
        "sum_after": sum(bank.balances.values()),
        "attempts_that_left_nothing": sum(task.attempt - 1 for task in done),
    }
