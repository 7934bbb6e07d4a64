from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from dispatcher import Dispatcher, OptionError, QueueNameInvalid, Retry, RunAtNaive
from dispatcher.asked import Asked
from dispatcher.options import CALL_CHECKS, check_options
from state.machine import Flag


@pytest.fixture
def charge() -> Any:
    app = Dispatcher("shop")

    @app.task(name="charge", queue="billing", retry=Retry(max_attempts=7), timeout=30, tags=["money"])
    def charge(order_id: int) -> None: ...

    return charge


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qeue": "x"}, "no option 'qeue'; did you mean 'queue'?"),
        ({"name": "x"}, "no option 'name'"),
        ({"max_attempt": 3}, "did you mean 'max_attempts'?"),
        ({"delay": -1}, "delay must be at least 0 s, not -1"),
        ({"delay": float("nan")}, "delay must be at least 0 s, not nan"),
        ({"delay": "5"}, "delay must be seconds or a timedelta, not str"),
        ({"delay": True}, "delay must be seconds or a timedelta, not bool"),
        ({"delay": 1e12}, "delay must be at most 100 years"),
        ({"delay": 5, "run_at": datetime.now(UTC)}, "delay and run_at exclude each other"),
        ({"run_at": datetime(2030, 1, 1)}, "run_at has no time zone"),
        ({"run_at": 5}, "run_at must be a datetime, not int"),
        ({"queue": "a.b"}, "queue 'a.b' is not a legal name: use 1 to 64 letters, digits, '_' or '-'"),
        ({"queue": ""}, "queue '' is not a legal name"),
        ({"queue": "q" * 65}, "is not a legal name"),
        ({"queue": "ü"}, "is not a legal name"),
        ({"queue": "a\n"}, "is not a legal name"),
        ({"queue": None}, "queue None is not a legal name"),
        ({"lane": "high>"}, "lane 'high>' is not a legal name"),
        ({"max_attempts": 0}, "max_attempts must be 1 to 32767, not 0"),
        ({"max_attempts": 40000}, "max_attempts must be 1 to 32767"),
        ({"max_attempts": 1.5}, "max_attempts must be a whole number, not float"),
        ({"retry": 3}, "retry must be a Retry"),
        ({"soft_timeout": 30}, "soft_timeout must be less than timeout, not 30 s of 30 s"),
        ({"soft_timeout": 5, "timeout": 5}, "soft_timeout must be less than timeout"),
        ({"deadline": 5, "delay": 5}, "deadline must be later than delay, not 5 s after a delay of 5 s"),
        ({"deadline": 0}, "deadline must be more than 0 s"),
        ({"pool": "process"}, "no option 'pool'"),
        ({"timeout": 0}, "timeout must be more than 0 s, not 0"),
        ({"expires": timedelta(0)}, "expires must be more than 0 s"),
        ({"key": ""}, "key must have 1 to 200 characters, not 0"),
        ({"key": "k" * 201}, "key must have 1 to 200 characters, not 201"),
        ({"key": 5}, "key must be text, not int"),
        ({"key": "a\0b"}, "key must not contain NUL characters"),
        ({"key": "\ud800"}, "half a surrogate pair"),
        ({"key_ttl": 0}, "key_ttl must be more than 0 s"),
        ({"tags": "one"}, "tags must be several words, for example ['one'], not str"),
        ({"tags": [1]}, "each of tags must be text, not int"),
        ({"tags": ["a" * 201]}, "each of tags must have 1 to 200 characters"),
        ({"headers": {"a": 1}}, "headers must map text to text"),
        ({"headers": ["a"]}, "headers must be a mapping"),
        ({"headers": {"a": "\0"}}, "headers must not contain NUL characters"),
    ],
)
def test_bad_option_is_refused_with_its_name_and_the_cure(charge: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        charge.options(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_special_errors_have_their_own_classes(charge: Any) -> None:
    with pytest.raises(QueueNameInvalid):
        charge.options(queue="a b")
    with pytest.raises(RunAtNaive):
        charge.options(run_at=datetime(2030, 1, 1))


def test_times_are_seconds_or_timedelta_and_moments_become_utc() -> None:
    berlin = timezone(timedelta(hours=2))
    checked = check_options({"delay": timedelta(minutes=1), "timeout": 2, "run_at": None, "expires": 1.5}, CALL_CHECKS)
    assert checked == {"delay": 60.0, "timeout": 2.0, "run_at": None, "expires": 1.5}
    moment = check_options({"run_at": datetime(2030, 1, 1, 2, tzinfo=berlin)}, CALL_CHECKS)["run_at"]
    assert moment == datetime(2030, 1, 1, tzinfo=UTC)
    assert moment.tzinfo is UTC


def test_tags_keep_their_order_and_lose_doubles() -> None:
    assert check_options({"tags": ["b", "a", "b"]}, CALL_CHECKS) == {"tags": ("b", "a")}


def test_call_options_win_over_those_of_the_type(charge: Any) -> None:
    asked = charge.options(queue="fast", tags=["x"], delay=3).call(1).asked
    assert (asked.queue, asked.lane, asked.delay, asked.max_tries) == ("fast", "default", 3.0, 7)
    assert asked.meta == '{"tags":["x"]}'
    assert charge.call(1).asked.queue == "billing"


def test_type_options_are_not_repeated_in_the_row() -> None:
    plain = Asked({"timeout": 30.0, "retry": Retry(max_attempts=7)}, {})
    assert plain.meta is None
    assert plain.max_tries == 7
    assert plain.plain
    over = Asked({"timeout": 30.0}, {"timeout": 5.0, "retry": Retry(max_attempts=2)})
    assert over.meta is not None
    assert '"timeout":5.0' in over.meta
    assert '"max_attempts":2' in over.meta
    assert over.max_tries == 2
    assert not over.plain


def test_max_attempts_goes_before_retry_and_the_call_before_the_type() -> None:
    policy = Retry(max_attempts=9)
    assert Asked({}, {}).max_tries == Retry().max_attempts
    assert Asked({"max_attempts": 3, "retry": policy}, {}).max_tries == 3
    assert Asked({"max_attempts": 3}, {"retry": policy}).max_tries == 9
    assert Asked({"retry": policy}, {"max_attempts": 4}).max_tries == 4


def test_of_delay_and_run_at_the_later_word_holds(charge: Any) -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    asked = charge.options(delay=5).options(run_at=moment).call(1).asked
    assert (asked.delay, asked.run_at) == (None, moment)
    asked = charge.options(run_at=moment).call(1).options(delay=5).asked
    assert (asked.delay, asked.run_at) == (5.0, None)
    asked = Asked({"delay": 5.0}, {"run_at": moment})
    assert (asked.delay, asked.run_at) == (None, moment)


def test_flags_tell_which_side_tables_a_task_has(charge: Any) -> None:
    assert charge.call(1).asked.flags == Flag.LABELLED  # the type's tag
    assert charge.options(tags=[]).call(1).asked.flags == 0
    assert charge.options(key="k", tags=[]).call(1).asked.flags == Flag.KEYED | Flag.LABELLED


def test_options_leave_the_original_alone(charge: Any) -> None:
    other = charge.options(key="k")
    assert other is not charge
    assert charge.call(1).asked.key is None
    assert other.options(delay=1).call(1).asked.key == "k"
    call = charge.call(1)
    assert call.options(key="k").asked.key == "k"
    assert call.asked.key is None
    assert other(1) is None


def test_a_deadline_counts_from_the_creation_and_expires_what_has_not_started() -> None:
    asked = Asked({"deadline": 60.0, "delay": 10.0}, {})
    assert asked.meta == '{"deadline":60.0}'
    assert not asked.plain
    assert asked.expires_in() == 50.0
    assert Asked({"deadline": 60.0, "expires": 5.0}, {}).expires_in() == 5.0
    soon = datetime.now(UTC) + timedelta(seconds=40)
    left = Asked({"deadline": 60.0}, {"run_at": soon}).expires_in()
    assert left is not None and 19 < left <= 20.1
    with pytest.raises(OptionError, match="deadline must be later than run_at"):
        Asked({"deadline": 30.0}, {"run_at": soon}).expires_in()
    assert Asked({"deadline": 60.0, "delay": 90.0}, {"run_at": soon}).expires_in()  # the delay does not count here


def test_a_pool_is_for_functions_that_can_be_in_it() -> None:
    app = Dispatcher("shop")

    async def handler() -> None: ...

    with pytest.raises(OptionError, match="is async and runs on the event loop"):
        app.task(name="a", pool="thread")(handler)
    with pytest.raises(OptionError, match="pool must be 'thread' or 'process', not 'fork'"):
        app.task(name="b", pool="fork")  # type: ignore[call-overload]
    assert app.task(name="c", pool="process")(handler).in_process
