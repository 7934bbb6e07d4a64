"""What counts as recovered after a fault, on histories made by hand; and the table of a campaign."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dispatcher.drill.facts import Event, Facts, Task
from dispatcher.drill.recovery import recovery
from dispatcher.drill.table import markdown, put, read_results
from dispatcher.errors import ConfigurationError
from state.machine import Reason, State

Q, R, S = State.QUEUED, State.RUNNING, State.SUCCEEDED
Move = tuple[float, State]


def facts(
    histories: Mapping[str, list[Move]],
    published: Mapping[str, list[tuple[float, float]]],
    faults: list[float],
    rescued: frozenset[tuple[str, float]] = frozenset(),
    held: float = 0.0,
) -> Facts:
    events, tasks = {}, {}
    for number, (name, moves) in enumerate(histories.items()):
        events[name] = [
            Event(
                name, seq, moves[seq - 2][1] if seq > 1 else None, state,
                Reason.LEASE_EXPIRED if (name, at) in rescued else None, 1, at,
            )
            for seq, (at, state) in enumerate(moves, 1)
        ]  # fmt: skip
        end = moves[-1][0] if moves[-1][1] == S else None
        tasks[name] = Task(name, number, "work", moves[-1][1], 1, 1, 1, None, moves[0][0], end, None)
    return Facts(
        tasks=tasks, events=events, offers=[], published=published, client=[], worker=[], rescued={}, audit={},
        sides={}, left={}, shown=(0, []),
        faults=[{"fault": "f", "at": at, "seconds": 0.1 + held, "held": held} for at in faults],
    )  # fmt: skip


def found(given: Facts) -> tuple[float | int | None, float | int | None]:
    """Recovery and work of the only fault, or the longest ones."""
    figures = recovery(given)["f"]
    return figures["max"], figures["work_p99"]


def busy(until: float) -> list[Move]:
    """Somebody claims every 0.4 s, so that nothing is silent."""
    moves: list[Move] = []
    at = 0.2
    while at < until:
        moves += [(at, Q), (at + 0.1, R)]
        at += 0.4
    return [*moves, (until, S)]


def test_a_message_that_was_stored_again_is_the_end_of_it_and_the_work_is_not() -> None:
    lost = [(1.0, Q), (40.0, R), (41.0, S)]
    given = facts({"lost": lost, "busy": busy(40.0)}, {"lost": [(1.0, 1.1), (12.9, 13.0)]}, [10.0])
    assert found(given) == (3.0, 31.0)


def test_an_old_message_does_not_count_until_its_task_is_claimed() -> None:
    given = facts({"waits": [(1.0, Q), (14.0, R), (14.5, S)], "busy": busy(15.0)}, {"waits": [(1.0, 1.1)]}, [10.0])
    assert found(given)[0] == 4.0
    never = facts({"waits": [(1.0, Q)], "busy": busy(15.0)}, {"waits": [(1.0, 1.1)]}, [10.0])
    assert found(never)[0] is None


def test_what_ran_in_a_lost_process_must_be_given_back_and_sent_again() -> None:
    orphan = [(1.0, Q), (9.0, R), (14.0, Q), (20.0, R), (20.5, S)]
    rescued = frozenset({("orphan", 14.0)})
    given = facts({"orphan": orphan, "busy": busy(21.0)}, {"orphan": [(14.1, 14.2)]}, [10.0], rescued)
    assert found(given) == (4.2, 11.0)
    finished = facts({"own end": [(1.0, Q), (9.0, R), (14.0, S)], "busy": busy(21.0)}, {}, [10.0])
    assert found(finished)[0] == 0.0, "an attempt that came to its own end is work"


def test_silence_counts_only_while_somebody_waits() -> None:
    given = facts({"a": [(10.5, Q), (13.5, R), (13.6, S)]}, {}, [10.0])
    assert found(given)[0] == 3.5
    assert found(
        facts({"a": [(10.5, Q), (10.6, R), (13.6, S)], "b": [(13.7, Q), (13.8, R), (14.0, S)]}, {}, [10.0])
    ) == (
        0.0,
        0.0,
    )


def test_a_silence_belongs_to_every_fault_before_it_ends_and_to_none_after() -> None:
    given = facts({"a": [(9.0, Q), (13.0, R), (13.1, S)]}, {}, [10.0, 12.0, 20.0])
    figures = recovery(given)["all"]
    assert (figures["n"], figures["max"], figures["p50"]) == (3, 3.0, 1.0)


def test_the_time_for_which_the_drill_kept_the_cause_up_is_not_recovery() -> None:
    given = facts({"a": [(9.0, Q), (13.0, R), (13.1, S)]}, {}, [10.0], held=2.0)
    assert found(given) == (1.0, 1.1)


def _result(**changes: Any) -> dict[str, Any]:
    recovery_s = {"p50": 1.234, "p99": None, "max": 2.0, "n": 3, "work_p50": 2.0, "work_p99": 3.0}
    return {
        "ok": True, "drill": "kill-worker", "seed": 7, "tasks": 1234, "kills_done": 3, "rescued": 0, "seconds": 61.4,
        "recovery_s": recovery_s, "date": "2026-01-02", "cores": 2, "cpu": "a CPU", "servers": "some servers",
    } | changes  # fmt: skip


def test_the_table_of_a_campaign_goes_between_its_marks(tmp_path: Path) -> None:
    file, page = tmp_path / "proof", tmp_path / "page.md"
    file.write_text(f"[ 1.0 s] something else\n{json.dumps(_result())}\n{json.dumps(_result(drill='mixed'))}\n")
    page.write_text("# A page\n\n<!-- table -->\nold\n<!-- /table -->\n\nmore\n")
    results = read_results(file)
    put(results, page)
    text = page.read_text()
    assert "| `kill-worker` | 7 | 1,234 | 3 | 0 | 1.2 | – | 2.0 | 3.0 | 61 |\n| `mixed` |" in text
    assert "2026-01-02, 2 cores, a CPU; some servers; 2 drills, 2 minutes. In every one nothing was lost" in text
    assert text.startswith("# A page\n\n<!-- table -->\n2026") and text.endswith("|\n<!-- /table -->\n\nmore\n")
    put(results, page)
    assert page.read_text() == text
    assert "**It does not hold: `kill-worker` (seed 7).**" in markdown([_result(ok=False)])
    broken = {"ok": False, "drill": "kill-relay", "seed": 7, "error": "it did not start"}
    assert "; 2 drills, 1 minutes. **It does not hold: `kill-relay` (seed 7).**" in markdown([_result(), broken])


def test_a_table_out_of_nothing_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("no result\n")
    with pytest.raises(ConfigurationError, match="holds no result; make it with: dispatcher drill run all --json"):
        read_results(tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_results(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="has no lines <!-- table -->"):
        put([_result()], tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="not one drill"):
        markdown([{"ok": False, "drill": "kill-relay", "seed": 7, "error": "it did not start"}])
