"""The kinds of work that a drill can have under way: who does it, who publishes it, and what must be true of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from dispatcher.dev.ledger import Line
from dispatcher.drill import effect_facts as effects
from dispatcher.drill import flow_facts as flows
from dispatcher.drill import invariants as every
from dispatcher.drill import poison_facts as poison
from dispatcher.drill.effect_tasks import TABLES
from dispatcher.drill.facts import Facts, Rows
from dispatcher.drill.invariants import INVARIANTS, Invariant
from dispatcher.drill.poison_tasks import ended_by
from dispatcher.drill.sink import make_tables

__all__ = ["EFFECTS", "FLOWS", "POISON", "SINGLE", "WIDE", "Work"]


@dataclass(frozen=True)
class Work:
    """One kind."""

    app: str
    """What the workers run."""
    client: str
    """The module that publishes."""
    tables: Callable[[psycopg.Connection[Any]], None]
    """Makes the application's own tables."""
    invariants: tuple[Callable[[Facts], Invariant], ...]
    own: Callable[[Rows, int], Any] = lambda rows, seed: None
    """Reads what only this kind has, given the drill's seed."""
    counts: Callable[[Facts], Mapping[str, float]] = lambda facts: {}
    """Numbers for the verdict."""
    ended_by: Callable[[Path, int, int], Line | None] = lambda root, pid, code: None
    """The attempt that ended a process on purpose, from the drill's folder, its id and its exit code."""
    workers: int = 4
    slots: int = 8
    """Of each worker."""


def _bank(connection: psycopg.Connection[Any]) -> None:
    make_tables(connection)
    connection.execute(TABLES.encode())


SINGLE = Work("dispatcher.drill.tasks:app", "dispatcher.drill.client", make_tables, tuple(INVARIANTS.values()))
"""Single tasks whose effects go to a fenced sink."""
WIDE = replace(SINGLE, slots=16)
"""The same with more slots.  A fault every second makes work pile up faster than 8 slots a worker could ever do it:
the minute after the last fault then told how long 4,131 tasks of a quarter of a second take, with 30 of 32 slots busy.
"""
EFFECTS = Work(
    "dispatcher.drill.effect_tasks:app",
    "dispatcher.drill.effect_client",
    _bank,
    (
        every.no_task_lost, every.everything_ends, every.one_final_state, effects.applied_once, every.attempts_bounded,
        every.one_owner, every.stale_never_lands, effects.followed_once, every.audit_complete, every.moves_legal,
        every.nothing_left, effects.results_kept, every.secrets_hidden, every.sides_agree, effects.money_conserved,
    ),
    lambda rows, seed: effects.gather(rows),
    effects.counts,
)  # fmt: skip
"""Transfers of money between two accounts, in their handlers' own transactions."""
FLOWS = Work(
    "dispatcher.drill.flow_tasks:app",
    "dispatcher.drill.flow_client",
    make_tables,
    (
        flows.no_flow_lost, flows.everything_ends, every.one_final_state, flows.one_completion, every.attempts_bounded,
        every.one_owner, every.stale_never_lands, flows.ran_if_and_only_if, flows.in_order, flows.tables_agree,
        every.audit_complete, every.moves_legal, every.nothing_left, flows.results_kept, every.secrets_hidden,
        every.sides_agree,
    ),
    flows.gather,
    flows.counts,
)  # fmt: skip
"""Random compositions."""
POISON = Work(
    "dispatcher.drill.poison_tasks:app",
    "dispatcher.drill.poison_client",
    make_tables,
    (
        every.no_task_lost, poison.everything_ends, every.one_final_state, every.one_completion, every.attempts_bounded,
        every.one_owner, every.stale_never_lands, every.audit_complete, every.moves_legal, every.nothing_left,
        every.results_kept, every.secrets_hidden, every.sides_agree, poison.poison_fails, poison.pace_kept,
    ),
    counts=poison.counts,
    ended_by=ended_by,
    workers=6,
    slots=6,
)  # fmt: skip
"""Single tasks in a steady stream, and then some among them that end every process that runs them."""
