"""Control over core NATS: drain or stop this worker when somebody asks for it by name, by boot id, or for all.

``Presence`` holds the subscription.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

from dispatcher.bus import Bus, Message
from dispatcher.cancelling import cancel_all
from dispatcher.masking import printable

__all__ = ["Control", "Patience"]

_log = logging.getLogger("dispatcher.control")


class Control:
    """Answers requests ``{"do": "drain" | "stop", "worker": name, boot id or null}`` that mean this worker."""

    def __init__(
        self,
        bus: Bus,
        name: str,
        boot_id: UUID,
        drain: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._name, self._boot_id = name, str(boot_id)
        self._actions = {"drain": drain, "stop": stop}

    async def asked(self, message: Message) -> None:
        """One request."""
        try:
            request = json.loads(message.data)
            action, worker, actor = self._actions[request["do"]], request["worker"], str(request.get("actor"))
        except (ValueError, KeyError, TypeError):
            _log.warning("unreadable control request ignored")
            return
        if worker not in (None, self._name, self._boot_id):
            return
        _log.warning("%s asked for by %s", request["do"], printable(actor))
        if message.reply:
            answer = {"worker": self._name, "boot_id": self._boot_id, "do": request["do"]}
            await self._bus.publish(message.reply, json.dumps(answer).encode())
        action()


class Patience:
    """The wait for running tasks in a drain, which a stop cuts short, also when it comes later."""

    def __init__(self) -> None:
        self._over = asyncio.Event()

    def end(self) -> None:
        """Wait no longer, now and later."""
        self._over.set()

    async def wait(self, settled: Coroutine[Any, Any, bool]) -> bool:
        """What ``settled`` returns; ``False`` as soon as patience is over."""
        waiting, over = asyncio.ensure_future(settled), asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({waiting, over}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.done() and waiting.result()
        finally:
            await cancel_all((waiting, over))
