"""The guards, one table: a move happens if and only if every predicate of its line holds.

The model checker explores the moves under this table, and the statements of ``state`` are compared with it case by
case, so it is the one place that says who may write what.  ``dropped`` names guards that are left out on purpose: the
checker proves with it that each is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from state.machine import State
from state.protocol.rows import Ask, Row

__all__ = ["GUARDS", "NONE", "Dropped", "Guard", "allowed"]

Guard = Callable[[Row, Ask], bool]
Dropped = frozenset[str]
NONE: Dropped = frozenset()


def _state(*states: State) -> Guard:
    return lambda row, _: row.state in states


def _attempt(row: Row, ask: Ask) -> bool:
    return row.attempt == ask.attempt


def _session(row: Row, ask: Ask) -> bool:
    return row.session == ask.session


def _dispatch(row: Row, ask: Ask) -> bool:
    return row.dispatch == ask.dispatch


_WAITING = (State.BLOCKED, State.SCHEDULED, State.QUEUED, State.RETRYING)

GUARDS: Mapping[str, Mapping[str, Guard]] = MappingProxyType(
    {
        "claim": {
            "queued": _state(State.QUEUED),
            "attempt": _attempt,
            "no cancel": lambda row, _: not row.cancel,
            "tries left": lambda row, _: row.tries < row.max_tries,
            "not expired": lambda row, _: not row.expired,
            "type known": lambda _, ask: ask.knows_type,
            "not paused": lambda _, ask: not ask.paused,
            "session lives": lambda _, ask: ask.session_lives,
        },
        "settle": {"running": _state(State.RUNNING), "attempt": _attempt, "session": _session},
        "suspend": {  # a handler that waits for a flow it has made: running -> blocked
            "running": _state(State.RUNNING),
            "attempt": _attempt,
            "session": _session,
            "no cancel": lambda row, _: not row.cancel,
        },
        "adopt": {"running": _state(State.RUNNING), "attempt": _attempt, "session": _session},
        "rescue": {
            "lease ended": lambda _, ask: ask.session_ended,
            "running": _state(State.RUNNING),
            "session": _session,
            "attempt": _attempt,
        },
        "timer": {"waiting": _state(State.SCHEDULED, State.RETRYING), "attempt": _attempt},
        "expire": {
            "waiting": _state(State.SCHEDULED, State.QUEUED, State.RETRYING),
            "attempt": _attempt,
            "expired": lambda row, _: row.expired,
        },
        "reconcile": {
            "queued": _state(State.QUEUED),
            "attempt": _attempt,
            "dispatch": _dispatch,
            "not parked": lambda row, _: not row.parked,
        },
        "park": {"queued": _state(State.QUEUED), "attempt": _attempt, "paused": lambda _, ask: ask.paused},
        "unpark": {
            "queued": _state(State.QUEUED),
            "attempt": _attempt,
            "not paused": lambda _, ask: not ask.paused,
        },
        "cancel": {"waiting": _state(*_WAITING)},
        "cancel running": {"running": _state(State.RUNNING)},
        # what the end of others does, in its own commit
        "release": {"blocked": lambda row, _: row.state is State.BLOCKED or row.in_vain},
        "stop": {"blocked": _state(State.BLOCKED)},
        "retry": {
            "ended without success": _state(State.FAILED, State.CANCELLED),
            "waits for nobody": lambda row, _: row.remaining == 0,
        },
    }
)


def allowed(move: str, row: Row, ask: Ask, dropped: Dropped = NONE) -> bool:
    """Whether ``row`` may make ``move``, with the guards named in ``dropped`` (``"move.guard"``) left out."""
    return all(f"{move}.{name}" in dropped or guard(row, ask) for name, guard in GUARDS[move].items())
