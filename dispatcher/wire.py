"""The message on the stream: a reference to one attempt of one task, never its arguments.  Pure.

Version 1, 25 bytes: version byte 1, 16 bytes task id, 4 bytes attempt, 4 bytes dispatch number, big endian.
A message that is not of a known version is quarantined by the worker, never guessed at.
"""

from __future__ import annotations

from datetime import datetime
from struct import Struct, error
from typing import NamedTuple
from uuid import UUID

__all__ = [
    "Reference",
    "decode",
    "decode_cancel",
    "decode_settled",
    "encode",
    "encode_cancel",
    "encode_settled",
    "message_id",
    "parse_time",
]

_V1 = Struct(">B16sII")
_SETTLED = Struct(">16sB")
_CANCEL = Struct(">16sI")


class Reference(NamedTuple):
    """Which attempt of which task a message wants to be run."""

    task_id: UUID
    attempt: int
    dispatch: int


def encode(task_id: UUID, attempt: int, dispatch: int) -> bytes:
    """The message body."""
    return _V1.pack(1, task_id.bytes, attempt, dispatch)


def decode(body: bytes) -> Reference:
    """Read a message body.  Raises ``ValueError`` if it is not one of ours."""
    try:
        version, task_id, attempt, dispatch = _V1.unpack(body)
    except error:
        raise ValueError(f"{len(body)} bytes instead of {_V1.size}") from None
    if version != 1:
        raise ValueError(f"unknown message version {version}")
    return Reference(UUID(bytes=task_id), attempt, dispatch)


def message_id(task_id: UUID, attempt: int, dispatch: int) -> str:
    """The deduplication id: the same only for a true repeat of one dispatch."""
    return f"{task_id.hex}:{attempt}:{dispatch}"


def encode_settled(ended: list[tuple[UUID, int]]) -> bytes:
    """Ids and final states of tasks that just ended, one message per batch."""
    return b"".join([_SETTLED.pack(task_id.bytes, state) for task_id, state in ended])


def decode_settled(body: bytes) -> list[tuple[UUID, int]]:
    """The reverse of :func:`encode_settled`; raises ``ValueError`` on foreign bytes."""
    if len(body) % _SETTLED.size:
        raise ValueError("not a list of settled tasks")
    return [(UUID(bytes=task_id), state) for task_id, state in _SETTLED.iter_unpack(body)]


def encode_cancel(requests: list[tuple[UUID, int]]) -> bytes:
    """Attempts that were asked to stop."""
    return b"".join([_CANCEL.pack(task_id.bytes, attempt) for task_id, attempt in requests])


def decode_cancel(body: bytes) -> list[tuple[UUID, int]]:
    """The reverse of :func:`encode_cancel`; raises ``ValueError`` on foreign bytes."""
    if len(body) % _CANCEL.size:
        raise ValueError("not a list of cancel requests")
    return [(UUID(bytes=task_id), attempt) for task_id, attempt in _CANCEL.iter_unpack(body)]


def parse_time(text: str) -> datetime:
    """RFC 3339 with nanoseconds, as the server writes it."""
    head, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{(fraction or '0')[:6]:0<6}+00:00")
