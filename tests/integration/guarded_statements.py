"""Every statement that moves a task, with the line of the guard table it must obey and the text of each guard in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

from state import claims, effects, reconcile, requests, rescue, settle, timers
from state.machine import State
from state.protocol.guards import allowed
from state.sql import Sql
from tests.integration.guard_cases import QUEUE, Batch, Case
from tests.integration.protocol_steps import Protocol

__all__ = ["STATEMENTS", "Statement", "disagreements"]

Run = Callable[[Protocol, Sql, Batch], Any]


class Statement(NamedTuple):
    """``run`` may return the ids that were moved; else they are seen from the rows."""

    move: str
    sql: Sql
    run: Run
    planted: Mapping[str, str]
    """Guard and the texts (with | between them) without which it is gone."""
    variants: tuple[dict[str, bool], ...] = ({},)
    """What else row or asker may be, where a guard looks at it; each is compared."""
    function: str = ""
    """The database function that holds the guards, if the statement only calls it."""


# how each is called ---------------------------------------------------------------------------------------------------


def _claim(steps: Protocol, sql: Sql, batch: Batch) -> None:
    known = batch.cases[0].ask.knows_type
    steps.run(sql, **batch.held, batch=1, types=steps.types() if known else [])


def _claim_each(steps: Protocol, sql: Sql, batch: Batch) -> None:
    types = steps.types() if batch.cases[0].ask.knows_type else []
    for n, (task, attempt) in enumerate(zip(*batch.asked.values(), strict=True)):
        steps.run(sql, session=batch.session, ids=[task], attempts=[attempt], batch=n, types=types)


def _adopt(steps: Protocol, sql: Sql, batch: Batch) -> list[UUID]:
    return [batch.ids[row[0] - 1] for row in steps.run(sql, **batch.held, batch=1)]


def _succeed(steps: Protocol, sql: Sql, batch: Batch) -> None:
    steps.run(sql, **batch.held, results=batch.all_of(b"1"), batches=[], **_no_lines(sql))


def _leave(to: State, reason: int) -> Run:
    def run(steps: Protocol, sql: Sql, batch: Batch) -> None:
        steps.run(
            sql, **batch.held, to=batch.all_of(int(to)), reasons=batch.all_of(reason), delays=batch.all_of(60.0),
            refunds=batch.all_of(0), details=batch.all_of("{}"), batches=[], **_no_lines(sql),
        )  # fmt: skip

    return run


def _no_lines(sql: Sql) -> dict[str, list[Any]]:
    names = ("log_ids", "log_attempts", "log_dropped", "log_lines")
    return {name: [] for name in names} if ":log_ids" in sql.text else {}


def _progress(steps: Protocol, sql: Sql, batch: Batch) -> list[UUID]:
    steps.run(sql, **batch.held, fractions=batch.all_of(0.5), messages=batch.all_of("m"))
    return [row[0] for row in steps.sql("SELECT task_id FROM dispatcher.progress")]


def _one_by_one(steps: Protocol, sql: Sql, batch: Batch) -> list[UUID]:
    """Statements of a handler's own transaction: true for those that are still its own."""
    more: dict[str, Any] = {"result": b"1", "flow": batch.ids[0], "step": "s"}
    more = {name: value for name, value in more.items() if f":{name}" in sql.text}
    return [
        task
        for task, attempt in zip(batch.ids, batch.asked["attempts"], strict=True)
        if steps.run(sql, id=task, attempt=attempt, session=batch.session, **more)[0][0]
    ]


def _rescue(steps: Protocol, sql: Sql, batch: Batch) -> None:
    params = batch.asked
    steps.sql("INSERT INTO dispatcher.claims VALUES (%s, 1, %s, %s)", batch.session, *params.values())
    steps.run(sql, sessions=[batch.session])


def _timer(steps: Protocol, sql: Sql, batch: Batch) -> None:
    steps.sql(
        "INSERT INTO dispatcher.timers SELECT id, 1, attempt, now() - interval '1 s'"
        " FROM unnest(%s::uuid[], %s::int[]) AS i (id, attempt)",
        *batch.asked.values(),
    )
    steps.run(sql, most=10_000)


