"""The course of a drill: start everything, let work arrive, strike, let it go on; at last wait until all is calm."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from dispatcher.bus import Bus
from dispatcher.dev.prepare import prepare
from dispatcher.drill.drills import Drill
from dispatcher.drill.fleet import Fleet, Gone
from dispatcher.drill.ground import Fault, Ground
from dispatcher.drill.place import Place
from dispatcher.drill.publishes import note_publishes
from dispatcher.errors import BusError, DispatcherError
from dispatcher.streams.config import DEFAULT_STREAM

__all__ = ["CALM_SECONDS", "Course", "Patience", "perform"]

CALM_SECONDS = 60.0
"""After the last fault, for every task to end that was there; and for the others after the last one was created."""
_UNDER_WAY_SECONDS = (0.05, 0.5)
"""Between new work and the fault, which should hit while that work is under way."""
_TRIES = 4
_NOT_FINAL = "SELECT count(*) FROM {s}.tasks WHERE state < 6 AND created_at <= %s"
_BUSY = """
SELECT (SELECT count(*) FROM {s}.outbox) + (SELECT count(*) FROM {s}.sessions) + (SELECT count(*) FROM {s}.claims)
"""


@dataclass(frozen=True)
class Patience:
    """How long a drill waits, in seconds."""

    strikes: float = float("inf")
    """For all faults; those that did not come by then are left out."""
    calm: float = CALM_SECONDS
    client: float = 180.0
    """For the client to create what is left: how fast it does is no matter of recovery."""
    quiet: float = 60.0
    """After that, for the last lease to end and the broker to forget what it redelivers."""


_PATIENT = Patience()


@dataclass
class Course:
    """What happened, apart from what the ledgers and the database say."""

    asked: int
    done: int = 0
    stuck: int = 0
    """Tasks that were not final a minute after the last fault was over, or after the last task was created."""
    published: bool = True
    calm_after: float | None = None
    """Seconds from the last fault until every task was final."""
    fenced: list[str] = field(default_factory=list)
    wrong_ends: list[str] = field(default_factory=list)
    started: int = 0
    broker: dict[str, int] = field(default_factory=dict)
    """What the broker still held when all was calm."""


def perform(place: Place, drill: Drill, say: Callable[[str], None], patience: Patience = _PATIENT) -> Course:
    """Run the drill to its end.  Raises ``DispatcherError`` when processes cannot be started or do not obey."""
    prepare(place.direct)
    with psycopg.connect(place.direct.database_url or "", autocommit=True) as connection:
        drill.work.tables(connection)
        note_publishes(connection, place.plan.schema)
    fleet = Fleet(place, drill.work)
    ground = Ground(place, fleet, random.Random(place.plan.seed), say)
    course = Course(place.plan.kills)
    say(f"{place.plan.drill}: seed {place.plan.seed}, {place.versions}")
    try:
        fleet.start_all()
        _strikes(ground, drill, course, say, time.monotonic() + patience.strikes)
        _calm_down(ground, course, patience)
        say(f"calm again, {course.stuck} tasks stuck; asking everybody to leave")
        fleet.drain()
        course.broker = _broker(ground)
    finally:
        ground.close()
        fleet.close()
    course.fenced, course.wrong_ends, course.started = fleet.fenced, fleet.wrong_ends, fleet.started
    return course


def _strikes(ground: Ground, drill: Drill, course: Course, say: Callable[[str], None], until: float) -> None:
    """Time to get up again, new work, a moment, a fault; again and again."""
    plan = ground.place.plan
    share = plan.tasks / (plan.kills + 1)
    faults, weights = zip(*drill.faults, strict=True)
    for number in range(1, plan.kills + 1):
        if time.monotonic() > until:
            return
        ground.wait(ground.dice.uniform(*drill.gap))
        ground.hand_out(share * number, share / 60)
        ground.wait(ground.dice.uniform(*_UNDER_WAY_SECONDS))
        for again in range(_TRIES):
            if again:
                ground.more_work(6)
            if _done(ground, ground.dice.choices(faults, weights)[0]):
                course.done += 1
                break
            ground.wait(0.3)
        if ground.done and number % max(1, plan.kills // 10) == 0:
            last = ground.done[-1]
            say(f"{course.done} of {plan.kills} faults done; the last one: {last['fault']} ({last['target']})")
    while drill.goes_on and _done(ground, faults[0]):
        course.done += 1


def _done(ground: Ground, fault: Fault) -> bool:
    try:
        return ground.strike(fault)
    except (BusError, TimeoutError, Gone):
        return False  # the broker, or a process, is still on its way back from the fault before


def _calm_down(ground: Ground, course: Course, patience: Patience) -> None:
    """The last tasks arrive; what was there when the last fault was over has a minute to be final, so have they."""
    ground.undo_everything()
    ground.place.database_proxy.heal()
    ground.place.nats_proxy.heal()
    began = time.monotonic()
    [[over]] = ground.rows("SELECT clock_timestamp()")
    ground.fleet.tell_client(ground.place.plan.tasks)

    def unfinished(until: str) -> int:
        return int(ground.rows(_NOT_FINAL, until)[0][0])

    if not ground.until(lambda: not unfinished(over), patience.calm):
        course.stuck = unfinished(over)
    ground.until(lambda: ground.fleet.published, patience.client)
    course.published = ground.fleet.published
    if ground.until(lambda: not unfinished("infinity"), patience.calm) and course.published:
        course.calm_after = round(time.monotonic() - began, 2)
    course.stuck = max(course.stuck, unfinished("infinity"))
    # workers that were killed last may have sessions that have not ended yet
    ground.until(lambda: not ground.rows(_BUSY)[0][0] and not sum(_broker(ground).values()), patience.quiet)
    if not course.published:
        raise DispatcherError(f"the client did not come to its end; {ground.fleet.processes.last_words('client-1')}")


def _broker(ground: Ground) -> dict[str, int]:
    """Messages in the stream and deliveries that its consumers still wait for."""
    stream = ground.subjects.stream_name(DEFAULT_STREAM)

    async def ask(bus: Bus) -> dict[str, int]:
        messages = (await bus.api(f"STREAM.INFO.{stream}"))["state"]["messages"]
        consumers: list[dict[str, Any]] = (await bus.api(f"CONSUMER.LIST.{stream}")).get("consumers") or []
        return {
            "messages": int(messages),
            "ack_pending": sum(int(consumer["num_ack_pending"]) for consumer in consumers),
        }

    try:
        return ground.with_bus(ask)
    except (BusError, TimeoutError):
        return {"unreachable": 1}
