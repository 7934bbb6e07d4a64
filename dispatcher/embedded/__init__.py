"""Real PostgreSQL and nats-server without set-up, from the wheels of the extra ``embedded``.

Promise: free ports on 127.0.0.1, random credentials in a file only its owner reads, data kept from start to start, no
durability switched off, and no server left behind however our process ends.  The interface blocks; call it from a
thread inside an event loop.
"""

from __future__ import annotations

from dispatcher.embedded.errors import EmbeddedError
from dispatcher.embedded.servers import EmbeddedServers

__all__ = ["EmbeddedError", "EmbeddedServers"]