def _reconcile(steps: Protocol, sql: Sql, batch: Batch) -> None:
    lane = steps.row(batch.ids[0])["lane_id"]
    steps.sql(
        "INSERT INTO dispatcher.dispatch_log (lane_id, task_ids, attempts, dispatches) VALUES (%s, %s, %s, %s)",
        lane, *batch.asked.values(), [ask.dispatch for _, ask in batch.cases],
    )  # fmt: skip
    steps.run(sql, lane=lane, upto=1 << 60, before=None, most=100)


def _park(steps: Protocol, sql: Sql, batch: Batch) -> list[UUID]:
    """Case by case: one call parks a task once, whatever it is asked."""
    return [row[0] for row in steps.run(sql, **batch.asked)]


def _unpark(steps: Protocol, sql: Sql, batch: Batch) -> None:
    queue = steps.row(batch.ids[0])["queue_id"]
    steps.sql(
        "INSERT INTO dispatcher.parked (task_id, attempt, gate, gate_key)"
        " SELECT id, attempt, 1, %s FROM unnest(%s::uuid[], %s::int[]) AS i (id, attempt)"
        " ON CONFLICT (task_id) DO UPDATE SET attempt = excluded.attempt",
        queue, *batch.asked.values(),
    )  # fmt: skip
    steps.run(sql, most=10_000, **({"queue_id": queue} if ":queue_id" in sql.text else {}))


def _person(steps: Protocol, sql: Sql, batch: Batch) -> None:
    steps.run(sql, ids=batch.ids, actor="test")


def _flagged(steps: Protocol, sql: Sql, batch: Batch) -> list[UUID]:
    return [row[0] for row in steps.run(sql, ids=batch.ids, actor="test") if row[1] == "cancel_requested"]


def _expire(steps: Protocol, sql: Sql, batch: Batch) -> None:
    steps.run(sql, **batch.asked)


def _ids(steps: Protocol, sql: Sql, batch: Batch) -> None:
    steps.run(sql, ids=batch.ids, **({"ends": batch.all_of(2)} if ":ends" in sql.text else {}))


# the statements -------------------------------------------------------------------------------------------------------

_FENCE = {
    "running": "t.state = 4 AND",
    "attempt": " AND t.attempt = i.attempt",
    "session": " AND t.session_id = CAST(:session AS bigint)",
}
# a row of another session or state has no session: the two cover for each other
_FENCES = {**_FENCE, "running": f"{_FENCE['running']}|{_FENCE['session']}"}
_FUNCTION = {
    "running": " AND t.state = 4| AND t.session_id = p_session", "attempt": " AND t.attempt = p_attempt",
    "session": " AND t.session_id = p_session",
}  # fmt: skip
_IN_PROGRESS = {**_FENCES, "running": " AND t.state = 4| AND t.session_id = CAST(:session AS bigint)"}
_STEP = {
    "running": " AND x.state = 4|      AND x.session_id = CAST(:session AS bigint)",
    "attempt": " AND x.attempt = CAST(:attempt AS int)", "session": "      AND x.session_id = CAST(:session AS bigint)",
}  # fmt: skip
_UNPARKED = {
    "queued": "h.state = 3 AND|AND t.state = 3", "attempt": "AND h.attempt = h.parked_attempt",
    "not paused": "NOT q.paused AND",
}  # fmt: skip
_WAITS_FOR_NOBODY = requests.RETRY.text.partition("AND CASE WHEN")[2].partition(" END")[0] + " END"
_PAUSES: tuple[dict[str, bool], ...] = ({}, {"paused": True})
_ASKERS = (*_PAUSES, {"knows_type": False}, {"session_lives": False})
_CLAIM = {
    "queued": "t.state = 3 AND", "attempt": "AND t.attempt = i.attempt", "no cancel": "AND t.flags & 1 = 0",
    "tries left": "AND t.tries < t.max_tries", "not expired": "AND (t.expires_at IS NULL OR t.expires_at > now())",
    "type known": "AND t.type_id + 0 = ANY (CAST(:types AS int[]))", "session lives": "AND expires_at > now()",
    "not paused": "AND t.queue_id <> ALL (ARRAY(SELECT q.id FROM {s}.queues q WHERE q.paused))",
}  # fmt: skip

