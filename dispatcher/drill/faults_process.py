"""Faults of our own processes: killed, killed at a named moment, frozen beyond the lease, deployed anew."""

from __future__ import annotations

import time
from contextlib import suppress

from dispatcher.drill.fleet import RELAYS
from dispatcher.drill.ground import Fault, Ground, Struck
from dispatcher.errors import BusError
from state.locks import LEADER, advisory_key

__all__ = [
    "deploy",
    "freeze_leader",
    "freeze_worker",
    "kill_at",
    "kill_client",
    "kill_leader",
    "kill_point",
    "kill_relay",
    "kill_worker",
]

_HELD = """
SELECT l.worker, count(*) FROM {s}.tasks t JOIN {s}.session_log l ON l.session_id = t.session_id
WHERE t.state = 4 GROUP BY 1
"""
_LEADER = """
SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s AND a.datname = current_database()
"""
_BEYOND_SECONDS = (0.1, 2.5)
"""How much longer than its lease a process stays frozen: some wake up while the next attempt runs."""
_THAW_SECONDS = 15.0
"""For enough of those that are frozen to come back."""
_REACH_SECONDS = 25.0
_LEAVE_SECONDS = 40.0
_WORK = 6
"""Portions of work, four times a second, for a process that is to get to its moment."""


def _held(ground: Ground) -> dict[str, int]:
    """How many running tasks each worker has in its hands."""
    return dict(ground.rows(_HELD))


def _busy_worker(ground: Ground) -> str | None:
    """A worker with tasks in its hands if there is one; ``None`` when too few are left to lose another."""
    names = ground.fleet.names("worker")
    if len(names) < 2:
        return None
    busy = [name for name in names if name in _held(ground)]
    return ground.dice.choice(busy or names)


def _leader(ground: Ground) -> str | None:
    """The relay that holds the leader's lock, by the name of its database session."""
    keys = (key % (1 << 32) for key in advisory_key(ground.place.plan.schema, LEADER))
    pids = {int(row[0].split()[2].split("-")[0]) for row in ground.rows(_LEADER, *keys)}
    return next((name for name in ground.fleet.names("relay") if ground.fleet.pid(name) in pids), None)


def _killed(ground: Ground, kind: str, name: str) -> Struck:
    pid = ground.fleet.kill(name)
    held = _held(ground).get(name, 0) if name.startswith("worker") else 0
    return Struck(kind, name, {"pid": pid, "held": held, "replaced_by": ground.fleet.replace(name)})


def kill_worker(ground: Ground) -> Struck | None:
    """SIGKILL to a worker, one with tasks in its hands if possible."""
    name = _busy_worker(ground)
    return None if name is None else _killed(ground, "kill-worker", name)


def kill_relay(ground: Ground) -> Struck | None:
    """SIGKILL to a relay, mostly the one that leads."""
    names = ground.fleet.names("relay")
    leader = _leader(ground) if ground.dice.random() < 0.75 else None
    return _killed(ground, "kill-relay", leader or ground.dice.choice(names)) if names else None


def kill_leader(ground: Ground) -> Struck | None:
    """SIGKILL to the relay that leads."""
    leader = _leader(ground)
    return _killed(ground, "kill-relay", leader) if leader else None


def kill_client(ground: Ground) -> Struck | None:
    """SIGKILL to the service that publishes; what it was committing is unknown afterwards."""
    names = ground.fleet.names("client")
    return _killed(ground, "kill-client", names[0]) if names else None


def _frozen(ground: Ground, kind: str, name: str) -> Struck | None:
    seconds = round(ground.place.settings.lease.total_seconds() + ground.dice.uniform(*_BEYOND_SECONDS), 3)
    held, hit = _held(ground).get(name, 0), time.time()
    if not ground.fleet.freeze(name):
        ground.fleet.thaw(name)
        return None
    ground.later(seconds, lambda: ground.fleet.thaw(name))
    return Struck(kind, name, {"seconds": seconds, "held": held}, hit=hit)


