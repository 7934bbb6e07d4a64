"""The moves of the database: each takes the rows and returns the rows after one statement, the same ones if refused.

Rules that are no row guard can be dropped by name too: ``settle.cancel wins``, ``rescue.cancel wins``,
``cancel.timer``, ``cancel.parked``, ``retry.new message``, ``retry.timer``, ``leave.new attempt``,
``rescue.new attempt``, ``rescue.tries``, ``settle.trims its claim``, ``release.in the same commit``, ``release.failure
does not count``, ``relay.keeps what is needed``.
"""

from __future__ import annotations

from state.machine import FINAL, State
from state.protocol.guards import NONE, Dropped, allowed
from state.protocol.rows import Ask, Db, Message, Row

__all__ = [
    "cancel", "claim", "commit_drain", "end_lease", "expire", "forget", "leave", "open_session", "park", "promote",
    "reconcile", "release", "renew", "rescue", "retry", "succeed", "unpark",
]  # fmt: skip


def _put(db: Db, task: int, row: Row, send: bool = False, dropped: Dropped = NONE) -> Db:
    """Write the row, the message that its being queued needs, and what its end means for others."""
    ends = row.feeds and row.state in FINAL and db.tasks[task].state not in FINAL
    db = db._replace(tasks=(*db.tasks[:task], row, *db.tasks[task + 1 :]))
    if send:
        db = db._replace(outbox=db.outbox | {(task, row.attempt, row.dispatch)})
    return release(db, task, dropped) if ends and "release.in the same commit" not in dropped else db


def release(db: Db, parent: int, dropped: Dropped = NONE) -> Db:
    """A task has ended: who waited for its success goes on when it was the last one, and fails if there is none."""
    good = db.tasks[parent].state is State.SUCCEEDED
    for child in db.tasks[parent].feeds:
        row = db.tasks[child]
        if good or "release.failure does not count" in dropped:
            row = row._replace(remaining=row.remaining - 1)
            db = db._replace(tasks=(*db.tasks[:child], row, *db.tasks[child + 1 :]))
        if good and row.remaining == 0 and allowed("release", row, Ask(), dropped):
            again = row.state is not State.BLOCKED
            row = row._replace(
                state=State.QUEUED, in_vain=False, generation=row.generation + again, attempt=row.attempt + again,
                dispatch=row.dispatch + again, tries=0, cancel=False, session=0,
            )  # fmt: skip
            db = _put(db, child, row, send=True)
        elif not good and allowed("stop", row, Ask(), dropped):
            db = _put(db, child, row._replace(state=State.FAILED, in_vain=True, session=0), dropped=dropped)
    return db


def _trim(db: Db, held: tuple[int, int, int], dropped: Dropped) -> Db:
    """The claim may go with the last outcome of its batch; until then the claims are a superset of what runs."""
    return db if "settle.trims its claim" in dropped else db._replace(claims=db.claims - {held})


def open_session(db: Db, session: int) -> Db:
    """A worker begins a busy period."""
    return db._replace(sessions=db.sessions | {(session, False)})


def renew(db: Db, session: int) -> Db:
    """An expired lease that nobody rescued goes on; a rescued one is not revived."""
    if (session, True) not in db.sessions:
        return db
    return db._replace(sessions=(db.sessions - {(session, True)}) | {(session, False)})


def end_lease(db: Db, session: int) -> Db:
    """Its time is over."""
    if (session, False) not in db.sessions:
        return db
    return db._replace(sessions=(db.sessions - {(session, False)}) | {(session, True)})


def claim(db: Db, task: int, attempt: int, session: int, knows: bool = True, dropped: Dropped = NONE) -> Db:
    """A session takes the right to run one attempt; consumes a try."""
    row = db.tasks[task]
    ask = Ask(attempt, session, knows_type=knows, session_lives=(session, False) in db.sessions, paused=db.paused)
    if not allowed("claim", row, ask, dropped):
        return db
    row = row._replace(state=State.RUNNING, session=session, tries=row.tries + 1)
    return _put(db, task, row)._replace(claims=db.claims | {(session, task, row.attempt)})


def succeed(db: Db, task: int, attempt: int, session: int, dropped: Dropped = NONE) -> Db:
    """The handler returned."""
    row = db.tasks[task]
    if not allowed("settle", row, Ask(attempt, session), dropped):
        return db
    db = _trim(db, (session, task, attempt), dropped)
    return _put(db, task, row._replace(state=State.SUCCEEDED, session=0), dropped=dropped)


def leave(db: Db, task: int, attempt: int, session: int, wanted: State, refund: int = 0, dropped: Dropped = NONE) -> Db:
    """Every other exit from running: to ``cancelled`` if cancel was asked, to ``failed`` without a try for a retry."""
    row = db.tasks[task]
    if not allowed("settle", row, Ask(attempt, session), dropped):
        return db
    if row.cancel and "settle.cancel wins" not in dropped:
        goal = State.CANCELLED
    elif wanted is State.RETRYING and row.tries >= row.max_tries:
        goal = State.FAILED
    else:
        goal = wanted
    db = _trim(db, (session, task, attempt), dropped)
    row = row._replace(state=goal, session=0)
    if goal in (State.QUEUED, State.SCHEDULED, State.RETRYING):
        row = row._replace(tries=row.tries - refund, attempt=row.attempt + ("leave.new attempt" not in dropped))
        row = row._replace(timer=row.timer if goal is State.QUEUED else row.attempt)
    return _put(db, task, row, send=goal is State.QUEUED, dropped=dropped)


