"""Publishing with counted confirmations: what can be said without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dispatcher.counted import CountedPublisher
from dispatcher.errors import BusUnavailable


class Wire:
    """Takes everything and answers nothing."""

    def __init__(self) -> None:
        self.sent = 0
        self.both = asyncio.Event()

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, subject: str, **options: Any) -> None:
        pass

    async def publish(self, subject: str, payload: bytes, **options: Any) -> None:
        self.sent += 1
        if self.sent == 2:
            self.both.set()


async def test_a_batch_does_not_wait_for_confirmations_that_went_with_the_connection() -> None:
    wire = Wire()
    publisher = CountedPublisher(wire)
    storing = asyncio.ensure_future(publisher.store([("a", b"", "1"), ("b", b"", "2")], 60.0))
    await wire.both.wait()
    publisher.interrupted()
    with pytest.raises(BusUnavailable, match="broke before"):
        await asyncio.wait_for(storing, 5)
    publisher.interrupted()  # nothing is open: nothing happens
