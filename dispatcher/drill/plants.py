"""Planted bugs: guards taken out of the processes of a drill, one at a time, to see that the checker notices.

The product has no switch for them.  The children of a planted drill find a ``sitecustomize`` of ours on their path,
which changes statements and methods in their memory before anything runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dispatcher.drill import plants_processes as processes
from dispatcher.drill import plants_state as state

__all__ = ["CONTROLS", "PLANTS", "VARIABLE", "Plant", "install", "write_hook"]

VARIABLE = "DISPATCHER_DRILL_PLANT"
_HOOK = """import os
from dispatcher.drill.plants import VARIABLE, install
install(os.environ[VARIABLE])
"""


@dataclass(frozen=True)
class Plant:
    """One bug and the drill that should catch it, as short as it can be."""

    text: str
    drill: str
    change: Callable[[], None]
    tasks: int = 240
    kills: int = 4
    seed: int = 1
    """Of the first run; the next ones count on."""
    slow: float = 0.06
    """The share of tasks that take a second or two."""
    control: str = ""
    """The second line that is gone too, by its name in :data:`CONTROLS`: without it the bug would cost time only."""


PLANTS: Mapping[str, Plant] = MappingProxyType(
    {
        "M1": Plant(
            "settle without attempt and session in its guard", "freeze-worker", state.no_fence,
            tasks=200, kills=5, slow=1.0,
        ),
        "M2": Plant(
            "messages acknowledged before the claim is committed", "kill-worker", processes.ack_first,
            control="no reconciler",
        ),
        "M3": Plant("the rescuer does not look at the lease", "kill-worker", state.rescue_everybody, slow=0.5),
        "M4": Plant("the relay reads only ids above the last one", "kill-broker", processes.only_higher_ids),
        "M5": Plant(
            "message ids without the dispatch number", "lose-messages", processes.id_without_dispatch,
            tasks=800, kills=3, slow=0.3,
        ),
        "M6": Plant(
            "the outbox committed before the stream has confirmed", "kill-broker", processes.mark_before_confirmed,
            control="no reconciler",
        ),
        "M7": Plant("leases by the worker's own clock", "kill-worker", state.lease_by_own_clock, kills=2),
        "M8": Plant("cancel of what runs", "kill-worker", state.cancel_anything, tasks=400, kills=2),
        "M9": Plant("creation outside the caller's transaction", "kill-worker", processes.commit_at_once, kills=1),
        "M10": Plant("sessions without a boot id", "kill-worker", state.no_boot_id),
        "M11": Plant("three deliveries at most", "freeze-worker", processes.few_deliveries, tasks=400, slow=0.7),
        "M12": Plant("a message runs without a claim of its own", "duplicate-delivery", state.run_what_others_run),
        "M13": Plant("the event is written after the commit", "kill-worker", state.event_after_commit),
        "M14": Plant("a stale message is refused, not acknowledged", "duplicate-delivery", processes.nak_stale),
        "M15": Plant(
            "a finish that is too late gives back what it held", "freeze-worker", state.count_refused,
            tasks=160, slow=0.5,
        ),
        "M17": Plant("an end of reconnecting", "broker-outage", processes.few_reconnects, kills=1),
        "M18": Plant(
            "an unknown commit repeated without a look", "unknown-commit", processes.create_again,
            tasks=600, kills=3, seed=13,
        ),
    }
)  # fmt: skip
"""By their numbers in the catalogue."""

CONTROLS: Mapping[str, Callable[[], None]] = MappingProxyType(
    {"": lambda: None, "no reconciler": processes.no_reconciler}
)
"""What is changed in runs that plant no bug: nothing, or a second line that is gone.  These must stay good."""


def install(name: str) -> None:
    """Change this process: plant a bug, or what a control run changes."""
    plant = PLANTS.get(name)
    CONTROLS[name if plant is None else plant.control]()
    if plant is not None:
        plant.change()


def write_hook(root: Path, name: str) -> dict[str, str]:
    """Make the folder that children have to find; returns the variables that let them."""
    folder = root / "plant"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HOOK)
    here = Path(__file__).resolve().parents[2]
    found = [str(folder), str(here), os.environ.get("PYTHONPATH", "")]
    return {VARIABLE: name, "PYTHONPATH": os.pathsep.join(filter(None, found))}
