"""Ids are UUIDv7: unique, rising, and they carry their time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state import ids


@given(st.integers(min_value=0, max_value=10_000))
def test_many_ids_are_unique_and_rise(count: int) -> None:
    made = ids.new_ids(count)
    assert len(set(made)) == len(made) == count
    assert made == sorted(made)


def test_ids_are_version_7() -> None:
    for made in ids.new_ids(5000):
        assert made.version == 7
        assert made.variant == RFC_4122


def test_calls_follow_each_other() -> None:
    made = [ids.new_id() for _ in range(2000)]
    assert made == sorted(set(made))


def test_threads_never_share_an_id() -> None:
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(ids.new_ids, [500] * 40))
    assert len({made for batch in batches for made in batch}) == 20_000
    assert all(batch == sorted(batch) for batch in batches)


def test_a_clock_that_steps_back_does_not_break_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids.new_id()
    monkeypatch.setattr("state.ids.time.time_ns", lambda: 0)
    assert ids.new_id() > before


def test_the_id_carries_its_time() -> None:
    start = datetime.now(UTC) - timedelta(milliseconds=1)
    stamped = ids.created_at(ids.new_id())
    # the counter may borrow from the next milliseconds when many ids were made before
    assert start <= stamped <= datetime.now(UTC) + timedelta(seconds=1)
    assert stamped.tzinfo is UTC


@given(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_first_id_at_is_a_lower_bound_of_its_millisecond(moment: datetime) -> None:
    bound = ids.first_id_at(moment)
    assert bound.version == 7
    assert timedelta(0) <= moment - ids.created_at(bound) < timedelta(milliseconds=2)
    same_millisecond = UUID(int=bound.int | 0xFFF << 64)
    assert bound <= same_millisecond < ids.first_id_at(moment + timedelta(milliseconds=2))


def test_a_moment_without_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        ids.first_id_at(datetime(2026, 1, 1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_makes_other_ids() -> None:
    ids.new_id()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(send, ids.new_id().bytes)
        os._exit(0)
    os.close(send)
    own = ids.new_id()
    with os.fdopen(receive, "rb") as pipe:
        other = UUID(bytes=pipe.read(16))
    assert os.waitpid(child, 0)[1] == 0
    assert other != own