def rescue(db: Db, session: int, dropped: Dropped = NONE) -> Db:
    """Delete a session whose lease ended and give back what it held; a crash consumes its try."""
    ended = (session, True) in db.sessions
    if not ended and "rescue.lease ended" not in dropped:
        return db
    for holder, task, attempt in sorted(db.claims):
        if holder == session:
            db = _give_back(db, task, Ask(attempt, session, session_ended=ended), dropped)
    kept = frozenset(held for held in db.claims if held[0] != session)
    return db._replace(sessions=db.sessions - {(session, True), (session, False)}, claims=kept)


def _give_back(db: Db, task: int, ask: Ask, dropped: Dropped) -> Db:
    row = db.tasks[task]
    if not allowed("rescue", row, ask, dropped):
        return db
    if row.cancel and "rescue.cancel wins" not in dropped:
        goal = State.CANCELLED
    elif row.tries >= row.max_tries and "rescue.tries" not in dropped:
        goal = State.FAILED
    else:
        goal = State.QUEUED
    new = goal is State.QUEUED and "rescue.new attempt" not in dropped
    row = row._replace(state=goal, session=0, attempt=row.attempt + new)
    return _put(db, task, row, send=goal is State.QUEUED, dropped=dropped)


def promote(db: Db, task: int, dropped: Dropped = NONE) -> Db:
    """A due timer goes; its task is queued if it still waits for it."""
    row = db.tasks[task]
    if not row.timer:
        return db
    goes = allowed("timer", row, Ask(row.timer), dropped)
    row = row._replace(timer=0, state=State.QUEUED if goes else row.state, session=0 if goes else row.session)
    return _put(db, task, row, send=goes)


def expire(db: Db, task: int, attempt: int, dropped: Dropped = NONE) -> Db:
    """Nobody started it in time."""
    row = db.tasks[task]
    if not allowed("expire", row, Ask(attempt), dropped):
        return db
    return _put(db, task, row._replace(state=State.FAILED, timer=0, parked=0, session=0), dropped=dropped)


def reconcile(db: Db, entry: Message, dropped: Dropped = NONE) -> Db:
    """One entry of the log whose message is gone: send it again with the next dispatch if it is still waited for."""
    task, attempt, dispatch = entry
    row = db.tasks[task]
    db = db._replace(log=db.log - {entry})
    if not allowed("reconcile", row, Ask(attempt, dispatch=dispatch), dropped):
        return db
    return _put(db, task, row._replace(dispatch=row.dispatch + 1), send=True)


def park(db: Db, task: int, attempt: int, dropped: Dropped = NONE) -> Db:
    """The queue is paused: the task needs no message for the time being."""
    row = db.tasks[task]
    if not allowed("park", row, Ask(attempt, paused=db.paused), dropped):
        return db
    return _put(db, task, row._replace(parked=attempt))


def unpark(db: Db, task: int, dropped: Dropped = NONE) -> Db:
    """The pause is over: away with the parking place, and a new message if the task still waits in it."""
    row = db.tasks[task]
    if not row.parked or db.paused:
        return db
    goes = allowed("unpark", row, Ask(row.parked, paused=db.paused), dropped)
    return _put(db, task, row._replace(parked=0, dispatch=row.dispatch + goes), send=goes)


def cancel(db: Db, task: int, dropped: Dropped = NONE) -> tuple[Db, str]:
    """A waiting task ends, a running one gets its flag; what the person is told: ``cancelled`` only if it is true."""
    row = db.tasks[task]
    if allowed("cancel", row, Ask(), dropped):
        timer = row.timer if "cancel.timer" in dropped else 0
        parked = row.parked if "cancel.parked" in dropped else 0
        row = row._replace(state=State.CANCELLED, timer=timer, parked=parked, session=0)
        return _put(db, task, row, dropped=dropped), "cancelled"
    if allowed("cancel running", row, Ask(), dropped):
        return _put(db, task, row._replace(cancel=True)), "cancel_requested"
    return db, "cancelled" if row.state is State.CANCELLED else "too_late"


def retry(db: Db, task: int, dropped: Dropped = NONE) -> Db:
    """A person's retry: a new generation, nothing consumed, and a message that no older one resembles."""
    row = db.tasks[task]
    if not allowed("retry", row, Ask(), dropped):
        return db
    new = "retry.new message" not in dropped
    row = row._replace(
        state=State.QUEUED, generation=row.generation + 1, attempt=row.attempt + 1 if new else 1,
        dispatch=row.dispatch + 1 if new else 1, tries=0, cancel=False, expired=False, session=0, in_vain=False,
        timer=row.timer if "retry.timer" in dropped else 0,
    )  # fmt: skip
    return _put(db, task, row, send=True)


def commit_drain(db: Db, message: Message) -> Db:
    """The relay's commit: the outbox row is gone and the dispatch is logged."""
    return db._replace(outbox=db.outbox - {message}, log=db.log | {message})


def forget(db: Db, message: Message, dropped: Dropped = NONE) -> Db:
    """The relay drops an entry that nobody waits for: its task was claimed meanwhile, or is over."""
    task, attempt, _ = message
    row = db.tasks[task]
    needed = row.state is State.QUEUED and row.attempt == attempt
    if message not in db.outbox or (needed and "relay.keeps what is needed" not in dropped):
        return db
    return db._replace(outbox=db.outbox - {message})
