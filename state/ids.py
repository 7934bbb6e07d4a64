"""Task ids: UUID version 7, made by the client, so that creating a task needs no round trip.

Layout and the monotonic counter follow RFC 9562 section 5.7 and section 6.2 method 1: 48 bits of Unix
milliseconds, then a 12-bit counter that starts at a random value in each millisecond, then 62 random bits.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, SafeUUID

__all__ = ["created_at", "first_id_at", "id_from", "new_id", "new_ids"]

_VERSION = 0x7 << 12
_VARIANT = 0x2 << 62
_RANDOM_MASK = (1 << 62) - 1
_new = object.__new__
_slots: Mapping[str, Any] = vars(UUID)
_set_int, _set_safety = _slots["int"].__set__, _slots["is_safe"].__set__
_UNKNOWN = SafeUUID.unknown  # reading a member of an enumeration takes as long as all the rest
_lock = threading.Lock()
_last_tick = 0


def _after_fork() -> None:
    """A child must not share the parent's lock state; its random bits differ anyway."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def new_ids(count: int) -> list[UUID]:
    """``count`` new ids in rising order, also across calls and threads of this process."""
    global _last_tick
    random = os.urandom(8 * count + 2)
    # 11 random bits leave room to count upwards inside the 12-bit field before borrowing from the next millisecond
    start = (time.time_ns() // 1_000_000) << 12 | (int.from_bytes(random[:2], "big") & 0x7FF)
    with _lock:
        tick = max(start, _last_tick + 1)
        _last_tick = tick + count
    tails = struct.unpack_from(f">{count}Q", random, 2)
    return [
        id_from(((tick_i >> 12) << 16 | _VERSION | tick_i & 0xFFF) << 64 | _VARIANT | tail & _RANDOM_MASK)
        for tick_i, tail in enumerate(tails, tick)
    ]


def id_from(value: int) -> UUID:
    """``UUID(int=value)`` in a third of the time: its constructor first finds out which form it was given."""
    made = _new(UUID)
    _set_int(made, value)
    _set_safety(made, _UNKNOWN)
    return made


def new_id() -> UUID:
    """One new id; sorts after every id this process made before."""
    return new_ids(1)[0]


def created_at(task_id: UUID) -> datetime:
    """The creation time that an id carries, in UTC, to the millisecond."""
    return datetime.fromtimestamp((task_id.int >> 80) / 1000, UTC)


def first_id_at(moment: datetime) -> UUID:
    """The smallest id of that millisecond: a bound for listing by time.  ``moment`` needs a time zone."""
    if moment.tzinfo is None:
        raise ValueError("moment has no time zone; pass an aware datetime")
    return UUID(int=int(moment.timestamp() * 1000) << 80 | _VERSION << 64 | _VARIANT)
