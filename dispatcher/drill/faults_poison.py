"""A fault that a task does by itself: the drill waits for it, and the fleet replaces what died."""

from __future__ import annotations

import time

from dispatcher.drill.ground import Ground, Struck
from dispatcher.drill.poison_tasks import way_of

__all__ = ["die_of_poison"]

_DEATH_SECONDS = 60.0
"""For the next worker to die."""
_SLOWEST = 10.0
"""Tasks a second; poison comes when the first half of the tasks has ended."""


def die_of_poison(ground: Ground) -> Struck | None:
    """The next worker that a task has ended; ``None`` when no more die."""
    fleet = ground.fleet
    seconds = _DEATH_SECONDS + ground.place.plan.tasks / 2 / _SLOWEST
    if not ground.until(lambda: fleet.dead or fleet.published, seconds) or not fleet.dead:
        return None
    name, line, fresh = fleet.dead.popleft()
    detail = {"pid": line.pid, "task": line.task, "attempt": line.attempt, "replaced_by": fresh}
    ago = (time.monotonic_ns() - line.ns) / 1e9
    return Struck(f"poison: {way_of(line.order, line.attempt).text}", name, detail, hit=time.time() - ago)
