"""The checkers of the drills ``effects`` and ``flows`` can fail: lies in facts that were good before."""

from __future__ import annotations

import pytest

from dispatcher.dev.ledger import Line, Mark
from dispatcher.drill import effect_facts, flow_facts
from dispatcher.drill.effect_facts import Bank
from dispatcher.drill.effect_tasks import BALANCE, amount_of
from dispatcher.drill.facts import Event, Facts, Task
from dispatcher.drill.flow_facts import Flows
from dispatcher.drill.flow_model import Model
from dispatcher.drill.flow_shapes import Bundle, Shape, shape_of
from dispatcher.drill.invariants import everything_ends, no_task_lost
from state.machine import Reason, State
from tests.unit.made_facts import Lie, change, facts_with, put, wrong

SEED = 5


# flows ----------------------------------------------------------------------------------------------------------------

FLOW_INVARIANTS = (
    flow_facts.no_flow_lost, flow_facts.everything_ends, flow_facts.one_completion, flow_facts.ran_if_and_only_if,
    flow_facts.in_order, flow_facts.tables_agree, flow_facts.results_kept,
)  # fmt: skip


def run_flows(numbers: range) -> Facts:
    """What a faultless system would leave of these compositions."""
    facts = facts_with(Flows({n: shape_of(SEED, n) for n in numbers}, {}, []))
    ns = 0
    for number, shape in facts.own.shapes.items():
        facts.client += [Line(mark, f"flow {number}", 1, number, 0, 1) for mark in (Mark.TRY, Mark.COMMITTED)]
        for job in shape.jobs:
            model = Model(facts)
            state, reason = sorted(model.expected(job), key=str)[0]
            won = state == State.SUCCEEDED
            task = put(facts, job.order, "leaf", state, reason, model.result(job) if won else None)
            if not model.why_not(job):
                ns += 2
                facts.worker.append(Line(Mark.START, task.id, 1, job.order, ns, 1))
                facts.worker.append(Line(Mark.END if won else Mark.FAULT, task.id, 1, job.order, ns + 1, 1))
        facts.own.roots[f"flow {number}"] = Model(facts).state(shape)
    return facts


def judge_flows(facts: Facts) -> set[str]:
    return wrong([invariant(facts) for invariant in FLOW_INVARIANTS])


def ended(facts: Facts, state: State, *, waits: bool = True) -> Task:
    """Some task in that state of a flow that is none of the first."""
    jobs = [job for n, shape in facts.own.shapes.items() if n > 3 for job in shape.jobs if bool(job.edges) == waits]
    return next(task for job in jobs if (task := facts.tasks[f"task {job.order}"]).state == state)


def _ran_all_the_same(facts: Facts) -> None:
    task = ended(facts, State.CANCELLED)
    facts.worker.append(Line(Mark.START, task.id, 1, task.order, 10**9, 1))


def _skipped(facts: Facts) -> None:
    task = ended(facts, State.SUCCEEDED)
    change(facts, task, state=State.CANCELLED, result=None)
    facts.events[task.id][-1] = facts.events[task.id][-1]._replace(reason=Reason.SKIPPED)


def _no_end(facts: Facts) -> None:
    task = ended(facts, State.SUCCEEDED)
    facts.worker[:] = [line for line in facts.worker if (line.task, line.mark) != (task.id, Mark.END)]


def _early(facts: Facts) -> None:
    task = ended(facts, State.SUCCEEDED)
    facts.worker.append(Line(Mark.START, task.id, 1, task.order, 0, 1))


FLOW_LIES: dict[str, tuple[str, Lie]] = {
    "a task is gone": ("I1 no flow lost", lambda f: f.tasks.pop(ended(f, State.SUCCEEDED).id) and None),
    "a flow that was rolled back": ("I1 no flow lost", lambda f: f.client.__setitem__(
        1, Line(Mark.ROLLED_BACK, "flow 1", 1, 1, 0, 1))),
    "a flow that nobody made": ("I1 no flow lost", lambda f: f.client.__delitem__(slice(0, 2))),
    "never released": ("I2 everything ends", lambda f: change(f, ended(f, State.SUCCEEDED), state=State.BLOCKED)),
    "a flow that did not end": ("I2 everything ends", lambda f: f.own.roots.update({"flow 2": 4})),
    "a flow that ended otherwise": ("I2 everything ends", lambda f: f.own.roots.update({"flow 2": 8})),
    "succeeded twice": ("I4 one effective completion", lambda f: f.events[ended(f, State.SUCCEEDED).id].insert(
        0, Event("", 1, State.RUNNING, State.SUCCEEDED, None, 1, 1.0))),
    "a success without its end": ("I4 one effective completion", _no_end),
    "ran and was not needed": ("I9 ran if and only if it may", _ran_all_the_same),
    "skipped and was needed": ("I9 ran if and only if it may", _skipped),
    "before its parents": ("I9 nothing before its parents", _early),
    "tables disagree": ("I9 flow tables agree", lambda f: f.own.violations.append("x: flow_counters: lies")),
    "a wrong result": ("I18 results kept", lambda f: change(f, ended(f, State.SUCCEEDED), result="-1")),
}  # fmt: skip


@pytest.mark.parametrize("what", FLOW_LIES)
def test_the_checker_of_flows_finds(what: str) -> None:
    facts = run_flows(range(1, 30))
    assert judge_flows(facts) == set()
    name, lie = FLOW_LIES[what]
    lie(facts)
    assert name in judge_flows(facts)