STATEMENTS: dict[str, Statement] = {
    "CLAIM": Statement("claim", claims.CLAIM, _claim, _CLAIM, variants=_ASKERS),
    "CLAIM_ONE": Statement("claim", claims.CLAIM_ONE, _claim_each, _CLAIM, variants=_ASKERS),
    "ADOPT": Statement("adopt", claims.ADOPT, _adopt, _FENCES),
    "SUCCEED": Statement("settle", settle.SUCCEED, _succeed, _FENCES),
    "SUCCEED_LOGGED": Statement("settle", settle.SUCCEED_LOGGED, _succeed, _FENCES),
    "SUCCEED_IN_FLOW": Statement("settle", settle.SUCCEED_IN_FLOW, _succeed, _FENCES),
    "SUCCEED_IN_FLOW_LOGGED": Statement("settle", settle.SUCCEED_IN_FLOW_LOGGED, _succeed, _FENCES),
    "LEAVE to retrying": Statement("settle", settle.LEAVE, _leave(State.RETRYING, 11), _FENCES),
    "LEAVE to scheduled": Statement("settle", settle.LEAVE, _leave(State.SCHEDULED, 12), _FENCES),
    "LEAVE to queued": Statement("settle", settle.LEAVE, _leave(State.QUEUED, 13), _FENCES),
    "LEAVE to failed": Statement("settle", settle.LEAVE, _leave(State.FAILED, 2), _FENCES),
    "LEAVE_LOGGED": Statement("settle", settle.LEAVE_LOGGED, _leave(State.RETRYING, 11), _FENCES),
    "PROGRESS": Statement("settle", settle.PROGRESS, _progress, _IN_PROGRESS),
    "COMPLETE": Statement("settle", effects.COMPLETE, _one_by_one, _FUNCTION, function="complete_task"),
    "STEP_OPEN": Statement("settle", effects.STEP_OPEN, _one_by_one, _STEP),
    "SUSPEND": Statement("suspend", effects.SUSPEND, _one_by_one,
                         {**_FUNCTION, "no cancel": " AND t.flags & 1 = 0"}, function="suspend_task"),
    "GIVE_BACK": Statement("rescue", rescue.GIVE_BACK, _rescue, {
        "running": "t.state = 4 AND| t.session_id = h.session_id AND", "session": "AND t.session_id = h.session_id",
        "attempt": "AND t.attempt = h.attempt",
    }),
    "PROMOTE": Statement("timer", timers.PROMOTE, _timer, {
        "waiting": "AND l.state IN (2, 5)", "attempt": "AND l.attempt = g.attempt",
    }),
    "EXPIRE": Statement("expire", claims.EXPIRE, _expire, {
        "waiting": "t.state IN (2, 3, 5) AND", "attempt": "AND t.attempt = i.attempt",
        "expired": "AND t.expires_at <= now()",
    }),
    "RECONCILE": Statement("reconcile", reconcile.RECONCILE, _reconcile, {
        "queued": "t.state = 3 AND", "attempt": "AND t.attempt = e.attempt| AND t.attempt = l.attempt",
        "dispatch": "AND t.dispatch = e.dispatch|AND t.dispatch = l.dispatch",
        "not parked": "AND NOT EXISTS (SELECT 1 FROM {s}.parked p WHERE p.task_id = t.id)",
    }),
    "PARK": Statement("park", requests.PARK, _park, {
        "queued": "t.state = 3 AND", "attempt": "AND t.attempt = i.attempt", "paused": "q.paused AND",
    }, variants=_PAUSES),
    "UNPARK": Statement("unpark", requests.UNPARK, _unpark, _UNPARKED, variants=_PAUSES),
    "UNPARK_ANY": Statement("unpark", requests.UNPARK_ANY, _unpark, _UNPARKED, variants=_PAUSES),
    "CANCEL what waits": Statement("cancel", requests.CANCEL, _person, {"waiting": "f.state IN (1, 2, 3, 5) AND"}),
    "CANCEL what runs": Statement("cancel running", requests.CANCEL, _flagged, {
        "running": "f.state = 4 AND t.state = 4 AND|AND t.session_id = f.session_id",
    }),
    "RETRY": Statement("retry", requests.RETRY, _person, {
        "ended without success": "f.state IN (7, 8) AND", "waits for nobody": f"AND CASE WHEN{_WAITS_FOR_NOBODY}",
    }, variants=({}, {"waits": True})),
    "start_released": Statement("release", Sql("SELECT {s}.start_released(CAST(:ids AS uuid[]))"), _ids,
                                {"blocked": "AND (t.state = 1 OR t.id = ANY (v_again))"},
                                function="start_released"),
    "stop_unneeded": Statement(
        "stop", Sql("SELECT {s}.stop_unneeded(CAST(:ids AS uuid[]), CAST(:ends AS int[]))"), _ids,
        {"blocked": " AND t.state = 1"}, function="stop_unneeded",
    ),
}  # fmt: skip


