"""Filters are refused with one line that names what is wrong; cursors are opaque and checked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from dispatcher.cli.asking import ago, moment
from dispatcher.errors import OptionError
from dispatcher.filters import Filters, cursor_of
from state.ids import created_at, first_id_at, new_id
from state.listing import Shape, listing, probe, walkable
from state.machine import State


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sate": "failed"}, "no filter 'sate'; did you mean 'state'?"),
        ({"state": "faild"}, "no state 'faild'; did you mean 'failed'?"),
        ({"state": ["failed", "x"]}, "no state 'x'"),
        ({"queue": ""}, "queue is '', it must be a text that is not empty"),
        ({"tag": 7}, "tag is 7, it must be a text"),
        ({"key": "a\x00b"}, "key is"),
        ({"created_after": datetime(2026, 1, 1)}, "created_after has no time zone"),
        ({"created_before": "today"}, "created_before is 'today', it must be a datetime"),
        ({"created_after": datetime(1960, 1, 1, tzinfo=UTC)}, "created_after is 1960"),
        ({"error": "x", "state": "queued"}, "only failed and cancelled tasks can be searched"),
    ],
)
def test_bad_filters_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as refused:
        Filters.of(given, 50, None)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("limit", [0, -1, 1001, True, "5", 1.0])
def test_limit(limit: Any) -> None:
    with pytest.raises(OptionError, match="a whole number from 1 to 1000"):
        Filters.of({}, limit, None)


def test_cursor_goes_on_below() -> None:
    last = new_id()
    assert Filters.of({}, 1, cursor_of(last)).high == last


@pytest.mark.parametrize("cursor", ["", "x", "äöü", "AAAA", cursor_of(UUID(int=0))[:-1], "A" * 23, "\x00"])
def test_foreign_cursors_are_refused(cursor: str) -> None:
    with pytest.raises(OptionError, match="is not one that a page"):
        Filters.of({}, 1, cursor)


def test_error_text_means_failed_and_cancelled() -> None:
    assert Filters.of({"error": "x"}, 1, None).states == {State.FAILED, State.CANCELLED}
    assert Filters.of({"error": "x", "state": ["failed", "queued"]}, 1, None).states == {State.FAILED}


def test_window_is_in_milliseconds_of_the_id() -> None:
    now = datetime.now(UTC)
    filters = Filters.of({"created_after": now, "created_before": now + timedelta(milliseconds=1)}, 1, None)
    assert filters.low == first_id_at(now) < filters.high
    assert created_at(filters.low) <= now


@pytest.mark.parametrize(
    "states", [frozenset(), frozenset({State.SUCCEEDED}), frozenset(State), frozenset({State.QUEUED})]
)
@pytest.mark.parametrize("names", ["", "queue", "type queue", "tag type queue error", "key tag"])
def test_every_shape_names_only_the_parameters_it_is_given(states: frozenset[State], names: str) -> None:
    shape = Shape(states=states, **dict.fromkeys(names.split(), True))  # type: ignore[arg-type]
    allowed = {"low", "high", "most", *names.split(), *(["states"] if states else [])}
    assert set(listing(shape, "p.id").numbered("dispatcher")[1]) <= allowed
    if len(walkable(shape)) > 1:
        assert set(probe(walkable(shape)).numbered("dispatcher")[1]) <= allowed


def test_times_as_people_write_them() -> None:
    assert moment("--since", None) is None
    assert moment("--since", "2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert moment("--since", "2026-01-31T12:00:00+01:00") == datetime(2026, 1, 31, 11, tzinfo=UTC)
    hours = moment("--since", "2h")
    assert hours is not None and timedelta(hours=1.9) < datetime.now(UTC) - hours < timedelta(hours=2.1)
    for text in ("", "soon", "999999999w", "2h ago", "2026-13-01"):
        with pytest.raises(OptionError, match=r"--since .* is not a time"):
            moment("--since", text)


def test_ages() -> None:
    now = datetime.now(UTC)
    assert ago(None) == ""
    assert [ago(now - timedelta(**{unit: 5})) for unit in ("seconds", "minutes", "hours", "days")] == [
        "5s",
        "5m",
        "5h",
        "5d",
    ]
    assert ago(now + timedelta(minutes=5, seconds=5)) == "in 5m"
