"""Walk the tasks that match some filters, newest first, a bounded statement at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from dispatcher.filters import MOST, Filters, cursor_of
from dispatcher.steps import Row, Steps
from state import queries
from state.listing import ALL, Shape, probe, walkable
from state.machine import State
from state.sql import Sql

__all__ = ["walk"]

_MOST_STEPS = 200


def walk(wanted: Filters, statement: Callable[[Shape], Sql]) -> Steps[tuple[list[Row], str | None]]:
    """One page of rows of ``statement(shape)``, whose first column is the id, and the cursor of the next page.

    A filter that matches next to nothing ends a page early; only ``None`` as cursor means the end.
    """
    many: frozenset[State] = frozenset()
    if wanted.uncounted:
        rows = yield queries.BACKLOG, {}
        backlog = {State(state): n for state, n in rows}
        wanted = wanted.without(wanted.uncounted - backlog.keys())
        many = frozenset(state for state, n in backlog.items() if state is State.BLOCKED or n > MOST * 50)
        if wanted.nothing:
            return [], None
    shape = wanted.shape(many)
    names = walkable(shape)
    if len(names) > 1:
        (ends,) = yield probe(names), wanted.values(None, 0)
        rarest = min(range(len(names)), key=lambda i: "" if ends[i] is None else str(ends[i]))
        shape = replace(shape, start=names[rarest])
    found: list[Row] = []
    high: UUID | None = wanted.high
    sql = statement(shape)
    for _ in range(_MOST_STEPS):
        rows = yield sql, wanted.values(high, wanted.limit + 1 - len(found))
        found += [tuple(row[2:]) for row in rows if row[1]]
        high = None if rows[0][0] is None else UUID(str(rows[0][0]))
        if len(found) > wanted.limit:
            return found[: wanted.limit], cursor_of(UUID(str(found[wanted.limit - 1][0])))
        if high is None:
            return found, None
        if len(names) > 1:
            sql = statement(replace(shape, start=ALL))
    return found, cursor_of(high) if high else None
