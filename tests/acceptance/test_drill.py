"""The short form of the fault campaign: real processes and servers, a bit of everything; and the checker can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from dispatcher.dev.ledger import Mark, Writer
from dispatcher.drill.checker import Verdict, check
from dispatcher.drill.drills import DRILLS
from dispatcher.drill.facts import Facts, Task, gather
from dispatcher.drill.invariants import INVARIANTS
from dispatcher.drill.place import Place, reopened
from dispatcher.drill.sink import SCHEMA
from dispatcher.drill.tasks import CANARY
from state.machine import State

TASKS, KILLS = 240, 8
# one campaign for the whole file, also when tests run in parallel
pytestmark = pytest.mark.xdist_group("drill")
Plant = Callable[["Planter", Task], None]


def drill(*args: str | Path) -> tuple[int, list[dict[str, Any]], str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", "drill", *map(str, args)],
        env=env, capture_output=True, text=True, timeout=115, check=False,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stderr


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A campaign that was run once, with everything kept."""
    folder = tmp_path_factory.mktemp("drill") / "kept"
    code, [verdict], said = drill(
        "run", "mixed", "--tasks", str(TASKS), "--kills", str(KILLS), "--seed", "11", "--keep", folder, "--json"
    )
    assert code == 0, (verdict, said)
    return folder, verdict


@pytest.fixture(scope="module")
def place(ran: tuple[Path, dict[str, Any]]) -> Iterator[Place]:
    with reopened(ran[0]) as opened:
        yield opened


