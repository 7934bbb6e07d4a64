"""The workloads, the same for every system."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from benchmarks.peers import tally
from benchmarks.peers.stage import Stage
from dispatcher.bench.errors import BenchError
from dispatcher.bench.latency import percentile
from dispatcher.bench.rounds import say, spread

__all__ = ["FULL", "QUICK", "Plan", "latency_round", "measure", "settle_latency"]

T = TypeVar("T")
BULK = 500
WARM_UP = 30


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    rounds: int
    seconds: float
    """A round has as many tasks as the system drains in this time, within ``tasks_least`` and ``tasks_most``."""
    latency_seconds: float
    """Of a round; the systems take turns, so that a slow minute of the machine falls on all of them."""
    idle_seconds: float
    settle_seconds: float
    depth: int
    slice_seconds: float
    """A workload gets fewer rounds, but one, when they would take longer than this together."""
    system_seconds: float
    """A system that is not through by then is reported as failed."""
    tasks_least: int = 500
    tasks_most: int = 20_000
    one_most: int = 2000
    rate: float = 20.0


FULL = Plan(
    rounds=3, seconds=4.0, latency_seconds=20.0, idle_seconds=60.0, settle_seconds=35.0, depth=50_000,
    slice_seconds=22.0, system_seconds=290.0,
)  # fmt: skip
QUICK = Plan(
    rounds=1, seconds=1.0, latency_seconds=4.0, idle_seconds=6.0, settle_seconds=2.0, depth=5_000,
    slice_seconds=10.0, system_seconds=70.0, tasks_least=200, one_most=500,
)  # fmt: skip
_DEEP_SECONDS = 15.0
"""Making the deep backlog may take so long: a system without a bulk call gets a shallower one."""


def measure(stage: Stage, plan: Plan, found: dict[str, Any]) -> None:
    """Put all figures of one system into ``found``.

    Raises ``BenchError`` when a task was lost or run twice, or the time is over; what was measured by then is there.
    """
    found["rounds"] = {}
    try:
        _workloads(stage, plan, found, found["rounds"])
    finally:
        for name, figures in found["rounds"].items():
            found[name] = round(median(item["tasks_per_s"] for item in figures), 1)
            found[f"{name}_spread"] = spread(figures, "tasks_per_s")


def _workloads(stage: Stage, plan: Plan, found: dict[str, Any], rounds: dict[str, list[dict[str, Any]]]) -> None:
    stage.deadline = time.monotonic() + plan.system_seconds
    stage.start(1)
    tasks = _calibrate(stage, plan)
    ones = min(plan.one_most, tasks)
    found["tasks"], found["tasks_one"] = tasks, ones
    rounds["one"] = _rounds(plan, lambda: _backlog(stage, "one", ones)[0])
    if stage.about["atomic"]:
        rounds["one_tx"] = _rounds(plan, lambda: _backlog(stage, "one_tx", ones)[0])
    both = _rounds(plan, lambda: _backlog(stage, "bulk", tasks))
    rounds["bulk"], rounds["drain_1"] = [made for made, _ in both], [drained for _, drained in both]
    rounds["together"] = _rounds(plan, lambda: _together(stage, tasks))
    found |= _idle(stage, plan)
    stage.start(2)
    _warm(stage, ones)
    rounds["drain_2"] = _rounds(plan, lambda: _backlog(stage, "bulk", tasks)[1])
    made_per_s = min(item["tasks_per_s"] for item in rounds["bulk"])
    found["depth"] = max(2 * tasks, min(plan.depth, int(made_per_s * _DEEP_SECONDS)))
    rounds["deep"] = [_deep(stage, found["depth"], tasks)]


def _rounds(plan: Plan, measured: Callable[[], T]) -> list[T]:
    """As many as the plan has, fewer when they take too long."""
    done: list[T] = []
    begun = time.monotonic()
    while len(done) < plan.rounds:
        taken = time.monotonic() - begun
        if done and taken / len(done) * (len(done) + 1) > plan.slice_seconds:
            break
        done.append(measured())
    return done


def _warm(stage: Stage, tasks: int) -> float:
    """Tasks per second, imports, connections and plans included."""
    begun = time.monotonic()
    stage.give("bulk", tasks, size=BULK)
    stage.until_done()
    stage.prove()
    return tasks / (time.monotonic() - begun)


def _calibrate(stage: Stage, plan: Plan) -> int:
    """Tasks per round, after a round that wakes everything up."""
    _warm(stage, plan.tasks_least)
    stage.tidy()
    tasks = 2 * plan.tasks_least
    for seconds in (plan.seconds / 2, plan.seconds):  # the first figure is of a system that is still cold
        rate = _backlog(stage, "bulk", tasks)[1]["tasks_per_s"]
        tasks = int(min(plan.tasks_most, max(plan.tasks_least, round(rate * seconds / BULK) * BULK)))
    return tasks


def _rate(stage: Stage, name: str, tasks: int, nanoseconds: int) -> dict[str, Any]:
    seconds = nanoseconds / 1e9
    say(f"  {stage.about['name']} {name}: {tasks / seconds:,.0f} tasks/s ({tasks} tasks)")
    return {"tasks_per_s": round(tasks / seconds, 1), "tasks": tasks, "seconds": round(seconds, 4)}


def _backlog(stage: Stage, kind: str, tasks: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Create a backlog while the workers are frozen, then let them drain it; how fast was either."""
    stage.workers.freeze()
    meter = stage.meter()
    meter.start()
    made = stage.give(kind, tasks, size=BULK)
    taken = made["last"] - made["first"]
    created = _rate(stage, kind, tasks, taken) | stage.spent(meter, tasks, taken / 1e9, made["cpu"])
    meter.start()
    begun = time.monotonic_ns()
    stage.workers.thaw()
    taken = stage.until_done() - begun
    drained = _rate(stage, "drain", tasks, taken) | stage.spent(meter, tasks, taken / 1e9)
    stage.prove()
    stage.tidy()
    return created, drained


