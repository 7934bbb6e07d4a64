"""The client of nats-py with its traps closed.  :mod:`dispatcher.bus` talks to it; nothing else does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

__all__ = ["MendedClient"]


class _Transport(TcpTransport):
    """Trap of uvloop: writing to a closed connection raises ``RuntimeError``, which ends nats-py's flusher, and
    its reconnect for good.  asyncio drops what is written there and lets ``drain`` tell, and nats-py relies on that.
    """

    def __init__(self, connected: TcpTransport) -> None:
        vars(self).update(vars(connected))

    def write(self, payload: bytes) -> None:
        with suppress(RuntimeError):
            super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: list[bytes]) -> None:
        with suppress(RuntimeError):
            super().writelines(payload)  # type: ignore[no-untyped-call]

    async def wait_closed(self) -> None:
        """Trap of asyncio: of two that wait for the end, the one that is cancelled cancels the other one, too."""
        await asyncio.shield(super().wait_closed())  # type: ignore[no-untyped-call]


class MendedClient(Client):
    """Trap of nats-py: it goes on in plain text, login included, when a server of ``tls://`` offers no TLS."""

    only_tls = False

    async def _connect_to_server(self, s: Any) -> None:
        await super()._connect_to_server(s)
        if type(self._transport) is TcpTransport:
            self._transport = _Transport(self._transport)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Trap of nats-py: what it cannot send any more ends it in the middle of its goodbye, with an error."""
        self._pending, self._pending_data_size = [], 0  # whoever wants it sent flushes first
        await super()._close(status, do_cbs)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self.only_tls and not info.get("tls_required"):
            raise nats_errors.Error("the server offers no TLS, which the settings demand")
        await super()._process_info(info, initial_connection)

    async def _process_connect_init(self) -> None:
        """Trap of nats-py: after a failed TLS handshake it waits for ever for its transport to be closed."""
        try:
            await super()._process_connect_init()
            if not self.is_connected:  # it takes an end of the stream for an answer
                raise nats_errors.Error("the server ended the connection; does it ask for a client certificate?")
        except Exception:
            transport, self._transport = cast(Any, self._transport), None
            if transport is not None:
                transport.close()
            raise
