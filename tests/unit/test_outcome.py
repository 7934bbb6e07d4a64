"""From what a handler did to what is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import ResultUnserialisable, Undecodable
from dispatcher.options import Retry
from dispatcher.outcomes import Cancel, RetryIn, Snooze
from state.machine import Reason, State
from workers.attempt import Outcome, Stop
from workers.masked import storable
from workers.outcome import (
    DeadlineOver,
    HandlerTimeout,
    describe_error,
    outcome_of_error,
    outcome_of_stop,
    within_deadline,
)

MASK = "**********"


def outcome(error: BaseException, secrets: tuple[str, ...] = (), **retry: Any) -> Outcome:
    return outcome_of_error(
        error, tries=2, max_tries=5, retry=Retry(jitter=False, **retry), random=lambda: 0.5, secrets=secrets
    )


@pytest.mark.parametrize(
    ("error", "state", "reason", "delay", "refund"),
    [
        (ValueError("x"), State.RETRYING, Reason.ERROR, 2.0, 0),
        (HandlerTimeout("x"), State.RETRYING, Reason.TIMEOUT, 2.0, 0),
        (RetryIn(7), State.RETRYING, Reason.ERROR, 7.0, 0),
        (Snooze(9), State.SCHEDULED, Reason.SNOOZED, 9.0, 1),
        (Cancel("no"), State.CANCELLED, Reason.BY_REQUEST, 0.0, 0),
        (Undecodable("x"), State.FAILED, Reason.UNDECODABLE, 0.0, 0),
        (ResultUnserialisable("x"), State.FAILED, Reason.UNSERIALISABLE, 0.0, 0),
        (SystemExit(1), State.FAILED, Reason.REJECTED, 0.0, 0),
        (KeyboardInterrupt(), State.FAILED, Reason.REJECTED, 0.0, 0),
    ],
)
def test_every_error_has_its_outcome(
    error: BaseException, state: State, reason: Reason, delay: float, refund: int
) -> None:
    found = outcome(error)
    assert (found.to, found.reason, found.delay, found.refund) == (state, reason, delay, refund)


def test_an_error_the_policy_does_not_name_is_final() -> None:
    assert outcome(KeyError("x"), on=ValueError).reason is Reason.REJECTED
    assert outcome(FileNotFoundError("x"), on=OSError, not_on=FileNotFoundError).to is State.FAILED
    assert outcome(HandlerTimeout("x"), on=ValueError).to is State.RETRYING  # a timeout is no error of the handler


@pytest.mark.parametrize("error", [RetryIn(1e300), Snooze(1e300)])
def test_no_delay_is_longer_than_an_interval_can_be(error: Exception) -> None:
    assert outcome(error).delay == 10 * 365 * 86400
    assert outcome(ValueError("x"), backoff=1e300, max_delay=1e300).delay == 10 * 365 * 86400


@pytest.mark.parametrize("stop", [Stop.RELEASE, Stop.FENCE])
def test_a_stop_by_the_worker_consumes_no_try(stop: Stop) -> None:
    found = outcome_of_stop(stop, None)
    assert (found.to, found.reason, found.refund) == (State.QUEUED, Reason.RELEASED, 1)


def test_a_cancelled_handler_is_cancelled() -> None:
    assert outcome_of_stop(Stop.CANCEL, None) == Outcome(State.CANCELLED, reason=Reason.BY_REQUEST)


SECRETS = ("hunter2", "hunter2-long", 'quo"ted', "line\nbreak", "back\\slash", "ünïcode")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "make",
    [
        ValueError,
        KeyError,  # its text is the repr
        lambda text: ValueError({"password": text}),
        lambda text: Cancel(f"why {text}"),
        lambda text: Snooze(1, text),
        lambda text: RetryIn(1, text),
        lambda text: ResultUnserialisable(text),
        lambda text: ValueError(json.dumps({"password": text})),
    ],
)
def test_no_error_text_shows_a_secret(make: Any, secret: str) -> None:
    try:
        try:
            raise make(secret)
        except Exception as cause:
            raise type(cause)(*cause.args) if not isinstance(cause, (Snooze, RetryIn)) else cause from cause
    except Exception as error:
        found = outcome(error, SECRETS)
    text = json.dumps(found.detail, ensure_ascii=False)
    for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        assert form not in text.replace("\\\\", "\\") or form in MASK


def test_a_secret_at_the_cut_of_a_long_traceback_is_masked_first() -> None:
    for length in range(15_980, 16_020):
        shown = describe_error(ValueError("hunter2" + "x" * length), ["hunter2"])
        assert "unter2" not in shown["traceback"] and "ter2x" not in shown["traceback"]


@given(st.text(st.characters(), max_size=200))
def test_any_text_can_be_stored(text: str) -> None:
    found = storable(text, [])
    assert "\0" not in found
    found.encode()


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_that_cannot_say_what_it_is_is_still_an_outcome() -> None:
    found = outcome(Broken())
    assert found.detail is not None and "Broken" in found.detail["message"]


def test_the_fingerprint_names_the_place_not_the_text() -> None:
    def fail(text: str, kind: type[Exception] = ValueError) -> str:
        try:
            raise kind(text)
        except Exception as error:
            return str(describe_error(error, [])["fingerprint"])

    assert fail("one") == fail("two") != fail("one", KeyError)
    assert len(fail("one")) == 16


@pytest.mark.parametrize(
    ("to", "delay", "last_try", "wanted"),
    [
        (State.RETRYING, 10.0, False, State.FAILED),
        (State.RETRYING, 4.0, False, State.RETRYING),
        (State.RETRYING, 10.0, True, State.RETRYING),  # the statement that settles it says: exhausted
        (State.SCHEDULED, 10.0, True, State.FAILED),
        (State.QUEUED, 0.0, False, State.QUEUED),
        (State.SUCCEEDED, 0.0, False, State.SUCCEEDED),
    ],
)
def test_what_would_start_again_after_its_deadline_fails_now(
    to: State, delay: float, last_try: bool, wanted: State
) -> None:
    outcome = within_deadline(Outcome(to, delay=delay, detail={"message": "busy"}), 5.0, last_try=last_try)
    assert outcome.to is wanted
    assert (outcome.reason is Reason.DEADLINE) == (wanted is State.FAILED)
    assert outcome.detail and outcome.detail["message"].startswith("busy")


def test_a_passed_deadline_is_no_error_that_is_retried() -> None:
    outcome = outcome_of_error(
        DeadlineOver("late"), tries=1, max_tries=5, retry=Retry(), random=lambda: 0.5, secrets=[]
    )
    assert (outcome.to, outcome.reason) == (State.FAILED, Reason.DEADLINE)