# comparing ------------------------------------------------------------------------------------------------------------


class _Undo(Exception):
    """Ends a transaction without keeping anything."""


def disagreements(steps: Protocol, statement: Statement, batch: Batch, without: str = "") -> Iterator[Case]:
    """The cases in which statement and table differ; ``without`` these texts of the statement."""
    for variant in statement.variants:
        varied = batch._replace(cases=[_varied(case, variant) for case in batch.cases])
        changed = set[int]()
        with suppress(_Undo), steps.connection.transaction():
            sql = _cut(steps, statement, without)
            _arrange(steps, variant, batch)
            changed = _changed(steps, statement, sql, varied)
            raise _Undo
        for n, case in enumerate(varied.cases):
            if (n in changed) != allowed(statement.move, *case):
                yield case


def _varied(case: Case, variant: Mapping[str, bool]) -> Case:
    if "waits" in variant:
        return Case(case.row._replace(remaining=1), case.ask)
    return Case(case.row, case.ask._replace(**variant))


def _cut(steps: Protocol, statement: Statement, without: str) -> Sql:
    if not without:
        return statement.sql
    text = statement.sql.text
    if statement.function:
        [(text,)] = steps.sql("SELECT pg_get_functiondef(%s::regproc)", f"dispatcher.{statement.function}")
    for part in without.split("|"):
        assert part.strip() in text, f"{part!r} is not in the statement any more"
        text = text.replace(part.strip(), "")
    if not statement.function:
        return Sql(text)
    steps.sql(text)
    return statement.sql


def _arrange(steps: Protocol, variant: Mapping[str, bool], batch: Batch) -> None:
    if variant.get("paused"):
        steps.pause(QUEUE)
    if not variant.get("session_lives", True):
        steps.expire(batch.session)
    if variant.get("waits"):
        steps.sql("UPDATE dispatcher.tasks SET flags = flags | 32 WHERE id = ANY (%s)", batch.ids)
        steps.sql(
            "INSERT INTO dispatcher.joins (node_id, shard, is_flow, remaining) SELECT unnest(%s::uuid[]), 0, false, 1",
            batch.ids,
        )


def _changed(steps: Protocol, statement: Statement, sql: Sql, batch: Batch) -> set[int]:
    before = _read(steps)
    moved = statement.run(steps, sql, batch)
    if moved is not None:
        return {n for n, task in enumerate(batch.ids) if task in set(moved)}
    after = _read(steps)
    return {n for n, task in enumerate(batch.ids) if after[task] != before[task]}


def _read(steps: Protocol) -> dict[UUID, Any]:
    """What a move changes: not the flags, which a request for cancel sets in a row that stays where it is."""
    return dict(steps.sql("SELECT id, (state, attempt, dispatch, tries, seq) FROM dispatcher.tasks"))
