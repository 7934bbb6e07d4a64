"""How much a worker takes at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from workers.pace import Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr("workers.pace.time.monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_before_anything_was_seen_it_is_a_little_more_than_the_slots() -> None:
    pace = Pace(16)
    assert pace.ahead == 0
    assert 16 < pace.want <= 32


def test_fast_tasks_are_taken_ahead_by_the_hundred(clock: Callable[[float], None]) -> None:
    pace = Pace(16)
    for _ in range(40):
        clock(0.05)
        pace.settled(500, more=True)  # 10,000 a second
    assert pace.rate == pytest.approx(10_000, rel=0.05)
    assert pace.ahead >= 200 and pace.want > 1000


def test_long_tasks_are_not_taken_ahead(clock: Callable[[float], None]) -> None:
    pace = Pace(4)
    for _ in range(40):
        clock(0.25)
        pace.settled(1, more=True)
    assert pace.ahead == 0 and pace.want <= 8


def test_a_slow_worker_of_many_slots_holds_little_more_than_it_runs(clock: Callable[[float], None]) -> None:
    pace = Pace(10)
    for _ in range(200):
        clock(0.05)
        pace.settled(5, more=True)  # ten slots, 100 ms a task
    assert pace.rate == pytest.approx(100, rel=0.05)
    assert pace.ahead == 0 and pace.want <= 13


def test_it_slows_down_with_its_tasks_and_only_then(clock: Callable[[float], None]) -> None:
    pace = Pace(4)
    for _ in range(20):
        clock(0.05)
        pace.settled(500, more=True)
    fast = pace.rate
    pace.resume()
    clock(60)  # nothing to do
    pace.resume()
    clock(0.06)
    pace.settled(1, more=False)
    assert pace.rate == pytest.approx(fast, rel=0.05)
    for _ in range(400):
        clock(0.1)
        pace.settled(1, more=True)
    assert pace.rate < 50


def test_it_is_bounded(clock: Callable[[float], None]) -> None:
    pace = Pace(1)
    for _ in range(100):
        clock(0.05)
        pace.settled(1_000_000, more=True)
    assert pace.want <= 1 + 1000 + 2000
