"""From facts to causes: every reason that holds, the nearest to the task first.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from dispatcher.explain.answer import Cause, Code, Explanation
from dispatcher.explain.facts import Facts, Live
from dispatcher.explain.places import broker_causes, queued_causes, relay_causes, running_causes
from dispatcher.task_info import Progress
from state.ids import created_at
from state.machine import State

__all__ = ["explanation"]

_OVERDUE = timedelta(seconds=1)


def explanation(facts: Facts, live: Live | None) -> Explanation:
    """What the facts say; ``live`` is ``None`` when only the database was asked."""
    asked = live is not None and live.error is None
    if facts.row is None:
        return Explanation(facts.id, None, asked, (_absent(facts),))
    causes = tuple(_CAUSES[facts.state](facts, facts.row, live))
    return Explanation(facts.id, facts.state.label, asked, causes)


def _absent(facts: Facts) -> Cause:
    shown: dict[str, Any] = {"open_transactions": list(facts.writers)}
    if facts.id.version == 7:
        shown["id_made_at"] = created_at(facts.id)
    if not facts.writers:
        return Cause(
            Code.UNKNOWN, "no task with this id: it was never created, its transaction was rolled back, or it was"
            " deleted", facts=shown, cure="compare the id with what enqueue returned; see the table deletions",
        )  # fmt: skip
    one = facts.writers[0]
    return Cause(
        Code.NOT_COMMITTED, f"no committed task has this id; {len(facts.writers)} open transactions have written tasks"
        f" and one of them may hold it, the oldest is process {one['pid']} ({one['program'] or 'unnamed'})",
        since=one["since"], facts=shown, cure="commit the transaction that created it",
    )  # fmt: skip


def _blocked(facts: Facts, row: Mapping[str, Any], live: Live | None) -> Iterator[Cause]:
    ids = [str(id) for id in row["waits_for"]]
    text = f"it waits for other tasks or flows to end: {', '.join(ids)}" if ids else "it waits for other tasks to end"
    yield Cause(Code.BLOCKED, text, row["moved_at"], {"waits_for": ids})


def _waits(facts: Facts, row: Mapping[str, Any], live: Live | None) -> Iterator[Cause]:
    due, now = row["due_at"], row["now"]
    in_seconds = round((due - now).total_seconds(), 3)
    when = f"due at {_time(due)}" + (f", in {in_seconds:.0f} s" if in_seconds > 0 else "")
    known: dict[str, Any] = {"due_at": due, "seconds": in_seconds, "reason": facts.reason}
    if facts.state is State.RETRYING:
        known |= {"error": _error(row), "tries": row["tries"], "max_attempts": row["max_attempts"]}
        text = f"try {row['tries']} of {row['max_attempts']} failed ({_error(row) or facts.reason}); the next one is"
        yield Cause(Code.WAITING_FOR_RETRY, f"{text} {when}", row["moved_at"], known)
    else:
        why = {"snoozed": "its handler asked for a later start, ", "released": "a worker gave it back for later, "}
        text = why.get(facts.reason or "", "it was created for a later time, ")
        yield Cause(Code.WAITING_FOR_TIME, text + when, row["moved_at"], known)
    if now - due > _OVERDUE:
        yield from relay_causes(facts, live)
        yield from broker_causes(live)


def _queued(facts: Facts, row: Mapping[str, Any], live: Live | None) -> Iterator[Cause]:
    if row["expires_at"] is not None and row["expires_at"] <= row["now"]:
        yield Cause(
            Code.EXPIRED, "its expiry has passed before anybody started it; the leading relay ends it as failed",
            since=row["expires_at"],
        )  # fmt: skip
    yield from queued_causes(facts, row, live)


def _running(facts: Facts, row: Mapping[str, Any], live: Live | None) -> Iterator[Cause]:
    known: dict[str, Any] = {
        "worker": row["worker"], "attempt": row["attempt"], "tries": row["tries"], "max_attempts": row["max_attempts"],
        "lease_until": row["lease_until"],
    }  # fmt: skip
    text = f"worker {row['worker']} runs it, try {row['tries']} of {row['max_attempts']}"
    if row["progress"] is not None:
        fraction, message, at = row["progress"]
        known["progress"] = Progress(fraction, message, datetime.fromtimestamp(at, UTC))
        text += f", progress {fraction:.0%}" + (f" ({message})" if message else "")
    yield Cause(Code.RUNNING, text, row["started_at"], known)
    if facts.is_cancel_requested:
        yield Cause(
            Code.CANCEL_REQUESTED, "somebody asked it to stop; it ends as cancelled unless it succeeds first",
            cure="a plain function in a thread must look at context().cancelled",
        )  # fmt: skip
    yield from running_causes(facts, row, live)


def _ended(facts: Facts, row: Mapping[str, Any], live: Live | None) -> Iterator[Cause]:
    known: dict[str, Any] = {"reason": facts.reason, "tries": row["tries"]}
    if facts.state is State.SUCCEEDED:
        yield Cause(Code.SUCCEEDED, f"it has succeeded at try {row['tries']}", row["finished_at"], known)
        return
    known |= {"error": _error(row), "by": row["actor"]}
    by = f" by {row['actor']}" if row["actor"] else ""
    error = f": {_error(row)}" if _error(row) else ""
    if facts.state is State.FAILED:
        text = f"it has failed ({facts.reason}) after {row['tries']} of {row['max_attempts']} tries{error}"
        cure = f"run it again: dispatcher tasks retry {facts.id}"
        yield Cause(Code.FAILED, text, row["finished_at"], known, cure)
    else:
        text = f"it was cancelled ({facts.reason}){by}{error}"
        cure = f"run it after all: dispatcher tasks retry {facts.id}"
        yield Cause(Code.CANCELLED, text, row["finished_at"], known, cure)


def _error(row: Mapping[str, Any]) -> str | None:
    detail = row["detail"]
    if isinstance(detail, dict) and "message" in detail:
        return f"{detail['type']}: {detail['message']}" if detail.get("type") else str(detail["message"])
    return None if row["error"] is None else str(row["error"])


def _time(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


_CAUSES = {
    State.BLOCKED: _blocked,
    State.SCHEDULED: _waits,
    State.QUEUED: _queued,
    State.RUNNING: _running,
    State.RETRYING: _waits,
    State.SUCCEEDED: _ended,
    State.FAILED: _ended,
    State.CANCELLED: _ended,
}
