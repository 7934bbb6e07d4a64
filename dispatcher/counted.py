"""Publishing with counted acknowledgements: the fast way into a stream.  Knows the client only by its methods."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from dispatcher.errors import BusError, BusUnavailable

__all__ = ["CountedPublisher", "Outgoing"]

Outgoing = tuple[str, bytes, str]
"""Subject, payload and message id of one publish."""


class CountedPublisher:
    """Pipelined publishing with one reply inbox: ``<inbox>.<batch>``, acknowledgements are counted.

    ``await js.publish`` costs 153 µs of client CPU a message, ``publish_async`` 23, this 10 (reference measurements).
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._inbox = ""
        self._batch = 0
        self._open: asyncio.Future[None] | None = None
        self._missing = 0
        self._subscribed = False

    async def store(self, batch: Sequence[Outgoing], timeout: float) -> None:
        """Publish and wait; see ``Bus.store`` for what it raises.  One batch at a time."""
        if not self._subscribed:
            self._inbox = self._inbox or self._client.new_inbox()  # its prefix is known after the connect
            await self._client.subscribe(
                f"{self._inbox}.*", cb=self._acknowledged, pending_msgs_limit=0, pending_bytes_limit=0
            )
            self._subscribed = True
        self._batch += 1
        self._missing = len(batch)
        self._open = asyncio.get_running_loop().create_future()
        reply = f"{self._inbox}.{self._batch}"
        publish = self._client.publish
        try:
            for subject, payload, message_id in batch:
                await publish(subject, payload, reply=reply, headers={"Nats-Msg-Id": message_id})
            async with asyncio.timeout(timeout):
                await self._open
        except TimeoutError:
            raise BusUnavailable(f"{self._missing} of {len(batch)} messages not confirmed in {timeout:g} s") from None
        finally:
            self._open = None

    def interrupted(self) -> None:
        """The connection broke or is a new one: confirmations of the open batch may be lost, so give it up at once.

        It is published again, and the message ids absorb what was stored already.
        """
        if self._open is not None and not self._open.done():
            self._open.set_exception(BusUnavailable("the connection to NATS broke before everything was confirmed"))

    async def _acknowledged(self, message: Any) -> None:
        waiting = self._open
        if waiting is None or waiting.done() or not message.subject.endswith(f".{self._batch}"):
            return  # a confirmation that came after its batch was given up
        if message.data.startswith(b'{"stream"'):
            self._missing -= 1
            if self._missing == 0:
                waiting.set_result(None)
            return
        waiting.set_exception(_refusal(message))


def _refusal(message: Any) -> Exception:
    """What a publish was answered with instead of a confirmation."""
    if not message.data:
        return BusError(503, 0, "no stream listens on the task subjects")
    try:
        error = json.loads(message.data)["error"]
        return BusError(error.get("code", 500), error.get("err_code", 0), error.get("description", "unknown error"))
    except (ValueError, KeyError, TypeError):
        return BusError(500, 0, f"unreadable confirmation {message.data[:80]!r}")
