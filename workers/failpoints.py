"""The named moments in the life of a worker; see ``dispatcher.failpoints``.  Imported by tests' processes only."""

from __future__ import annotations

from collections.abc import Mapping

from dispatcher.failpoints import Failpoint, wrap
from workers.claimer import Claimer
from workers.lease import LeaseKeeper
from workers.settler import Settler

__all__ = ["NAMES", "install"]

NAMES = (
    "worker.before_claim",
    "worker.after_claim",
    "worker.before_settle",
    "worker.after_settle",
    "worker.after_ack",
    "worker.before_renew",
)


def install(points: Mapping[str, Failpoint]) -> None:
    """Wrap the methods at those moments."""
    find = points.get
    wrap(Claimer, "_claim", before=find("worker.before_claim"))
    wrap(Claimer, "_adopt", before=find("worker.after_claim"))  # committed, nothing started
    wrap(Settler, "_settle_all", before=find("worker.before_settle"))
    # called when the outcome is committed; acknowledges
    wrap(Settler, "_announce", before=find("worker.after_settle"), after=find("worker.after_ack"))
    wrap(LeaseKeeper, "_renew", before=find("worker.before_renew"))
