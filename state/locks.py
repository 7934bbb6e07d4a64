"""Advisory lock keys: who may sleep, who leads.  Two 32-bit numbers, the first made from the schema's name."""

from __future__ import annotations

from zlib import crc32

__all__ = ["FULL_RECONCILE", "LEADER", "MIGRATE", "SLEEP", "advisory_key"]

SLEEP = 1
"""Held exclusively by the leader while it sleeps; writers try to share it and notify when they cannot."""
LEADER = 2
"""Held by the one relay that leads."""
FULL_RECONCILE = 3
"""Shared by every open drain; taken exclusively by a full reconcile."""
MIGRATE = 4
"""Held while the schema is changed."""


def advisory_key(schema: str, purpose: int) -> tuple[int, int]:
    """The two-part key of one purpose for one installation (one schema of one database)."""
    unsigned = crc32(f"jetstream-dispatcher:{schema}".encode())
    return unsigned - (1 << 32) if unsigned >= 1 << 31 else unsigned, purpose
