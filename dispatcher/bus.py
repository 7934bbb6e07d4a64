"""The only file that talks to nats-py: connect, publish with counted acknowledgements, subscribe, ask JetStream.

Everything above works with subjects and bytes.  Traps of nats-py 2.16 that this file keeps away (each one measured or
read in its source): the client gives up after 60 reconnects unless told otherwise, messages above a subscription's
pending limit are dropped with only an error callback, ``js.publish`` one by one is 15 times slower than counted acks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol, cast

from nats import errors as nats_errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from dispatcher.counted import CountedPublisher, Outgoing
from dispatcher.errors import BusError, BusUnavailable
from dispatcher.nats_client import MendedClient
from dispatcher.nats_url import servers_and_login, without_logins
from dispatcher.security import login_options, wants_tls
from dispatcher.settings import Settings

__all__ = ["Bus", "Message", "Outgoing", "Subscription"]

_log = logging.getLogger("dispatcher.bus")
_ACK, _PROGRESS = b"+ACK", b"+WPI"
_FORBIDDEN = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)
_LOST = (nats_errors.Error, OSError)
"""Trap of nats-py: between the end of a connection and the next one it raises what the socket said, from any method."""


class Message(Protocol):
    """What a subscription hands over; read only."""

    subject: str
    reply: str
    data: bytes


class Subscription:
    """A running subscription.  Ending it never fails: with the connection gone there is nothing left to end."""

    def __init__(self, subscription: NatsSubscription) -> None:
        self._subscription = subscription

    async def unsubscribe(self) -> None:
        """Stop receiving."""
        with suppress(nats_errors.Error, OSError):
            await self._subscription.unsubscribe()

    async def drain(self) -> None:
        """Stop receiving after everything that already arrived was handed over."""
        with suppress(nats_errors.Error, OSError, TimeoutError):
            await cast(Any, self._subscription).drain()


class Bus:
    """One connection to NATS.  Make it with :meth:`connect`; it reconnects for ever, with jitter."""

    def __init__(self, client: MendedClient) -> None:
        self._client = client
        self._why = ""
        self._settled = False
        self._forbidden: set[str] = set()
        self._publisher = CountedPublisher(client)
        self.closed = asyncio.Event()
        """Set when the connection is closed for good; a process should end then."""
        self.reconnects = 0
        """How often the connection came back."""
        self.on_reconnect: list[Callable[[], None]] = []
        """Called after each reconnect: messages of core NATS may have been missed."""

    @classmethod
    async def connect(cls, settings: Settings, *, name: str, timeout: float | None = None) -> Bus:
        """Connect and return; waits for a server that is away for ``timeout`` seconds, or for ever if ``None``.

        Raises ``BusUnavailable`` when no server answered in time or the credentials were refused.
        """
        if not settings.nats_url:
            raise BusUnavailable("no NATS server is configured; set DISPATCHER_NATS_URL or pass --nats-url")
        client = MendedClient()
        client.only_tls = wants_tls(settings)
        bus = cls(client)
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        delay = 0.05
        while True:
            try:
                await bus._open(settings, name)
                bus._settled = True
                return bus
            except (nats_errors.NoServersError, OSError, TimeoutError, nats_errors.TimeoutError) as error:
                if deadline is not None and loop.time() + delay > deadline:
                    raise BusUnavailable(
                        f"no NATS server answers at {without_logins(settings.nats_url)}: {bus._why or error}"
                    ) from None
                _log.warning("NATS is away, trying again: %s", error)
            except nats_errors.AuthorizationError:
                raise BusUnavailable(f"NATS at {without_logins(settings.nats_url)} refused the credentials") from None
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, 5.0)

    async def _open(self, settings: Settings, name: str) -> None:
        async def closed() -> None:
            self.closed.set()

        async def failed(error: Exception) -> None:
            if str(error):
                self._why = str(error)
                _log.warning("NATS: %s", error)
            if forbidden := _FORBIDDEN.search(str(error)):
                self._forbidden.add(forbidden[1].lower())  # as nats-py tells it

        servers, login = servers_and_login(settings.nats_url or "")
        login |= login_options(settings)  # a login of its own setting wins over one in the URLs
        await self._client.connect(
            servers,
            **login,
            name=name,
            error_cb=failed,
            disconnected_cb=self._lost,
            reconnected_cb=self._back,
            closed_cb=closed,
            allow_reconnect=True,
            max_reconnect_attempts=1,  # of this first connection; 0 would mean for ever
            reconnect_time_wait=cast(int, random.uniform(0.2, 0.8)),
            ping_interval=10,
            max_outstanding_pings=2,
            connect_timeout=5,
            pending_size=16 * 1024 * 1024,
        )
        self._client.options["max_reconnect_attempts"] = -1

    async def _lost(self) -> None:
        self._settled = False
        self._publisher.interrupted()
        if not self._client.is_closed:  # that would be our own orderly goodbye
            _log.warning("connection to NATS lost")

    async def _back(self) -> None:
        _log.info("connection to NATS is back")
        self.reconnects += 1
        self._forbidden.clear()
        self._publisher.interrupted()
        self._settled = True
        for call in self.on_reconnect:
            call()

    @property
    def connected(self) -> bool:
        """Whether a server is reachable right now.

        A connection that comes back counts from the end of its first round trip.  nats-py calls it connected before,
        and does not tell of a loss in between: a batch that began then would wait in vain, or be given up for nothing.
        """
        return self._settled and bool(self._client.is_connected)

    @property
    def server_version(self) -> str:
        """The version the server told, for example ``2.15.1``."""
        return str(self._client._server_info.get("version", ""))

    async def close(self) -> None:
        """Send what is buffered and disconnect."""
        if not self._client.is_closed:
            try:
                await self._client.flush(timeout=2)
            except Exception as error:  # noqa: BLE001 - closing must not fail because the server is away
                _log.debug("flush at close: %s", error)
            await self._client.close()

    # core NATS ------------------------------------------------------------------------------------------------------

    async def publish(self, subject: str, payload: bytes = b"") -> bool:
        """Send what nobody confirms.

        ``False``: NATS is away and the buffer full, or this user was refused it since the connection was made.
        """
        if self._forbidden and subject.lower() in self._forbidden:
            return False
        try:
            await self._client.publish(subject, payload)
        except _LOST as error:
            _log.debug("not published to %s: %r", subject, error)
            return False
        return True

    async def request(self, subject: str, payload: bytes = b"", timeout: float = 2.0) -> bytes:
        """Ask and return the first answer.  Raises ``BusUnavailable`` when nobody answers within ``timeout``."""
        try:
            answer = await self._client.request(subject, payload, timeout=timeout)
        except _LOST as error:
            raise BusUnavailable(f"no answer on {subject}: {error!r}") from None
        return bytes(answer.data)

    async def request_many(self, subject: str, payload: bytes = b"", wait: float = 0.5) -> list[bytes]:
        """Ask and collect every answer that arrives within ``wait`` seconds."""
        answers: list[bytes] = []

        async def collect(message: Msg) -> None:
            if message.data:
                answers.append(bytes(message.data))

        inbox = self._client.new_inbox()
        try:
            subscription = await self._client.subscribe(inbox, cb=collect)
            try:
                await self._client.publish(subject, payload, reply=inbox)
                await asyncio.sleep(wait)
            finally:
                await subscription.unsubscribe()
        except _LOST as error:
            raise BusUnavailable(f"{subject} cannot be asked: {error!r}") from None
        return answers

    async def subscribe(
        self, subject: str, callback: Callable[[Message], Awaitable[None]], queue: str = ""
    ) -> Subscription:
        """Call ``callback`` for each message, one after another; it must not wait for anything slow.

        No pending limit is set here: what may be outstanding is bounded by the consumer's ``max_ack_pending``.
        """
        try:
            subscription = await self._client.subscribe(
                subject, queue=queue, cb=cast(Any, callback), pending_msgs_limit=0, pending_bytes_limit=0
            )
        except nats_errors.Error as error:
            raise BusUnavailable(f"cannot subscribe to {subject}: {error!r}") from None
        except OSError:  # it is registered, and asked for again by the next connection
            subscription = [found for found in self._client._subs.values() if found.subject == subject][-1]
        # a connection that breaks just now subscribes again by itself: only the answer to the flush is lost
        with suppress(nats_errors.Error, TimeoutError, OSError):
            # shielded: nats-py loses its connection when the answer to a cancelled flush arrives
            await asyncio.shield(asyncio.ensure_future(self._client.flush(timeout=5)))
        return Subscription(subscription)

    # acknowledgements -----------------------------------------------------------------------------------------------

    async def ack(self, replies: Iterable[str]) -> None:
        """Acknowledge deliveries.  Not confirmed: a lost ack is harmless, the task is delivered again and refused."""
        await self._reply_all(replies, _ACK)

    async def in_progress(self, replies: Iterable[str]) -> None:
        """Restart the ack timer of deliveries that are still being worked on."""
        await self._reply_all(replies, _PROGRESS)

    async def nak(self, replies: Iterable[str], delay: float) -> None:
        """Give deliveries back; the server delivers them again after ``delay`` seconds, to any worker."""
        await self._reply_all(replies, b'-NAK {"delay": %d}' % int(delay * 1e9) if delay > 0 else b"-NAK")

    async def _reply_all(self, replies: Iterable[str], verb: bytes) -> None:
        publish = self._client.publish
        try:
            for reply in replies:
                await publish(reply, verb)
        except _LOST as error:
            _log.debug("%s not sent: %r", verb[:4], error)

    # JetStream ------------------------------------------------------------------------------------------------------

    async def api(self, subject: str, payload: dict[str, Any] | None = None, timeout: float = 5.0) -> dict[str, Any]:
        """One JetStream API call, ``$JS.API.<subject>``.

        Raises ``BusError`` with the server's own code and description, ``BusUnavailable`` when nobody answers.
        """
        body = json.dumps(payload).encode() if payload is not None else b""
        answer: dict[str, Any] = json.loads(await self.request(f"$JS.API.{subject}", body, timeout) or b"{}")
        if "error" in answer:
            error = answer["error"]
            raise BusError(error.get("code", 500), error.get("err_code", 0), error.get("description", "unknown error"))
        return answer

    async def store(self, batch: Sequence[Outgoing], timeout: float) -> None:
        """Publish a batch into streams and return when the server confirmed that every message is stored.

        Raises ``BusError`` when the server refused one (for example a full stream) and ``BusUnavailable`` when
        confirmations are missing after ``timeout`` seconds; part of the batch may be stored then.
        """
        if not self.connected:
            raise BusUnavailable("NATS is away")
        try:
            await self._publisher.store(batch, timeout)
        except _LOST as error:
            raise BusUnavailable(f"NATS is away: {error!r}") from None
