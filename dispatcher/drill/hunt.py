"""The hunt for planted bugs: short drills, each with one guard gone, until the checker notices.

A bug counts as caught when the checker names what does not hold: an invariant that is red, or tasks that are stuck.
That a drill takes too long or cannot go on is no catch.  The same drills without the bug must stay good; otherwise
the checker would notice nothing but the haste.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dispatcher.drill.checker import check
from dispatcher.drill.course import Patience, perform
from dispatcher.drill.drills import DRILLS
from dispatcher.drill.place import Plan, opened
from dispatcher.drill.plants import PLANTS, Plant
from dispatcher.errors import DispatcherError

__all__ = ["Catch", "controls", "hunt", "look_once"]

PATIENCE = Patience(strikes=20.0, calm=20.0, client=20.0, quiet=12.0)
"""A run ends within a minute or so; leases last 4 s here, and recovery takes half of that calm at most."""


@dataclass(frozen=True)
class Catch:
    """What became of one bug, or of one control run."""

    name: str
    drill: str
    runs: int
    by: tuple[str, ...]
    """What the checker found wrong in the last run; empty: nothing."""
    seconds: float
    trouble: str = ""
    """Why the last run could not be finished."""


def hunt(name: str, runs: int, say: Callable[[str], None]) -> Catch:
    """Run the drill of a bug until it is caught, ``runs`` times at most."""
    began, plant, trouble = time.monotonic(), PLANTS[name], ""
    for number in range(1, runs + 1):
        by, trouble = look_once(plant, plant.seed + number - 1, name, say)
        if by:
            break
    return Catch(name, plant.drill, number, tuple(by), round(time.monotonic() - began, 1), trouble)


def controls(names: Iterable[str], runs: int, say: Callable[[str], None]) -> list[Catch]:
    """The drills of these bugs without them, each once; with what else was gone in them.  Good: ``by`` is empty.

    A run that finds something is repeated: on a busy machine haste alone may make a task late.
    """
    found = []
    for plant in {(PLANTS[name].drill, PLANTS[name].control): PLANTS[name] for name in names}.values():
        began = time.monotonic()
        for number in range(1, runs + 1):
            by, trouble = look_once(plant, plant.seed + number - 1, plant.control, say)
            if not by and not trouble:
                break
        label = f"no bug, {plant.control}" if plant.control else "no bug"
        found.append(Catch(label, plant.drill, number, tuple(by), round(time.monotonic() - began, 1), trouble))
    return found


def look_once(plant: Plant, seed: int, planted: str, say: Callable[[str], None]) -> tuple[list[str], str]:
    """One run: what the checker found wrong, and why the run could not be finished if so."""
    drill = DRILLS[plant.drill]
    plan = Plan(plant.drill, plant.tasks, plant.kills, seed, False, drill.streams, plant.slow, planted)
    with opened(None, plan) as place:
        try:
            verdict = check(place, perform(place, drill, say, PATIENCE))
        except DispatcherError as error:
            return [], str(error)[:200]
    by = [f"{found.name}: {found.violations[0]}" for found in verdict.invariants if not found.ok]
    return by + ([f"stuck: {verdict.stuck} tasks"] if verdict.stuck else []), ""
