"""Sharing out what may be outstanding over the lanes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.relay.flow import MOST_TOGETHER, Demand, Shares, share_out


def three(high: bool = False, default: bool = False, low: bool = False) -> dict[str, bool]:
    return {"high": high, "default": default, "low": low}


def test_a_single_hungry_lane_gets_what_its_workers_want() -> None:
    limits = share_out([Demand("w", 40, ("q",))], {"q": three(default=True)})
    assert limits == {("q", "high"): 10, ("q", "default"): 40, ("q", "low"): 10}


def test_lanes_without_work_share_the_want() -> None:
    assert set(share_out([Demand("w", 30, ("q",))], {"q": three()}).values()) == {10}


def test_every_lane_keeps_a_little() -> None:
    queues = tuple(f"q{n}" for n in range(50))
    assert min(share_out([Demand("w", 4, queues)], {queue: three() for queue in queues}).values()) == 2


def test_the_wants_of_several_workers_add_up() -> None:
    demands = [Demand("a", 10, ("q",)), Demand("b", 30, ("q", "r"))]
    limits = share_out(demands, {"q": {"default": True}, "r": {"default": True}})
    assert limits == {("q", "default"): 10 + 15, ("r", "default"): 15}


@given(
    st.lists(st.tuples(st.integers(1, 3000), st.sets(st.sampled_from("abcdef"), min_size=1)), min_size=1, max_size=5),
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.booleans(), st.booleans(), st.booleans())),
)
def test_the_sum_stays_within_one_and_a_half_times_the_want(
    workers: list[tuple[int, set[str]]], hungry: dict[str, tuple[bool, bool, bool]]
) -> None:
    lanes = {queue: three(*hungry.get(queue, (False, False, False))) for queue in "abcdef"}
    demands = [Demand(f"w{n}", want, tuple(sorted(queues))) for n, (want, queues) in enumerate(workers)]
    limits = share_out(demands, lanes)
    for limit in limits.values():
        assert limit >= 2
    total = sum(demand.want for demand in demands)
    slack = sum(3 * len(demand.queues) for demand in demands) * 2.5  # the least of each lane, and rounding
    assert sum(limits.values()) <= 1.5 * total + slack


def announcement(worker: str, want: int, *queues: str, **more: Any) -> Any:
    return SimpleNamespace(data=json.dumps({"worker": worker, "want": want, "queues": queues, **more}).encode())


LANE = ("q", "default")
HUNGRY = {"q": {"default": True}}


def test_a_lane_whose_messages_carry_several_tasks_may_have_fewer_of_them() -> None:
    assert share_out([Demand("w", 1600, ("q",))], HUNGRY, {LANE: 16}) == {LANE: 100}
    assert share_out([Demand("w", 1600, ("q",), together=8.0)], HUNGRY) == {LANE: 200}
    assert share_out([Demand("w", 1600, ("q",), together=8.0)], HUNGRY, {LANE: 16}) == {LANE: 100}
    assert share_out([Demand("a", 800, ("q",), together=8.0), Demand("b", 100, ("q",))], HUNGRY) == {LANE: 200}


async def test_short_tasks_of_a_large_batch_travel_together() -> None:
    shares = Shares()
    assert shares.together(*LANE, 1000) == 1  # nobody has said yet what he wants
    await shares.announced(announcement("w", 8000, "q"))
    assert shares.changes(HUNGRY) == {LANE: 8000}
    shares.was_set(LANE, 8000)
    assert shares.together(*LANE, 10) == 1 and shares.changes(HUNGRY) == {}
    assert shares.together(*LANE, 128) == 4
    assert shares.changed.is_set() and shares.changes(HUNGRY) == {LANE: 2000}
    assert shares.together(*LANE, 1000) == MOST_TOGETHER
    assert shares.changes(HUNGRY) == {LANE: 500}
    shares.was_set(LANE, 500)
    assert shares.limit(*LANE) == 8000  # in tasks, as before


async def test_long_tasks_never_travel_together() -> None:
    shares = Shares()
    await shares.announced(announcement("w", 125, "q"))  # a hundred slots, and next to no prefetch
    shares.changes(HUNGRY)
    assert shares.together(*LANE, 1000) == 1


async def test_a_lane_is_sized_by_what_arrives_once_the_last_large_batch_is_long_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("dispatcher.relay.flow.time.monotonic", lambda: now)
    shares = Shares()
    await shares.announced(announcement("w", 8000, "q"))
    shares.changes(HUNGRY)
    assert shares.together(*LANE, 1000) == 16
    now += 6
    assert shares.changes(HUNGRY) == {LANE: 8000}
    await shares.announced(announcement("w", 8000, "q", together=16))  # the stream is still full of them
    assert shares.changes(HUNGRY) == {LANE: 500}


async def test_only_changes_by_a_quarter_are_set() -> None:
    shares = Shares()
    await shares.announced(announcement("w", 40, "q"))
    assert shares.changed.is_set() and shares.queues == {"q"}
    lanes = {"q": {"default": True}}
    assert shares.changes(lanes) == {("q", "default"): 40}
    shares.was_set(("q", "default"), 40)
    assert not shares.changed.is_set()
    await shares.announced(announcement("w", 48, "q"))
    assert shares.changes(lanes) == {}
    await shares.announced(announcement("w", 60, "q"))
    assert shares.changes(lanes) == {("q", "default"): 60}
    shares.was_set(("q", "default"), 60)
    shares.forget_limits()
    assert shares.changes(lanes) == {("q", "default"): 60}


async def test_of_many_lanes_only_doubled_and_halved_limits_are_set() -> None:
    """A fleet that finds its pace would otherwise send a storm of updates, each of which the server writes down."""
    queues = [f"q{number}" for number in range(40)]
    lanes = {queue: {"default": True} for queue in queues}
    shares = Shares()
    await shares.announced(announcement("w", 400, *queues))
    for key, limit in shares.changes(lanes).items():
        assert limit == 10
        shares.was_set(key, limit)
    for want, limits in ((800, set()), (840, {21}), (200, set()), (160, {4})):
        await shares.announced(announcement("w", want, *queues))
        assert set(shares.changes(lanes).values()) == limits


async def test_a_worker_that_left_or_fell_silent_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("dispatcher.relay.flow.time.monotonic", lambda: now)
    shares = Shares()
    await shares.announced(announcement("a", 10, "q"))
    await shares.announced(announcement("b", 10, "r"))
    await shares.announced(announcement("a", 0))
    assert shares.queues == {"r"}
    now += 31
    assert shares.changes({"r": {"default": True}}) == {}
    assert shares.queues == set()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"worker": 1, "want": "x", "queues": []}'])
async def test_an_unreadable_announcement_changes_nothing(data: bytes) -> None:
    shares = Shares()
    await shares.announced(SimpleNamespace(data=data))
    assert not shares.changed.is_set() and shares.queues == set()
