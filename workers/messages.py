"""A message of the stream in the hands of a worker: one delivery, that wakes one task or several.

It is acknowledged when everything in it is decided.  When one of its tasks cannot be run here the whole message goes
back at once: whoever gets it next finds the others claimed or ended, which the guard of the claim tells it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from dispatcher.bus import Bus

__all__ = ["Held", "Parcel", "acknowledge", "give_back"]


@dataclass(slots=True, eq=False)
class Parcel:
    """One delivery."""

    reply: str
    """Where to acknowledge it; empty for a hint, a message past the stream that nobody waits for."""
    subject: str
    received_at: float
    """By the monotonic clock."""
    open: int = 1
    """Tasks in it that are not decided yet."""
    gone: bool = False
    """Given back: whoever has it now acknowledges it."""
    shown_at: float = 0.0
    """When the server was last told that it is worked on."""

    @property
    def parcels(self) -> tuple[Parcel, ...]:
        """Itself: it may be given back as it came."""
        return (self,)


class Held(Protocol):
    """Whatever came with messages."""

    @property
    def parcels(self) -> tuple[Parcel, ...]:
        """The messages that it came with."""


async def acknowledge(bus: Bus, decided: Iterable[Held]) -> None:
    """These are decided: acknowledge each message of which nothing is open any more."""
    replies = []
    for held in decided:
        for parcel in held.parcels:
            parcel.open -= 1
            if parcel.open == 0 and not parcel.gone and parcel.reply:
                replies.append(parcel.reply)
    await bus.ack(replies)


async def give_back(bus: Bus, refused: Iterable[Held], delay: float) -> None:
    """Let their messages come again, to any worker, after ``delay`` seconds."""
    replies = []
    for held in refused:
        for parcel in held.parcels:
            if not parcel.gone:
                parcel.gone = True
                if parcel.reply:
                    replies.append(parcel.reply)
    await bus.nak(replies, delay)
