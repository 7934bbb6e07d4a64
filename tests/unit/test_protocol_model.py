"""Every interleaving of the protocol is legal, and without any one guard the checker finds a path to harm."""

from __future__ import annotations

import pytest

from state.protocol.checker import check
from state.protocol.guards import GUARDS
from state.protocol.setups import LOST_TAIL, SHORT

# what is dropped (several: the guard and the second line that covers for it), where it shows, what is then broken
NEEDED = [
    ("claim.queued", "crash, freeze, repeat", "started twice"),
    ("claim.attempt", "forged messages", "started twice"),
    ("claim.no cancel + settle.cancel wins", "people", "cancel was requested"),
    ("claim.tries left + rescue.tries", "one try", "tries beyond"),
    ("claim.not expired", "expiry", "after its expiry"),
    ("claim.type known", "worker without the code", "without its code"),
    ("claim.not paused", "pause", "paused queue"),
    ("claim.session lives", "dead session", "never end"),
    ("claim.session locked", "dead session", "never end"),
    ("settle.running + settle.session", "lost answers", "illegal move"),
    ("settle.attempt", "slots of one worker", "stale write"),
    ("settle.cancel wins", "people", "never end"),
    ("leave.new attempt", "people", "never end"),
    ("adopt", "one try", "never end"),
    ("adopt.session", "crash, freeze, repeat", "started twice"),
    ("adopt.attempt", "slots of one worker", "started twice"),
    ("rescue.lease ended", "crash, freeze, repeat", "lease was alive"),
    ("rescue.lock", "crash, freeze, repeat", "lease was alive"),
    ("settle.trims its claim + rescue.running + rescue.session", "cancel and crash", "illegal move"),
    ("settle.trims its claim + rescue.session + rescue.attempt", "rescued from another", "somebody else"),
    ("rescue.cancel wins", "cancel and crash", "never end"),
    ("timer.waiting + cancel.timer", "people", "final state was left"),
    ("expire.waiting", "expiry", "illegal move"),
    ("expire.expired", "expiry", "before its time"),
    ("reconcile.queued", "crash, freeze, repeat", "not queued"),
    ("reconcile.attempt", "slots of one worker", "doubled"),
    ("reconcile.dispatch", "pause", "doubled"),
    ("reconcile.not parked", "pause", "parked"),
    ("cancel.waiting", "people", "illegal move"),
    ("cancel running.running", "people", "final row"),
    ("retry.ended without success", "people", "illegal move"),
    ("retry.new message", "retry and repeat", ""),
    ("retry.waits for nobody", "flow, failure and people", "queued before all"),
    ("release.blocked", "flow, failure and people", "cancelled was said"),
    ("release.in the same commit", "flow, crash and repeat", "another step"),
    ("release.failure does not count", "flow, failure and people", "queued before all"),
    ("stop.blocked", "flow, failure and people", "illegal move"),
    ("unpark.queued + cancel.parked", "pause", "not queued"),
    ("message.stale is acked", "crash, freeze, repeat", "never end"),
    ("message.quarantine", "forged messages", "never end"),
    ("message.kept while queued", "worker without the code", "never end"),
    ("relay.commit after ack", "relays", "never end"),
    ("relay.keeps what is needed", "relays", "never end"),
    ("full reconcile.fence", "full reconcile alone", "overlooked"),
]


@pytest.mark.parametrize("name", SHORT)
def test_no_interleaving_is_illegal_and_all_can_end(name: str) -> None:
    verdict = check(SHORT[name])
    assert verdict.found is None
    assert verdict.complete
    assert verdict.states > 40, "something must have been explored"


@pytest.mark.parametrize(("dropped", "name", "what"), NEEDED, ids=[row[0] for row in NEEDED])
def test_without_this_guard_there_is_a_path_to_harm(dropped: str, name: str, what: str) -> None:
    found = check(SHORT[name]._replace(dropped=frozenset(dropped.split(" + ")))).found
    assert found is not None
    assert what in found.what, found
    print(f"without {dropped}: {found.what}\n  " + "\n  ".join(found.path))


def test_two_guards_bound_the_damage_of_a_database_that_loses_a_commit() -> None:
    assert check(LOST_TAIL).found is None
    durable = check(LOST_TAIL._replace(waived=frozenset())).found
    assert durable is not None
    assert "started twice" in durable.what, "which is why claims commit durably"
    stale = check(LOST_TAIL._replace(dropped=LOST_TAIL.dropped | {"settle.session"})).found
    assert stale is not None
    assert "stale write" in stale.what
    alone = LOST_TAIL._replace(workers=1, reconciler=False)
    assert check(alone).found is None
    stranded = check(alone._replace(dropped=alone.dropped | {"settle refused.read again"})).found
    assert stranded is not None
    assert "never end" in stranded.what


# Covered by others on every path of the model: a second line, kept because it costs nothing.
SECOND_LINES = {"timer.attempt", "expire.attempt", "adopt.running", "unpark.attempt", "unpark.not paused"} | {
    f"park.{name}" for name in GUARDS["park"]
}

# Handlers that wait for a flow of their own are not in the model; the real statement is compared with these lines.
SUSPEND = {f"suspend.{name}" for name in GUARDS["suspend"]}


def test_every_guard_is_judged() -> None:
    judged = {part for row in NEEDED for part in row[0].split(" + ")} | SECOND_LINES | SUSPEND
    assert {f"{move}.{name}" for move, guards in GUARDS.items() for name in guards} <= judged
