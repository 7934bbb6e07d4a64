"""The named moments in the life of a relay; see ``dispatcher.failpoints``.  Imported by tests' processes only."""

from __future__ import annotations

from collections.abc import Mapping

from dispatcher.bus import Bus
from dispatcher.counted import CountedPublisher
from dispatcher.failpoints import Failpoint, wrap
from dispatcher.relay.drain import Drain
from dispatcher.relay.reconcile import Reconciler
from dispatcher.relay.rescuer import Rescuer

__all__ = ["NAMES", "install"]

NAMES = (
    "relay.before_publish",
    "relay.after_send",
    "relay.after_puback",
    "relay.after_commit",
    "relay.after_rescue",
    "relay.in_reconcile",
)


def install(points: Mapping[str, Failpoint]) -> None:
    """Wrap the methods at those moments."""
    find = points.get
    wrap(Drain, "_outgoing", after=find("relay.before_publish"))  # rows taken, nothing sent
    wrap(CountedPublisher, "_acknowledged", before=find("relay.after_send"))  # sent and stored, not yet confirmed to us
    wrap(Bus, "store", after=find("relay.after_puback"))  # everything confirmed, not committed
    wrap(Drain, "_mark", before=find("relay.after_commit"))
    wrap(Rescuer, "once", after=find("relay.after_rescue"))
    wrap(Reconciler, "_judge", after=find("relay.in_reconcile"))
