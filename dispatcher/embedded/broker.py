"""nats-server with JetStream as a child of our guard: its configuration file, and whether who answers is ours."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dispatcher.embedded.errors import EmbeddedError
from dispatcher.embedded.guard_client import Launch
from dispatcher.embedded.home import write_private
from dispatcher.embedded.ports import HOST

__all__ = ["Broker"]

_STOP = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))
_OLDEST = (2, 10)
_GB = 1 << 30


@dataclass(frozen=True)
class Broker:
    """One nats-server: program, configuration file, store and the token that clients must show."""

    program: Path
    conf: Path
    store: Path
    token: str
    name: str

    def launch(self, port: int, log: Path) -> Launch:
        """Write the configuration (mode 0600: it holds the token) and say how to start it."""
        self.store.mkdir(mode=0o700, exist_ok=True)
        usage = shutil.disk_usage(self.store)
        # leave a fifth of the free disk to PostgreSQL, which is the one that must not run out
        most = max(_GB, min(64 * _GB, usage.free * 4 // 5))
        write_private(self.conf, _conf(port, self.name, self.token, self.store, most))
        return Launch("nats", [str(self.program), "-c", str(self.conf)], self.conf.parent, log, _STOP)

    def version(self, port: int) -> str | None:
        """The version of the server on that port, or None unless it is up and ours (its name is our secret).

        Raises EmbeddedError when it is ours but too old.
        """
        info = _info(port)
        if info.get("server_name") != self.name:
            return None
        version = str(info.get("version", "0.0.0"))
        if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < _OLDEST:
            raise EmbeddedError(
                f"{self.program} is nats-server {version}; 2.12.7 or newer is needed, 2.10 at the least"
            )
        return version


def _info(port: int) -> dict[str, Any]:
    """The greeting of a NATS server; empty when nobody, or somebody else, answers."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as sock, sock.makefile("rb") as stream:
            line = stream.readline(65536)
            info = json.loads(line.removeprefix(b"INFO ")) if line.startswith(b"INFO ") else {}
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def _conf(port: int, name: str, token: str, store: Path, most: int) -> str:
    def quoted(text: object) -> str:
        return json.dumps(str(text), ensure_ascii=False)

    return f"""# written at each start: changes are lost
listen: "{HOST}:{port}"
server_name: {quoted(name)}
authorization {{ token: {quoted(token)} }}
# a client that is frozen is dropped after three times ten seconds, so that its messages go to others
ping_interval: "10s"
ping_max: 2
jetstream {{
  store_dir: {quoted(store)}
  max_file_store: {most}
  # the default is two minutes; what a power failure takes is repaired from PostgreSQL all the same
  sync_interval: "5s"
}}
"""
