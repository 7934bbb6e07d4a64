"""The producer of one system as a process: ``python -m benchmarks.peers.actor NAME`` in that system's environment.

Reads one JSON request a line from standard input and answers with one JSON line each.  Imports nothing of ours but the
system's own file, so that it also runs where the dispatcher is not installed.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import platform
import random
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from benchmarks.peers.peer import Peer

__all__ = ["serve"]

CLIENTS = 8


async def about(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """The system's own words, and the versions that are installed here."""
    packages = {name: version(name) for name in peer.about.packages}
    return asdict(peer.about) | {
        "versions": packages | {"python": platform.python_version()},
        "commands": {str(workers): peer.processes(workers) for workers in (1, 2)},
    }


async def setup(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """Tables and connections."""
    await peer.setup()
    await peer.open(CLIENTS)
    return {}


async def one(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """One task per call from ``CLIENTS`` clients at a time."""
    return await _singles(peer.one, request["tasks"])


async def one_tx(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """The same, each in a transaction of the caller."""
    return await _singles(peer.one_tx, request["tasks"])


async def _singles(create: Callable[[int], Coroutine[Any, Any, None]], tasks: int) -> dict[str, Any]:
    left = iter(range(tasks))

    async def client() -> None:
        for number in left:
            await create(number)

    return await _timed(_all([client() for _ in range(CLIENTS)]))


async def bulk(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """``size`` tasks per call, one call after the other."""
    tasks, size = request["tasks"], request["size"]

    async def batches() -> None:
        for start in range(0, tasks, size):
            await peer.bulk(range(start, min(tasks, start + size)))

    return await _timed(batches())


async def paced(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """One task after the other at ``rate`` a second; when each call returned, which is when its commit was known.

    The gaps vary from half to one and a half of their mean, so that nobody's timer falls in step with them.
    """
    first, commits, due = request["first"], {}, time.monotonic()
    for number in range(first, first + request["tasks"]):
        due += random.uniform(0.5, 1.5) / request["rate"]
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await peer.mark(number)
        commits[number] = time.monotonic_ns()
    return {"commits": commits}


async def _all(coroutines: list[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*coroutines)


async def _timed(work: Coroutine[Any, Any, None]) -> dict[str, Any]:
    cpu, first = time.process_time(), time.monotonic_ns()
    await work
    return {"first": first, "last": time.monotonic_ns(), "cpu": time.process_time() - cpu}


REQUESTS: dict[str, Callable[[Peer, dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]] = {
    "about": about, "setup": setup, "one": one, "one_tx": one_tx, "bulk": bulk, "paced": paced,
}  # fmt: skip


async def serve(name: str) -> None:
    """Answer until standard input ends."""
    peer: Peer = importlib.import_module(f"benchmarks.peers.systems.{name}").peer
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        print(json.dumps(await REQUESTS[request["do"]](peer, request)), flush=True)


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(sys.argv[1]))
    else:
        uvloop.run(serve(sys.argv[1]))
