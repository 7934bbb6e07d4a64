"""How long an attempt may run: soft timeout, timeout and the task's deadline, as moments of the monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass

from workers.attempt import Attempt
from workers.outcome import DeadlineOver, HandlerTimeout

__all__ = ["Limits", "limits_of"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Moments in monotonic seconds; the lengths beside them are for people."""

    soft_at: float | None = None
    hard_at: float | None = None
    deadline_at: float | None = None
    soft: float = 0.0
    hard: float = 0.0
    deadline: float = 0.0

    def over(self) -> Exception:
        """What ends an attempt at ``hard_at``."""
        if self.deadline_at is not None and self.hard_at == self.deadline_at:
            return self.deadline_over()
        return HandlerTimeout(f"still running after {self.hard:g} s")

    def deadline_over(self) -> Exception:
        """What ends an attempt at ``deadline_at``, also one that has not started yet."""
        return DeadlineOver(f"not finished by its deadline, {self.deadline:g} s after its creation")

    def soft_over(self) -> Exception:
        """What an attempt ends with that stopped when it was asked to."""
        return HandlerTimeout(f"stopped at its soft timeout of {self.soft:g} s")


NONE = Limits()


def limits_of(attempt: Attempt) -> Limits:
    """The limits of an attempt that starts at its ``started_at``; what the call said goes before the type's."""
    meta, kind = attempt.meta or {}, attempt.task_type
    soft = meta.get("soft_timeout", kind.soft_timeout)
    hard = meta.get("timeout", kind.timeout)
    left = meta.get("left")
    start = attempt.started_at
    hard_at = None if hard is None else start + float(hard)
    deadline_at = None if left is None else attempt.claimed_at + float(left)
    if deadline_at is not None:
        hard_at = deadline_at if hard_at is None else min(hard_at, deadline_at)
    attempt.soft_at, attempt.hard_at = None if soft is None else start + float(soft), hard_at
    return Limits(
        attempt.soft_at, hard_at, deadline_at, float(soft or 0), float(hard or 0), float(meta.get("deadline", 0))
    )
