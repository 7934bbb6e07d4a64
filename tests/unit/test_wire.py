"""The message format."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.wire import (
    Reference,
    decode,
    decode_cancel,
    decode_settled,
    encode,
    encode_cancel,
    encode_settled,
    message_id,
)

NUMBERS = st.integers(1, 2**32 - 1)


@given(st.uuids(), NUMBERS, NUMBERS)
def test_a_message_comes_back_as_it_was_written(task: UUID, attempt: int, dispatch: int) -> None:
    body = encode(task, attempt, dispatch)
    assert len(body) == 25
    assert decode(body) == Reference(task, attempt, dispatch)


@given(st.binary(max_size=60))
def test_foreign_bytes_are_refused_or_read_never_guessed(body: bytes) -> None:
    try:
        reference = decode(body)
    except ValueError:
        return
    assert encode(*reference) == body


@pytest.mark.parametrize("body", [b"", b"x", bytes(25), b"\x02" + bytes(24), b"\x01" + bytes(25)])
def test_another_version_or_length_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"version|bytes instead of"):
        decode(body)


def test_the_message_id_differs_for_every_dispatch() -> None:
    task = UUID(int=7)
    ids = {message_id(task, attempt, dispatch) for attempt in (1, 2, 12) for dispatch in (1, 2, 12)}
    assert len(ids) == 9


@given(st.lists(st.tuples(st.uuids(), st.integers(6, 8))))
def test_settled_tasks_come_back(ended: list[tuple[UUID, int]]) -> None:
    assert decode_settled(encode_settled(ended)) == ended


@given(st.lists(st.tuples(st.uuids(), NUMBERS)))
def test_cancel_requests_come_back(requests: list[tuple[UUID, int]]) -> None:
    assert decode_cancel(encode_cancel(requests)) == requests


@pytest.mark.parametrize("read", [decode_settled, decode_cancel])
def test_half_a_record_is_refused(read: object) -> None:
    with pytest.raises(ValueError, match="not a list"):
        read(b"123")  # type: ignore[operator]