def test_nothing_is_lost_whatever_breaks(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, verdict = ran
    assert verdict["ok"] is True
    assert verdict["kills_done"] == sum(verdict["faults"].values()) >= KILLS
    assert verdict["tasks"] >= TASKS
    assert verdict["lost"] == verdict["double_completed"] == verdict["illegal_transitions"] == verdict["stuck"] == 0
    for found in verdict["invariants"]:
        assert found["ok"], found
    facts = {found["name"].split()[0]: found["facts"] for found in verdict["invariants"]}
    assert min(facts["I1"], facts["I2"], facts["I4"], facts["I5"], facts["I7"], facts["I18"]) >= TASKS * 0.8
    assert verdict["recovery_s"]["n"] == verdict["kills_done"]
    faults = [json.loads(line) for line in (folder / "faults.jsonl").read_text().splitlines()]
    assert len(faults) == verdict["kills_done"]
    assert json.loads((folder / "drill.json").read_text())["seed"] == 11


class Planter:
    """Plants lies, each about a task of its own."""

    def __init__(self, place: Place, connection: psycopg.Connection[Any]) -> None:
        self.place, self._connection = place, connection
        self.client = Writer(place.root / "ledger", "client")
        self.worker = Writer(place.root / "ledger", "worker")

    def sql(self, text: str, *params: Any) -> None:
        text = text.replace("{s}", self.place.plan.schema).replace("{sink}", SCHEMA)
        self._connection.execute(text.encode(), params)


def _offer_twice(planter: Planter, task: Task) -> None:
    planter.sql(
        "INSERT INTO {sink}.offers (task_id, attempt, accepted, pid) VALUES (%s, %s, true, 1)", task.id, task.attempt
    )


def _stale_offer(planter: Planter, task: Task) -> None:
    for attempt in (900, 899):
        planter.sql(
            "INSERT INTO {sink}.offers (task_id, attempt, accepted, pid) VALUES (%s, %s, true, 1)", task.id, attempt
        )


def _second_final(planter: Planter, task: Task) -> None:
    planter.sql(
        "INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, attempt) SELECT id, seq + 1, 6, 8, attempt"
        " FROM {s}.tasks WHERE id = %s", task.id,
    )  # fmt: skip


def _overlap(planter: Planter, task: Task) -> None:
    planter.worker.write(Mark.START, task.id, task.attempt + 1, task.order, ns=1)


def _secret(planter: Planter, task: Task) -> None:
    (planter.place.root / "logs" / "planted.log").write_text(CANARY)


PLANTS: dict[str, tuple[str, Plant]] = {
    "a task is gone": ("I1 ", lambda p, t: p.sql("DELETE FROM {s}.tasks WHERE id = %s", t.id)),
    "committed, never made": ("I1 ", lambda p, t: p.client.write(Mark.COMMITTED, uuid4(), 1, 10_000_001)),
    "rolled back, yet ran": ("I1 ", lambda p, t: p.client.write(Mark.ROLLED_BACK, t.id, 1, 10_000_002)),
    "not finished": ("I2 ", lambda p, t: p.sql(
        "UPDATE {s}.tasks SET state = 3, result = NULL, finished_at = NULL WHERE id = %s", t.id)),
    "did not fit, yet succeeded": ("I2 ", lambda p, t: p.client.write(Mark.UNFIT, None, 1, t.order)),
    "two final states": ("I3 ", _second_final),
    "completed twice": ("I4 ", _offer_twice),
    "succeeded without its effect": ("I4 ", lambda p, t: p.sql("DELETE FROM {sink}.offers WHERE task_id = %s", t.id)),
    "one attempt started twice": ("I5 ", lambda p, t: p.worker.write(Mark.START, t.id, t.attempt, t.order)),
    "more tries than counted": ("I5 ", lambda p, t: p.sql(
        "UPDATE {s}.tasks SET tries = tries + 1 WHERE id = %s", t.id)),
    "two owners": ("I6 ", _overlap),
    "a stale effect accepted": ("I7 ", _stale_offer),
    "said cancelled, succeeded": ("I8 ", lambda p, t: p.client.write(Mark.CANCELLED, t.id, 1, t.order)),
    "a hole in the history": ("I10 ", lambda p, t: p.sql(
        "UPDATE {s}.task_events SET seq = seq + 40 WHERE task_id = %s AND to_state = 6", t.id)),
    "an illegal move": ("I10 moves", lambda p, t: p.sql(
        "UPDATE {s}.task_events SET from_state = 1 WHERE task_id = %s AND to_state = 6", t.id)),
    "left in the outbox": ("I11 ", lambda p, t: p.sql(
        "INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id) VALUES (%s, 1, 1, 1)", t.id)),
    "started early": ("I13 ", lambda p, t: p.sql(
        "UPDATE {s}.tasks SET due_at = finished_at + interval '1 hour' WHERE id = %s", t.id)),
    "one key, two tasks": ("I14 ", lambda p, t: p.client.write(Mark.OTHER_TASK, t.id, 1, t.order)),
    "a wrong result": ("I18 ", lambda p, t: p.sql("UPDATE {s}.tasks SET result = '1' WHERE id = %s", t.id)),
    "a secret in a log": ("I19 ", _secret),
    "a counter that is off": ("I21 ", lambda p, t: p.sql(
        "INSERT INTO {s}.task_counts SELECT queue_id, 6, 1 FROM {s}.tasks WHERE id = %s", t.id)),
}  # fmt: skip


def test_the_checker_finds_every_planted_lie(place: Place) -> None:
    """What was kept is judged again, as good; then lies are planted in it."""
    verdict = check(place)
    assert verdict.ok, verdict.to_json()
    assert not replace(verdict, plan=replace(verdict.plan, kills=verdict.kills_done + 1)).ok
    assert not replace(verdict, plan=replace(verdict.plan, tasks=verdict.made + 1)).ok
    assert not replace(verdict, stuck=1).ok
    with psycopg.connect(place.direct.database_url or "", autocommit=True) as connection:
        planter = Planter(place, connection)
        planter.sql("ALTER TABLE {s}.task_events DISABLE TRIGGER USER")
        planter.sql("ALTER TABLE {s}.task_events DROP CONSTRAINT task_events_move_legal")
        facts = gather(place.direct.database_url or "", place.plan.schema, place.root, [])
        victims = {}
        tasks = _plain_successes(facts)
        for what, (_, plant) in PLANTS.items():
            victims[what] = next(tasks)
            plant(planter, victims[what])
    found = check(place)
    assert not found.ok
    for what, (name, _) in PLANTS.items():
        assert _names(found, name, victims[what]), what
    assert {name.split()[0] for name, _ in PLANTS.values()} == {found.name.split()[0] for found in found.invariants}, (
        "an invariant without a lie that it finds"
    )


def _plain_successes(facts: Facts) -> Iterator[Task]:
    return (t for t in facts.tasks.values() if t.type == "work" and t.state == State.SUCCEEDED and t.due is None)


def _names(verdict: Verdict, name: str, victim: Task) -> bool:
    """Whether the invariant is wrong, and says so of this task wherever its violations speak of tasks."""
    return any(
        not found.ok
        and (
            not any(len(text.split(":")[0]) >= 36 for text in found.violations)
            or any(victim.id in text or str(victim.order) in text or "1000000" in text for text in found.violations)
        )
        for found in verdict.invariants
        if found.name.startswith(name)
    )


def test_list_and_mistakes() -> None:
    code, _, said = drill("run", "nonsense")
    assert code == 2
    assert said.strip() == "error: there is no drill 'nonsense'; see: dispatcher drill list"
    assert set(DRILLS) >= {
        "kill-worker", "kill-relay", "freeze-leader", "freeze-worker", "kill-broker", "wipe-broker",
        "restore-old-broker-store", "corrupt-broker-file", "fill-broker-disk", "delete-consumer", "kill-database",
        "terminate-sessions", "unknown-commit", "broker-outage", "duplicate-delivery", "stale-ack", "network-cut",
        "rolling-deploy", "mixed",
    }  # fmt: skip
    assert len(INVARIANTS) >= 16