def _together(stage: Stage, tasks: int) -> dict[str, Any]:
    """From the first call of the producer to the last task recorded as finished."""
    meter = stage.meter()
    meter.start()
    made = stage.give("bulk", tasks, size=BULK)
    taken = stage.until_done() - made["first"]
    figures = _rate(stage, "together", tasks, taken) | stage.spent(meter, tasks, taken / 1e9, made["cpu"])
    stage.prove()
    stage.tidy()
    return figures


def _deep(stage: Stage, depth: int, tasks: int) -> dict[str, Any]:
    """The first ``tasks`` of ``depth``, by the handlers' count; the rest goes with the database, so this comes last."""
    stage.shrink(1)
    _warm(stage, tasks)
    stage.workers.freeze()
    before = stage.runs()
    stage.give("bulk", depth, size=BULK)
    stage.tidy()
    meter = stage.meter()
    meter.start()
    begun = time.monotonic_ns()
    stage.workers.thaw()
    tasks = min(tasks, depth)
    taken = stage.until_run(before + tasks) - begun
    figures = _rate(stage, f"first of {depth}", tasks, taken) | stage.spent(meter, tasks, taken / 1e9)
    stage.workers.freeze()
    finished, runs = stage.created - stage.left(), stage.runs()
    if not finished <= runs <= stage.created:
        raise BenchError(f"{finished} tasks are recorded as finished, but {runs} handlers of {stage.created} were run")
    return figures


def latency_round(stage: Stage, plan: Plan) -> dict[str, Any]:
    """One system's turn: from the return of the creating call to the first line of the handler.

    Raises ``BenchError`` when a task was lost or run twice, or the time is over.
    """
    stage.deadline = time.monotonic() + plan.system_seconds
    stage.start(1)
    _warm(stage, plan.tasks_least)
    stage.tidy()
    tasks = max(1, round(plan.rate * plan.latency_seconds))
    stage.give("paced", WARM_UP, first=-WARM_UP, rate=plan.rate)
    stage.until_done()
    meter = stage.meter()
    meter.start()
    begun = time.monotonic()
    commits = stage.give("paced", tasks, first=0, rate=plan.rate)["commits"]
    stage.until_done()
    spent = stage.spent(meter, tasks, time.monotonic() - begun)
    stage.prove()
    starts = tally.starts(stage.folder)
    if missing := [number for number in map(int, commits) if number not in starts]:
        raise BenchError(f"{len(missing)} of {tasks} handlers left no note of their start")
    delays = sorted((starts[int(number)] - at) / 1e6 for number, at in commits.items())
    figures = {"p50_ms": percentile(delays, 0.5), "p99_ms": percentile(delays, 0.99)}
    say(f"  {stage.about['name']} latency: {figures}")
    return figures | {
        "samples": tasks, "max_ms": round(delays[-1], 3), "others_busy_cores": spent["others_busy_cores"]
    }  # fmt: skip


def settle_latency(found: dict[str, Any]) -> None:
    """Put the medians of the turns that were had into ``found``."""
    turns = found.get("rounds", {}).get("latency")
    if turns:
        found |= {figure: round(median(turn[figure] for turn in turns), 3) for figure in ("p50_ms", "p99_ms")}
        found |= {f"{figure}_spread": spread(turns, figure) for figure in ("p50_ms", "p99_ms")}


def _idle(stage: Stage, plan: Plan) -> dict[str, Any]:
    """Statements and CPU of a system that has nothing to do, its servers included."""
    time.sleep(plan.settle_seconds)
    meter, before = stage.meter(), stage.statements()
    meter.start()
    time.sleep(plan.idle_seconds)
    spent, statements = meter.stop(), stage.statements() - before
    ours = {name: value or 0.0 for name, value in spent.items() if name != "machine"}
    share = {name: round(value / plan.idle_seconds * 1000, 1) for name, value in ours.items()}
    figures = {
        "idle_statements_per_minute": round(statements * 60 / plan.idle_seconds, 1),
        "idle_cpu_ms_per_s": round(sum(share.values()), 1),
    }
    say(f"  {stage.about['name']} idle: {figures}")
    return figures | {"idle_cpu_ms_per_s_by": share}