def freeze_worker(ground: Ground) -> Struck | None:
    """SIGSTOP to a worker until after its lease, then SIGCONT: it wakes up and believes that nothing happened."""
    if not ground.until(lambda: len(ground.fleet.names("worker")) > 2, _THAW_SECONDS):
        return None
    name = _busy_worker(ground)
    return None if name is None else _frozen(ground, "freeze-worker", name)


def freeze_leader(ground: Ground) -> Struck | None:
    """SIGSTOP to the relay that leads, then SIGCONT long after it was replaced."""
    if not ground.until(lambda: len(ground.fleet.names("relay")) > 1 and _leader(ground), _THAW_SECONDS):
        return None
    name = _leader(ground)
    return None if name is None else _frozen(ground, "freeze-leader", name)


def deploy(ground: Ground) -> Struck | None:
    """A rolling deploy of one process: the new one starts, the old one is asked to leave and must obey."""
    kind = ground.dice.choice(("worker", "worker", "worker", "relay"))
    names = ground.fleet.names(kind)
    if not names:
        return None
    old = names[0]
    fresh = ground.fleet.replace(old)
    if kind == "worker":
        ground.fleet.wait_ready([fresh])
    hit = time.time()
    ground.fleet.processes.stop([old], _LEAVE_SECONDS)
    return Struck("rolling-deploy", old, {"replaced_by": fresh}, hit=hit)


# failpoints -----------------------------------------------------------------------------------------------------------


def kill_at(point: str) -> Fault:
    """A process that ends itself with SIGKILL when it gets to a named moment."""

    def fault(ground: Ground) -> Struck | None:
        kind = "relay" if point.startswith("relay") else "worker"
        spec = f"{point}=kill@{ground.dice.randint(1, 3) if kind == 'worker' else 1}"
        # a relay must lead to get to its moment; a worker is one more, beside the others
        armed = _armed_relay(ground, spec) if kind == "relay" else ground.fleet.start_worker(spec)
        dead = _driven(ground, armed, needs_orphans=point == "relay.after_rescue")
        hit = time.time()
        if (
            not dead and ground.fleet.processes.running[armed].poll() is None
        ):  # otherwise whoever tends the fleet sees it
            ground.fleet.processes.stop([armed], _LEAVE_SECONDS)
        _fill_up(ground)
        return Struck(f"kill at {point}", armed, {"failpoint": spec}, hit=hit) if dead else None

    return fault


def _driven(ground: Ground, armed: str, *, needs_orphans: bool) -> bool:
    """Whether the process got to its moment: there is work for it once it is there, and if need be for the rescuer."""
    until = time.monotonic() + _REACH_SECONDS
    there = armed.startswith("relay")
    while not (dead := ground.fleet.wait_for_death(armed, 0.25)) and time.monotonic() < until:
        with suppress(BusError, TimeoutError):  # the broker is on its way back from the fault before
            there = there or armed in ground.fleet.answering()
        if there:
            ground.more_work(_WORK)
        if needs_orphans:
            needs_orphans = not _orphan_something(ground)
    return dead


def _orphan_something(ground: Ground) -> bool:
    """Kill a worker that holds tasks, so that the rescuer has something to do; whether it still held one in the end."""
    held = _held(ground)
    name = next((name for name in ground.fleet.names("worker") if name in held), None)
    if name is None:
        return False
    ground.fleet.kill(name)
    ground.fleet.replace(name)
    return bool(_held(ground).get(name))


def _armed_relay(ground: Ground, spec: str) -> str:
    """It must lead to get to its moment: the others leave."""
    others = ground.fleet.names("relay")
    armed = ground.fleet.start_relay(spec)
    ground.fleet.processes.stop(others, _LEAVE_SECONDS)
    return armed


def _fill_up(ground: Ground) -> None:
    """As many relays as there should be."""
    while len(ground.fleet.names("relay")) < RELAYS:
        ground.fleet.start_relay()


def kill_point(*points: str) -> Fault:
    """One point after another, each as often as the others."""
    faults = [kill_at(point) for point in points]

    def fault(ground: Ground) -> Struck | None:
        turn: int = ground.kept.get("points", 0)
        ground.kept["points"] = turn + 1
        return faults[turn % len(faults)](ground)

    return fault
