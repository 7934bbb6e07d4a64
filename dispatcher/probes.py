"""``/metrics``, ``/livez`` and ``/readyz`` of one process, from a thread of its own: they answer while handlers run.

live    the event loop turns: nothing else is asked, so that an outage of a server restarts nobody
ready   what the process says of itself: connected, leader or standby, receiving tasks
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from dispatcher.errors import ConfigurationError, DispatcherError

__all__ = ["Probes"]

_log = logging.getLogger("dispatcher.metrics")

_LIVE_SECONDS = 5.0
_REFRESH_SECONDS = 4.0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without looking up the name of the address, as HTTPServer does: that may take seconds in a container."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]


class Probes:
    """Make it inside the running event loop.

    ``ready()`` returns what ``/readyz`` shows, with ``"ready"`` as the verdict; ``refresh`` is awaited in the loop
    before each scrape, for figures that somebody has to ask for.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        ready: Callable[[], dict[str, Any]],
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._registry, self._ready, self._refresh = registry, ready, refresh
        self._loop = asyncio.get_running_loop()
        self._server: ThreadingHTTPServer | None = None

    def serve(self, port: int | None, address: str = "127.0.0.1") -> None:
        """Answer on this port until :meth:`close` or the end of the process; nothing happens without a port.

        Raises ``ConfigurationError`` when the port is taken or the address is not of this machine.
        """
        if port is None:
            return
        probes = self

        class Handler(BaseHTTPRequestHandler):
            """One request."""

            timeout = 10.0

            def do_GET(self) -> None:
                """Answer."""
                status, kind, body = probes.answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
                with suppress(OSError):  # who asked may be gone
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Probes come every few seconds: no lines."""

        try:
            self._server = _Server((address, port), Handler)
        except OSError as error:
            raise ConfigurationError(f"metrics cannot be served on {address}:{port}: {error.strerror}") from None
        threading.Thread(target=self._server.serve_forever, name="dispatcher-probes", daemon=True).start()

    def close(self) -> None:
        """Free the port."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def answer(self, path: str, accept: str = "") -> tuple[int, str, bytes]:
        """Status, content type and body for one path; called in any thread but the loop's."""
        if path == "/metrics":
            self._refreshed()
            encode, kind = choose_encoder(accept)
            return 200, kind, encode(self._registry)
        if path in ("/livez", "/healthz"):
            return _verdict({"live": self._is_live()}, "live")
        if path == "/readyz":
            return _verdict(self._ready(), "ready")
        return _verdict({"found": False, "paths": ["/metrics", "/livez", "/readyz"]}, "found", 404)

    def _is_live(self) -> bool:
        turned = threading.Event()
        try:
            self._loop.call_soon_threadsafe(turned.set)
        except RuntimeError:  # the loop is closed
            return False
        return turned.wait(_LIVE_SECONDS)

    def _refreshed(self) -> None:
        if self._refresh is None:
            return

        async def refresh() -> None:
            assert self._refresh is not None
            await self._refresh()

        work = refresh()
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop).result(_REFRESH_SECONDS)
        except RuntimeError:  # the loop is closed
            work.close()
        except (FutureTimeout, FutureCancelled, DispatcherError) as error:  # show what there is
            _log.warning("figures are not asked for: %r", error)


def _verdict(body: dict[str, Any], field: str, otherwise: int = 503) -> tuple[int, str, bytes]:
    return 200 if body[field] else otherwise, "application/json", json.dumps(body).encode() + b"\n"
