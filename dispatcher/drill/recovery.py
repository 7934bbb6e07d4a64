"""How long the system needs to get hold of everything again after a fault, apart from the work that waits.

Three things, each read from the history and from the notes of every publish; the last of them to come true counts:

messages  every task that was ready when the fault was over has been claimed, or has a message that the relay stored and
          the broker confirmed afterwards; where an old message is good still, its task counts when it is claimed
attempts  everything that ran in a process that died was given back, and has a message
claims    no silence any more: no moment of half a second in which tasks were ready and nobody claimed anything

``work`` is the other figure: until the last task committed before the fault had ended, after all that stood before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from dispatcher.drill.facts import Event, Facts
from state.machine import Reason, State

__all__ = ["NONE", "SILENCE_SECONDS", "Ready", "ready_times", "recovery"]

SILENCE_SECONDS = 0.5
NONE: dict[str, float | int | None] = {
    "p50": None, "p99": None, "max": None, "n": 0, "work_p50": None, "work_p99": None,
}  # fmt: skip
_NEVER = float("inf")
_Publish = tuple[float, float]
"""When the relay began, and when the broker had confirmed it."""


class Ready(NamedTuple):
    """A time in which a task could have been claimed."""

    task: str
    begins: float
    ends: float
    """Never, if it is ready still."""


class _Orphan(NamedTuple):
    """An attempt that the rescuer gave back, or ended."""

    task: str
    begins: float
    ends: float
    again: Ready | None
    """The time that followed, unless the task was at its end."""


def recovery(facts: Facts) -> dict[str, dict[str, float | int | None]]:
    """Percentiles of the recoveries and of the work, by kind of fault and for ``all``."""
    seconds, work = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    ready = list(ready_times(facts.events))
    orphans = list(_orphans(facts.events, ready))
    silences = list(_silences(facts.events, ready))
    starts = sorted(float(fault["at"]) for fault in facts.faults)
    for fault in facts.faults:
        at, held = float(fault["at"]), float(fault["held"])
        following = bisect_right(starts, at)
        until = starts[following] if following < len(starts) else _NEVER
        moments = [
            _messages(fault, ready, facts.published),
            _attempts(fault, orphans, facts.published),
            max((end for begin, end in silences if begin < until and end > at), default=at),
        ]
        done = max((task.finished for task in facts.tasks.values() if task.created <= at and task.finished), default=at)
        for kind in (str(fault["fault"]), "all"):
            seconds[kind].append(max(0.0, max(moments) - at - held))
            work[kind].append(max(0.0, done - at - held))
    return {kind: _figures(found, work[kind]) for kind, found in seconds.items()}


def _messages(fault: Mapping[str, Any], ready: Iterable[Ready], published: Mapping[str, list[_Publish]]) -> float:
    """When the last task that was ready had a new message, or needed none."""
    over = float(fault["at"]) + float(fault["seconds"])
    there = (time for time in ready if time.begins <= over < time.ends)
    return max((_reached(time, over, published) for time in there), default=float(fault["at"]))


def _attempts(fault: Mapping[str, Any], orphans: Iterable[_Orphan], published: Mapping[str, list[_Publish]]) -> float:
    """When the last attempt whose process was lost had been given back, with a message for the next one."""
    over = float(fault["at"]) + float(fault["seconds"])
    mine = (orphan for orphan in orphans if orphan.begins <= over < orphan.ends)
    return max(
        (one.ends if one.again is None else _reached(one.again, over, published) for one in mine),
        default=float(fault["at"]),
    )


def _reached(time: Ready, after: float, published: Mapping[str, list[_Publish]]) -> float:
    """When the broker had confirmed a message for it that began its way after ``after``, or it was ready no more."""
    confirmed = (end for began, end in published.get(time.task, ()) if began > after and end >= time.begins)
    return min(min(confirmed, default=_NEVER), time.ends)


def ready_times(events: Mapping[str, list[Event]]) -> Iterator[Ready]:
    """Every time in which a task was queued."""
    for task, history in events.items():
        for event, following in pairwise([*history, None]):
            if event is not None and event.to_state == State.QUEUED:
                yield Ready(task, event.at, _NEVER if following is None else following.at)


def _orphans(events: Mapping[str, list[Event]], ready: Iterable[Ready]) -> Iterator[_Orphan]:
    following_times = {(time.task, time.begins): time for time in ready}
    for task, history in events.items():
        for event, following in pairwise(history):
            if event.to_state == State.RUNNING and following.reason == Reason.LEASE_EXPIRED:
                yield _Orphan(task, event.at, following.at, following_times.get((task, following.at)))


def _silences(events: Mapping[str, list[Event]], ready: Iterable[Ready]) -> Iterator[tuple[float, float]]:
    """Times in which something was ready and nobody claimed anything, longer than it may take."""
    claims = [event.at for history in events.values() for event in history if event.to_state == State.RUNNING]
    moves = [(at, 0) for at in claims] + [(time.begins, 1) for time in ready]
    moves += [(time.ends, -1) for time in ready if time.ends < _NEVER]
    waiting, since = 0, 0.0
    for at, change in sorted(moves):
        if waiting and (change == 0 or waiting + change == 0) and at - since > SILENCE_SECONDS:
            yield since, at
        if change == 0 or waiting == 0:
            since = at
        waiting += change


def _figures(seconds: list[float], work: list[float]) -> dict[str, float | int | None]:
    return {
        "p50": _percentile(seconds, 50), "p99": _percentile(seconds, 99), "max": _percentile(seconds, 100),
        "n": len(seconds), "work_p50": _percentile(work, 50), "work_p99": _percentile(work, 99),
    }  # fmt: skip


def _percentile(values: list[float], percent: int) -> float | None:
    """``None`` also where something never came."""
    found = sorted(values)[min(len(values) - 1, len(values) * percent // 100)]
    return round(found, 2) if found < _NEVER else None
