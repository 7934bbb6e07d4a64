"""Ask the live workers themselves, over core NATS: who is there, what they hold, and to drain or stop.

Nothing is stored and PostgreSQL is not involved: a worker that does not answer within the wait is not in the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dispatcher.bus import Bus
from dispatcher.subjects import Subjects

__all__ = ["ask_workers", "control_workers"]


async def ask_workers(
    bus: Bus, subjects: Subjects, question: Mapping[str, Any] | None = None, *, wait: float = 0.5
) -> list[dict[str, Any]]:
    """What every live worker answers within ``wait`` seconds, sorted by name; see ``workers.holdings``."""
    body = json.dumps(question).encode() if question else b""
    return _readable(await bus.request_many(subjects.workers, body, wait=wait))


async def control_workers(
    bus: Bus, subjects: Subjects, action: str, worker: str | None, actor: str, *, wait: float = 0.5
) -> list[dict[str, Any]]:
    """Ask a worker (by name or boot id; ``None``: every one) to ``drain`` or ``stop``; returns those that will."""
    body = json.dumps({"do": action, "worker": worker, "actor": actor}).encode()
    return _readable(await bus.request_many(subjects.control, body, wait=wait))


def _readable(answers: list[bytes]) -> list[dict[str, Any]]:
    found = []
    for answer in answers:
        try:
            worker = json.loads(answer)
        except ValueError:
            continue
        if isinstance(worker, dict) and "worker" in worker:
            found.append(worker)
    return sorted(found, key=lambda worker: (str(worker["worker"]), str(worker.get("boot_id"))))
