"""A session: this worker's right to hold tasks, one id per busy period, never revived, never shared."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Session"]


@dataclass(slots=True, eq=False)
class Session:
    """Renewed by the lease thread until it is closed, lost, or left to end.  Times are monotonic seconds."""

    id: int
    deadline: float
    """Until when the lease certainly holds: counted from before the request was sent."""
    held: int = 0
    """Attempts not settled yet."""
    claiming: int = 0
    """Claims under way: what they return will be held."""
    next_batch: int = 1
    left_in_batch: dict[int, int] = field(default_factory=dict)
    """Attempts of each claim batch that are not settled yet."""
    done_batches: list[int] = field(default_factory=list)
    """Claim batches that are settled for certain; their rows go with the next statement."""
    doubtful: bool = False
    """A claim's outcome is unknown: take no more work under this session and let it end by itself, so that the rescuer
    finds whatever the lost statement may have claimed."""
    fenced_at: float = 0.0
    lost: bool = False
    """Rescued or fenced: nothing written under it counts any more."""

    def settled(self, batch: int, count: int) -> None:
        """So many attempts of ``batch`` are settled for certain, or were refused for good."""
        self.held -= count
        self.left_in_batch[batch] -= count
        if self.left_in_batch[batch] == 0:
            del self.left_in_batch[batch]
            self.done_batches.append(batch)
