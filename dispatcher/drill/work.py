"""The kinds of work that a drill can have under way: who does it, who publishes it, and what must be true of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from dispatcher.drill import effect_facts as effects
from dispatcher.drill import flow_facts as flows
from dispatcher.drill import invariants as every
from dispatcher.drill.effect_tasks import TABLES
from dispatcher.drill.facts import Facts, Rows
from dispatcher.drill.invariants import INVARIANTS, Invariant
from dispatcher.drill.sink import make_tables

__all__ = ["EFFECTS", "FLOWS", "SINGLE", "Work"]


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
    counts: Callable[[Facts], dict[str, int]] = lambda facts: {}
    """Numbers for the verdict."""


def _bank(connection: psycopg.Connection[Any]) -> None:
    make_tables(connection)
    connection.execute(TABLES.encode())


SINGLE = Work("dispatcher.drill.tasks:app", "dispatcher.drill.client", make_tables, tuple(INVARIANTS.values()))
"""Single tasks whose effects go to a fenced sink."""
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
