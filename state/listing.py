"""Builds the statement that lists tasks: which index to start from, and how far one statement may walk.

No index knows the state of a task (claim and settle would have to write it).  So a listing starts from the narrowest
place that can only miss nothing, a side table or an index on columns that never change, takes at most ``STEP`` ids
from it, newest first, and checks every one against ``tasks``.  A statement is therefore always short; when the step
was used up before the page was full, the first column says where the next one goes on.

Row comparisons such as ``(queue_id, id) < (q, high)`` are meant: with ``queue_id = q`` the planner may walk the whole
primary key instead, whenever its statistics say that the value is common.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from state.machine import State
from state.sql import Sql

__all__ = ["ALL", "STEP", "Shape", "listing", "probe", "walkable"]

STEP = 5000
"""Most ids that one statement looks at.  Small enough to keep the estimated cost below PostgreSQL's JIT threshold."""
WIDE = 50_000
"""Most ids of each index when indexes are intersected: they are only compared, rows are read for the common ones."""
ALL = "all"
"""``Shape.start`` for intersecting every walkable index."""


@dataclass(frozen=True)
class Shape:
    """Which filters a listing has, without their values.  ``many`` are the states too numerous for their side table."""

    states: frozenset[State] = frozenset()
    queue: bool = False
    type: bool = False
    tag: bool = False
    key: bool = False
    error: bool = False
    many: frozenset[State] = frozenset()
    start: str = ""
    """Which of the ``walkable`` filters to start from; empty: the first one; ``ALL``: their intersection."""


_QUEUE = "(SELECT id FROM {s}.queues WHERE name = CAST(:queue AS text))"
_TYPE = "(SELECT id FROM {s}.types WHERE name = CAST(:type AS text))"
_HIGH = "CAST(:high AS uuid)"
_LOW = "CAST(:low AS uuid)"
_LANES = f"AND x.lane_id = ANY (ARRAY(SELECT id FROM {{s}}.lanes WHERE queue_id = {_QUEUE}))"


def _range(table: str, first: str, value: str, column: str, step: int = STEP) -> str:
    """Ids from an index (first, column), newest first."""
    return (
        f"(SELECT x.{column} AS id FROM {{s}}.{table} x"
        f" WHERE (x.{first}, x.{column}) < ({value}, {_HIGH}) AND (x.{first}, x.{column}) >= ({value}, {_LOW})"
        f" ORDER BY x.{first} DESC, x.{column} DESC LIMIT {step})"
    )


def _newest(table: str, column: str, condition: str = "") -> str:
    """Ids from a table whose primary key starts with the id, newest first."""
    return (
        f"(SELECT x.{column} AS id FROM {{s}}.{table} x WHERE x.{column} < {_HIGH} AND x.{column} >= {_LOW} {condition}"
        f" ORDER BY x.{column} DESC LIMIT {STEP})"
    )


def _label(kind: int, parameter: str, step: int = STEP) -> str:
    label, value = "(x.value, x.kind, x.task_id)", f"CAST(:{parameter} AS text), CAST({kind} AS smallint)"
    return (
        f"(SELECT x.task_id AS id FROM {{s}}.task_labels x"
        f" WHERE {label} < ({value}, {_HIGH}) AND {label} >= ({value}, {_LOW})"
        f" ORDER BY x.value DESC, x.kind DESC, x.task_id DESC LIMIT {step})"
    )


def _failures(shape: Shape) -> list[str]:
    if shape.type:
        return [_range("failures", "type_id", _TYPE, "task_id")]
    if shape.queue:
        return [_range("failures", "queue_id", _QUEUE, "task_id")]
    ended = sorted(shape.states & {State.FAILED, State.CANCELLED})
    return [_range("failures", "state", f"CAST({int(state)} AS smallint)", "task_id") for state in ended]


def _queued(shape: Shape) -> list[str]:
    lanes = _LANES if shape.queue else ""
    within = f"id < {_HIGH} AND id >= {_LOW} ORDER BY id DESC LIMIT {STEP}"
    gate = f"AND x.gate = 1 AND x.gate_key = {_QUEUE}" if shape.queue else ""
    return [
        f"(SELECT id FROM (SELECT x.task_id AS id FROM {{s}}.outbox x WHERE true {lanes}) o WHERE {within})",
        "(SELECT id FROM (SELECT unnest(x.task_ids) AS id FROM {s}.dispatch_log x"
        f" WHERE true {lanes}) d WHERE {within})",
        _newest("parked", "task_id", gate),
    ]


def _running() -> str:
    return (
        "(SELECT id FROM (SELECT unnest(x.task_ids) AS id FROM {s}.claims x) c"
        f" WHERE id < {_HIGH} AND id >= {_LOW} ORDER BY id DESC LIMIT {STEP})"
    )


def _by_state(shape: Shape) -> list[str]:
    """One source per side table that the wanted states need."""
    sources: list[str] = []
    if shape.states & {State.FAILED, State.CANCELLED}:
        sources += _failures(shape)
    if shape.states & {State.SCHEDULED, State.RETRYING}:
        sources.append(_newest("timers", "task_id", "AND x.kind = 1"))
    if State.RUNNING in shape.states:
        sources.append(_running())
    if State.QUEUED in shape.states:
        sources += _queued(shape)
    return sources


