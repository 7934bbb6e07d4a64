"""The leader's sleep ends when it has to, whatever a worker was told of."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from dispatcher.relay.leader import CLAIM_SECONDS, Leader


class _Sleep:
    """Is woken as often as it is asked, at once; remembers how long it was to be."""

    def __init__(self, hints: set[str]) -> None:
        self.hints, self.asked, self.event = hints, list[float](), asyncio.Event()

    async def wait(self, seconds: float) -> None:
        self.asked.append(seconds)
        assert len(self.asked) < 3, "it sleeps on"


def _leader(hints: set[str], told: dict[Any, float], *, stopping: bool = False) -> Any:
    leader: Any = Leader.__new__(Leader)
    leader._settings = SimpleNamespace(backstop=timedelta(seconds=40))
    leader._last_look = time.monotonic()
    leader._next_due = leader._next_lease = leader._next_fold = leader._next_trim = float("inf")
    leader._stopping, leader.sleep, leader.drain = stopping, _Sleep(hints), SimpleNamespace(told=told)
    return leader


@pytest.mark.parametrize(
    ("hints", "told", "stopping"),
    [
        ({"entry"}, False, False),  # what was told has been published after all
        ({"entry"}, True, True),
        ({"entry", "timers"}, True, False),
        ({"outbox"}, True, False),
        (set(), False, False),
    ],
)
async def test_it_wakes_up_for_everything_but_a_task_that_a_worker_was_told_of(
    hints: set[str], told: bool, stopping: bool
) -> None:
    leader = _leader(hints, {uuid4(): time.monotonic()} if told else {}, stopping=stopping)
    assert await leader._doze() is ("timers" in hints)
    assert len(leader.sleep.asked) == 1 and not leader.sleep.hints


async def test_what_was_told_longer_ago_than_a_claim_takes_is_seen_to_at_once() -> None:
    leader = _leader({"entry"}, {uuid4(): time.monotonic() - 2 * CLAIM_SECONDS})
    assert await leader._doze() is False
    assert leader.sleep.asked == []
