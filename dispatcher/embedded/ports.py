"""Free ports on the loopback interface."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from pathlib import Path

from dispatcher.embedded.errors import EmbeddedError

__all__ = ["HOST", "free_port", "is_free"]

HOST = "127.0.0.1"
_LOWEST = 10240
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(wished: int | None = None, avoid: Collection[int] = ()) -> int:
    """A port nobody uses now: the wished one (from the last start) if it is free, otherwise a random one.

    Below the range of outgoing connections: while a server restarts, a client that reconnects would otherwise be able
    to take the server's port as its own, or even to connect to itself.
    """
    if wished is not None and wished not in avoid and is_free(wished):
        return wished
    top = _first_outgoing()
    for _ in range(200):
        port = random.randrange(_LOWEST, top)
        if port not in avoid and is_free(port):
            return port
    raise EmbeddedError(f"no free port on {HOST} between {_LOWEST} and {top}")


def is_free(port: int) -> bool:
    """Whether a server could listen there at this moment."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
        return True


def _first_outgoing() -> int:
    try:
        first = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
    return first if first > _LOWEST + 1000 else 65536
