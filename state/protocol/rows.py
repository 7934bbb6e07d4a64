"""The database's rows as the protocol sees them: immutable, comparable, without times."""

from __future__ import annotations

from typing import NamedTuple

from state.machine import State

__all__ = ["Ask", "Db", "Message", "Row"]

Message = tuple[int, int, int]
"""(task, attempt, dispatch): an outbox row, an entry of the dispatch log, or a message on the stream."""


class Row(NamedTuple):
    """One task, with what its side tables say about it."""

    state: State = State.QUEUED
    attempt: int = 1
    dispatch: int = 1
    tries: int = 0
    max_tries: int = 1
    generation: int = 1
    cancel: bool = False
    """Cancel was requested while it ran."""
    session: int = 0
    """Who runs it; 0 unless running."""
    timer: int = 0
    """The attempt its start timer names; 0: it has none."""
    parked: int = 0
    """The attempt its parking place names; 0: it has none."""
    expired: bool = False
    """Its time to start is over."""
    feeds: tuple[int, ...] = ()
    """The tasks that wait for its success."""
    remaining: int = 0
    """How many it still waits for itself."""
    in_vain: bool = False
    """Failed because one of those did not succeed; it begins again when all have."""


class Db(NamedTuple):
    """Everything the statements read and write."""

    tasks: tuple[Row, ...]
    outbox: frozenset[Message] = frozenset()
    log: frozenset[Message] = frozenset()
    """Dispatches that were committed and not yet trimmed."""
    sessions: frozenset[tuple[int, bool]] = frozenset()
    """(session, its lease has ended)."""
    claims: frozenset[tuple[int, int, int]] = frozenset()
    """(session, task, attempt): a superset of what runs."""
    paused: bool = False


class Ask(NamedTuple):
    """What a statement names when it asks for a move."""

    attempt: int = 0
    session: int = 0
    dispatch: int = 0
    knows_type: bool = True
    session_lives: bool = True
    session_ended: bool = True
    paused: bool = False
