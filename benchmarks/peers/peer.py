"""What a system of the comparison tells about itself and can be asked to do; one file in ``systems`` each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["DATABASE_URL", "NATS_URL", "PAYLOAD", "About", "Peer"]

DATABASE_URL, NATS_URL = "PEERS_DATABASE_URL", "PEERS_NATS_URL"
"""The environment variables that name the servers."""
PAYLOAD = "an order of ordinary size, about 60 B"
"""Every task carries a number and this text."""


@dataclass(frozen=True)
class About:
    """What the table and the list of settings need."""

    name: str
    packages: tuple[str, ...]
    keeps: str
    """What is left of a task that succeeded, and where a task waits."""
    settings: tuple[tuple[str, str], ...]
    """Each choice that differs from doing nothing, and where its project documents or recommends it."""
    left: str
    """SQL that counts the tasks not recorded as finished; may name ``%(total)s``, all tasks created so far."""
    atomic: bool
    """A task can be created in the transaction of the caller's own data."""


class Peer(Protocol):
    """Runs in an environment where the system is installed; creating calls are made concurrently."""

    about: About

    def processes(self, workers: int) -> list[list[str]]:
        """The arguments after ``python`` of every process that has to run."""
        ...

    async def setup(self) -> None:
        """Create the tables in an empty database."""
        ...

    async def open(self, clients: int) -> None:
        """Connect a producer with so many clients."""
        ...

    async def one(self, number: int) -> None:
        """Create one task; returns when it is safe on disk as far as the system promises that."""
        ...

    async def one_tx(self, number: int) -> None:
        """The same in a transaction of the caller on the caller's connection; asked only where ``about.atomic``."""
        ...

    async def mark(self, number: int) -> None:
        """The same with the task that notes its start."""
        ...

    async def bulk(self, numbers: Sequence[int]) -> None:
        """Create many tasks in the cheapest way that the system has."""
        ...
