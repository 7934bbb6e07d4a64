"""What worker and child process say to each other: a JSON head and a body of bytes, each with its length before it."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any, TypeAlias

__all__ = ["Frame", "packed", "read", "receive"]

Frame: TypeAlias = tuple[dict[str, Any], bytes]
_SIZES = struct.Struct("!II")


def packed(head: dict[str, Any], body: bytes = b"") -> bytes:
    """One frame."""
    text = json.dumps(head).encode()
    return _SIZES.pack(len(text), len(body)) + text + body


async def read(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; ``None``: the other side is gone."""
    try:
        head, body = _SIZES.unpack(await reader.readexactly(_SIZES.size))
        return json.loads(await reader.readexactly(head)), await reader.readexactly(body)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def receive(channel: socket.socket) -> Frame | None:
    """The same without an event loop."""
    sizes = _exactly(channel, _SIZES.size)
    if sizes is None:
        return None
    head, body = (_exactly(channel, size) for size in _SIZES.unpack(sizes))
    return None if head is None or body is None else (json.loads(head), body)


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            part = channel.recv(size - len(data))
        except ConnectionError:
            return None
        if not part:
            return None
        data += part
    return bytes(data)
