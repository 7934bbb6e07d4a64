"""The message on the stream: references to attempts of tasks, never their arguments.  Pure.

Version 1: version byte 1, then for each task 16 bytes task id, 4 bytes attempt, 4 bytes dispatch number, big endian.
As a rule it is one task; of a deep backlog of short tasks several travel in one message (``dispatcher.relay.flow``).
A message that is not of a known version is quarantined by the worker, never guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from hashlib import blake2b
from struct import Struct, error
from typing import NamedTuple
from uuid import UUID

from state.ids import id_from

__all__ = [
    "Reference",
    "decode",
    "decode_cancel",
    "decode_settled",
    "encode",
    "encode_all",
    "encode_cancel",
    "encode_settled",
    "message_id",
    "message_id_of_all",
    "parse_time",
]

_VERSION = b"\x01"
_REFERENCE = Struct(">16sII")
_SETTLED = Struct(">16sB")
_CANCEL = Struct(">16sI")


class Reference(NamedTuple):
    """Which attempt of which task a message wants to be run."""

    task_id: UUID
    attempt: int
    dispatch: int


def encode(task_id: UUID, attempt: int, dispatch: int) -> bytes:
    """The message body for one task."""
    return _VERSION + _REFERENCE.pack(task_id.bytes, attempt, dispatch)


def encode_all(references: Iterable[tuple[UUID, int, int]]) -> bytes:
    """The message body for several tasks."""
    pack = _REFERENCE.pack
    return _VERSION + b"".join([pack(task_id.bytes, attempt, dispatch) for task_id, attempt, dispatch in references])


def decode(body: bytes) -> list[Reference]:
    """Read a message body: at least one reference.  Raises ``ValueError`` if it is not one of ours."""
    number = int.from_bytes
    try:
        found = [
            Reference(id_from(number(id, "big")), attempt, dispatch)
            for id, attempt, dispatch in _REFERENCE.iter_unpack(body[1:])
        ]
    except error:
        raise ValueError(f"{len(body)} bytes instead of {1 + _REFERENCE.size}") from None
    if body[:1] != _VERSION or not found:
        raise ValueError(f"unknown message version {body[0]}" if body[1:] else f"{len(body)} bytes are no message")
    return found


def message_id(task_id: UUID, attempt: int, dispatch: int) -> str:
    """The deduplication id: the same only for a true repeat of one dispatch."""
    return f"{task_id.hex}:{attempt}:{dispatch}"


def message_id_of_all(body: bytes) -> str:
    """The same for the body of several: only the very same ones are a repeat.

    An id that named the first of them only would let the server drop, as a repeat, a message whose others are new.
    """
    return blake2b(body, digest_size=16).hexdigest()


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