def test_a_composition_is_the_same_for_client_and_checker_and_of_every_kind() -> None:
    shapes = [shape_of(SEED, n) for n in range(1, 200)]
    again = [shape_of(SEED, n) for n in range(1, 200)]
    assert [_told(shape) for shape in shapes] == [_told(shape) for shape in again]
    assert {shape.whole.kind for shape in shapes} == {"chain", "group", "graph"}
    assert {edge.rule for shape in shapes for job in shape.jobs for edge in job.edges} == {1, 2, 3}
    assert any(edge.wants for shape in shapes for job in shape.jobs for edge in job.edges)
    nested = [member for shape in shapes for member in shape.whole.members if isinstance(member, Bundle)]
    assert any(isinstance(inner, Bundle) for outer in nested for inner in outer.members)
    jobs = [job for shape in shapes for job in shape.jobs]
    assert 0.05 < sum(job.fails for job in jobs) / len(jobs) < 0.2


def _told(shape: Shape) -> list[tuple[int, int | None, bool, int]]:
    return [(job.order, job.value, job.fails, len(job.edges)) for job in shape.jobs]


# effects --------------------------------------------------------------------------------------------------------------

EFFECT_INVARIANTS = (
    no_task_lost, everything_ends, effect_facts.money_conserved, effect_facts.applied_once, effect_facts.followed_once,
    effect_facts.results_kept,
)  # fmt: skip


def run_effects() -> Facts:
    """What a faultless system would leave of six transfers, the last one in steps."""
    facts = facts_with(Bank({"a": BALANCE, "b": BALANCE}, {}, {}, {}))
    bank = facts.own
    for order in range(1, 7):
        amount = amount_of(order)
        kind = "transfer" if order < 6 else "transfer_steps"
        task = put(facts, order, kind, State.SUCCEEDED, None, amount)
        facts.client += [Line(mark, task.id, 1, order, 0, 1) for mark in (Mark.TRY, Mark.COMMITTED)]
        bank.transfers[task.id] = [(part, 1, amount) for part in ([""] if order < 6 else ["give", "take"])]
        bank.balances["a"] -= amount
        bank.balances["b"] += amount
        follows = put(facts, 0, "receipt", State.SUCCEEDED, None, None)
        facts.tasks[f"receipt {order}"] = follows._replace(id=f"receipt {order}")
        bank.following[task.id] = [f"receipt {order}"]
        bank.receipts[task.id] = [(f"receipt {order}", 1)]
    del facts.tasks["task 0"]
    return facts


def judge_effects(facts: Facts) -> set[str]:
    return wrong([invariant(facts) for invariant in EFFECT_INVARIANTS])


APPLIED, FOLLOWED, MONEY = "I4 each transfer applied once", "I9 each transfer followed once", "E1 money conserved"
EFFECT_LIES: dict[str, tuple[str, Lie]] = {
    "money made": (MONEY, lambda f: f.own.balances.update(a=BALANCE)),
    "moved twice": (MONEY, lambda f: f.own.balances.update(a=BALANCE - 1000, b=BALANCE + 1000)),
    "applied twice": (APPLIED, lambda f: f.own.transfers["task 1"].append(f.own.transfers["task 1"][0])),
    "never applied": (APPLIED, lambda f: f.own.transfers["task 1"].clear()),
    "one step only": (APPLIED, lambda f: f.own.transfers["task 6"].pop()),
    "a wrong amount": (APPLIED, lambda f: f.own.transfers.update({"task 1": [("", 1, 10_000)]})),
    "a stale attempt": (APPLIED, lambda f: f.own.transfers.update({"task 1": [("", 2, amount_of(1))]})),
    "applied, and not done": (APPLIED, lambda f: change(f, f.tasks["task 1"], state=State.FAILED)),
    "applied by nobody": (APPLIED, lambda f: f.own.transfers.update({"task 99": [("", 1, 1)]})),
    "nothing follows": (FOLLOWED, lambda f: f.own.following.pop("task 1") and None),
    "two follow": (FOLLOWED, lambda f: f.own.following["task 1"].append("receipt 2")),
    "written twice": (FOLLOWED, lambda f: f.own.receipts["task 1"].append(("receipt 1", 1))),
    "what follows did not run": (FOLLOWED, lambda f: f.own.receipts.pop("task 1") and None),
    "a receipt of nothing": (FOLLOWED, lambda f: f.own.following.update({"task 99": ["receipt 2"]})),
    "a wrong result": ("I18 results kept", lambda f: change(f, f.tasks["task 1"], result="-1")),
    "a transfer is gone": ("I1 no task lost", lambda f: f.tasks.pop("task 1") and None),
    "failed": ("I2 everything ends", lambda f: change(f, f.tasks["task 1"], state=State.FAILED)),
}


@pytest.mark.parametrize("what", EFFECT_LIES)
def test_the_checker_of_effects_finds(what: str) -> None:
    facts = run_effects()
    assert judge_effects(facts) == set()
    name, lie = EFFECT_LIES[what]
    lie(facts)
    assert name in judge_effects(facts)


def test_the_counts_are_of_what_was_looked_at() -> None:
    facts = run_flows(range(1, 30))
    counts = flow_facts.counts(facts)
    assert counts["flows_checked"] == 29 and counts["flow_violations"] == 0
    ended = ("succeeded", "failed_as_planned", "dependency_failed", "skipped")
    assert sum(counts[name] for name in ended) == len(facts.tasks) and all(counts[name] for name in ended)
    assert 0 < counts["dependants_ran"] < counts["dependants_checked"]
    bank = effect_facts.counts(run_effects())
    assert (bank["effects_checked"], bank["follow_ups_checked"]) == (6, 6)
    assert bank["sum_after"] == bank["sum_before"]