def walkable(shape: Shape) -> tuple[str, ...]:
    """The filters whose index a walk could start from, the likely narrowest first; empty when it starts elsewhere."""
    if shape.key or not (not shape.states or State.SUCCEEDED in shape.states or shape.states & shape.many):
        return ()
    return tuple(name for name in ("tag", "type", "queue") if getattr(shape, name))


def _index(name: str, step: int) -> str:
    if name == "tag":
        return _label(1, "tag", step)
    column, value = ("type_id", _TYPE) if name == "type" else ("queue_id", _QUEUE)
    return _range("tasks", column, value, "id", step)


@lru_cache(maxsize=8)
def probe(names: tuple[str, ...]) -> Sql:
    """Where one step ends from each of these filters' indexes, a column each; NULL: the step finds everything.

    The lower that id, the rarer the filter.  Reads indexes only.
    """
    lowest = f"CASE WHEN count(*) = {STEP} THEN (array_agg(p.id ORDER BY p.id))[1] END"
    ends = [f"(SELECT {lowest} FROM {_index(name, STEP)} p)" for name in names]
    return Sql("SELECT " + ", ".join(ends))


def _sources(shape: Shape) -> list[str]:
    if shape.key:
        return [_label(2, "key")]
    names = walkable(shape)
    if names:
        return [_index(shape.start or names[0], STEP)]
    if not shape.states or State.SUCCEEDED in shape.states or shape.states & shape.many:
        return [_newest("tasks", "id")]
    return _by_state(shape)


def _filters(shape: Shape) -> str:
    """What every candidate is checked for.  The scalar sub-selects cannot be turned into joins that read everything."""
    conditions = ["true"]
    if shape.states:
        conditions.append("t.state = ANY (CAST(:states AS int[]))")
    if shape.queue:
        conditions.append(f"t.queue_id = {_QUEUE}")
    if shape.type:
        conditions.append(f"t.type_id = {_TYPE}")
    for wanted, kind, parameter in ((shape.tag, 1, "tag"), (shape.key, 2, "key")):
        if wanted:
            conditions.append(
                f"(SELECT true FROM {{s}}.task_labels x WHERE x.value = CAST(:{parameter} AS text) AND x.kind = {kind}"
                " AND x.task_id = t.id LIMIT 1)"
            )
    if shape.error:
        conditions.append(
            "(SELECT strpos(lower(x.error), lower(CAST(:error AS text))) > 0"
            " FROM {s}.failures x WHERE x.task_id = t.id)"
        )
    return " AND ".join(conditions)


@lru_cache(maxsize=256)
def listing(shape: Shape, columns: str) -> Sql:
    """The statement for one shape; ``columns`` is a select list over the page ``p``.

    Parameters: ``high`` (exclusive) and ``low`` (inclusive) bounds of the id, ``most`` rows, and the filters' values.
    The first column is the id to go on below when the step ended early (NULL otherwise), the second tells whether the
    row holds a task at all: there is always at least one row.
    """
    candidates = _intersection(walkable(shape)) if shape.start == ALL else _step(_sources(shape))
    return Sql(f"""
WITH {candidates}, page AS MATERIALIZED (
    SELECT t.* FROM candidates c CROSS JOIN LATERAL (SELECT * FROM {{s}}.tasks x WHERE x.id = c.id OFFSET 0) t
    WHERE {_filters(shape)} ORDER BY c.id DESC LIMIT CAST(:most AS int)
), walked AS (
    SELECT CASE WHEN (SELECT count(*) FROM page) < CAST(:most AS int) THEN (SELECT id FROM bottom) END AS below
)
SELECT w.below, p.id IS NOT NULL, {columns} FROM walked w LEFT JOIN page p ON true ORDER BY p.id DESC
""")


def _step(sources: list[str]) -> str:
    """The newest ids of some sources together, and where they end if there may be more."""
    pool = sources[0] if len(sources) == 1 else f"(SELECT DISTINCT id FROM ({' UNION ALL '.join(sources)}) u)"
    if not sources:
        pool = "(SELECT CAST(NULL AS uuid) AS id WHERE false)"
    return f"""candidates AS MATERIALIZED (
    SELECT c.id FROM {pool} c ORDER BY c.id DESC LIMIT {STEP}
), bottom AS (
    SELECT c.id FROM candidates c WHERE (SELECT count(*) FROM candidates) = {STEP} ORDER BY c.id LIMIT 1
)"""


def _intersection(names: tuple[str, ...]) -> str:
    """Ids that are in every index; only decided down to where the first of them ends."""
    parts = [f"{name}_ids AS MATERIALIZED {_index(name, WIDE)}" for name in names]
    ends = ", ".join(
        f"CASE WHEN (SELECT count(*) FROM {name}_ids) = {WIDE} THEN (SELECT id FROM {name}_ids ORDER BY id LIMIT 1) END"
        for name in names
    )
    common = " INTERSECT ".join(f"SELECT id FROM {name}_ids" for name in names)
    return f"""{", ".join(parts)}, bottom AS MATERIALIZED (
    SELECT greatest({ends}) AS id
), candidates AS MATERIALIZED (
    SELECT c.id FROM ({common}) c
    WHERE c.id >= coalesce((SELECT id FROM bottom), {_LOW}) ORDER BY c.id DESC
)"""
