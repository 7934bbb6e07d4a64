"""How long finished tasks are kept: what streams.conf says for the queue, else the settings.  Pure."""

from __future__ import annotations

from datetime import timedelta

from dispatcher.settings import Settings
from dispatcher.streams.config import StreamsConfig
from dispatcher.streams.units import FOREVER
from state.machine import State

__all__ = ["KEPT", "keep", "longest"]

KEPT = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


def keep(settings: Settings, streams: StreamsConfig, queue: str, state: State) -> float | None:
    """Seconds that finished tasks of a queue are kept after their end; ``None``: for ever."""
    field = f"keep_{state.label}"
    said: timedelta | None = getattr(streams.queue(queue), field)
    time: timedelta = getattr(settings, field) if said is None else said
    return None if time == FOREVER else time.total_seconds()


def longest(settings: Settings, streams: StreamsConfig, queues: list[str]) -> float | None:
    """The longest of all these times; ``None`` when some tasks are kept for ever."""
    times = [keep(settings, streams, queue, state) for queue in queues for state in KEPT]
    return None if not times or None in times else max(time for time in times if time is not None)
