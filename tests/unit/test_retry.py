from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher import OptionError, Retry
from dispatcher.outcomes import Cancel, RetryIn, Snooze


def one() -> float:
    return 1.0


@pytest.mark.parametrize(
    ("tries", "bound"), [(1, 2.0), (2, 6.0), (3, 18.0), (4, 50.0), (1000, 50.0), (32767, 50.0), (0, 2.0)]
)
def test_bound_grows_exponentially_up_to_the_longest(tries: int, bound: float) -> None:
    policy = Retry(backoff=2, factor=3, max_delay=50)
    assert policy.delay(tries, one) == bound
    assert policy.delay(tries, lambda: 0.25) == bound / 4
    assert Retry(backoff=2, factor=3, max_delay=50, jitter=False).delay(tries, lambda: 0.25) == bound


@settings(max_examples=40, deadline=None)
@given(
    tries=st.integers(1, 32767),
    backoff=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    most=st.floats(0, 1e9),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_delay_is_never_negative_nor_above_the_longest(
    tries: int, backoff: float, factor: float, most: float, chance: float
) -> None:
    assert 0 <= Retry(backoff=backoff, factor=factor, max_delay=most).delay(tries, lambda: chance) <= most


def test_which_errors_are_worth_another_try() -> None:
    policy = Retry(on=OSError, not_on=[FileNotFoundError])
    assert policy.wants(ConnectionError())
    assert not policy.wants(FileNotFoundError())
    assert not policy.wants(ValueError())
    assert Retry().wants(ValueError())
    assert not Retry().wants(KeyboardInterrupt())


def test_policy_survives_being_stored() -> None:
    policy = Retry(max_attempts=3, backoff=timedelta(seconds=5), on=(OSError, "shop.Busy"), not_on=FileNotFoundError)
    back = Retry.from_meta({**policy.to_meta(), "from_the_future": 1})
    assert back.to_meta() == policy.to_meta()
    assert back.wants(ConnectionError())  # by the name of its base class
    assert not back.wants(FileNotFoundError())
    assert not back.wants(ValueError())
    assert back.delay(2, one) == 10.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_attempts": 0}, "max_attempts must be 1 to 32767, not 0"),
        ({"max_attempts": True}, "max_attempts must be a whole number, not bool"),
        ({"backoff": -1}, "backoff must be at least 0, not -1"),
        ({"backoff": "1"}, "backoff must be a number, not str"),
        ({"factor": 0.5}, "factor must be at least 1"),
        ({"max_delay": float("inf")}, "max_delay must be at least 0, not inf"),
        ({"on": 5}, "on must name exception classes, not 5"),
        ({"not_on": [int]}, "not_on must name exception classes"),
    ],
)
def test_illegal_policies_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Retry(**arguments)


def test_signals_take_seconds_or_timedelta() -> None:
    assert RetryIn(timedelta(minutes=1), "busy").seconds == 60
    assert str(Snooze(1.5)) == "snooze for 1.5 s"
    assert Cancel("no such order").why == "no such order"
    with pytest.raises(ValueError, match="RetryIn takes seconds >= 0"):
        RetryIn(-1)
    with pytest.raises(TypeError, match="Snooze takes seconds or a timedelta, not str"):
        Snooze("1")  # type: ignore[arg-type]
