"""Many drills one after another: one that fails keeps no other from running, and the last lines say which did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dispatcher.cli.output import note
from dispatcher.errors import DispatcherError

__all__ = ["Entry", "Found", "campaign"]


class Found(Protocol):
    """What a verdict tells a campaign."""

    @property
    def complaints(self) -> tuple[str, ...]:
        """What does not hold."""

    @property
    def grave(self) -> bool:
        """Whether waiting longer could not have helped."""


@dataclass(frozen=True)
class Entry:
    """One drill of a campaign; its tasks and faults are those of the drill if ``None``."""

    drill: str
    tasks: int | None
    kills: int | None
    seed: int

    def __str__(self) -> str:
        return f"{self.drill}, seed {self.seed}"


def campaign(
    entries: Sequence[Entry], run: Callable[[Entry], Found], failed: Callable[[Entry, str], None], tries: int = 1
) -> bool:
    """Run all and return whether everything holds; ``failed`` is told of a drill that could not be done to its end.

    With ``tries`` a drill that was only too slow may be run again: its limits of time assume a machine that does not
    stand still for seconds.  What was lost, doubled or wrong is final.
    """
    wrong, again = [], []
    for entry in entries:
        for number in range(1, tries + 1):
            complaints, grave = _once(entry, run, failed)
            if not complaints:
                break
            line = f"  {entry}: {'; '.join(complaints)}"
            if grave or number == tries:
                wrong.append(line)
                break
            again.append(line)
            note(f"once more:\n{line}")
    lines = [f"{len(entries) - len(wrong)} of {len(entries)} drills hold", *wrong]
    if again:
        lines += ["run once more, because only a limit of time was missed:", *again]
    note("\n".join(lines))
    return not wrong


def _once(
    entry: Entry, run: Callable[[Entry], Found], failed: Callable[[Entry, str], None]
) -> tuple[tuple[str, ...], bool]:
    """The two of a verdict; a drill that could not be done has the second."""
    try:
        verdict = run(entry)
    except DispatcherError as error:
        failed(entry, str(error))
        return (str(error),), True
    return verdict.complaints, verdict.grave
