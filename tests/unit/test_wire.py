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
    encode_all,
    encode_cancel,
    encode_settled,
    message_id,
    message_id_of_all,
)

NUMBERS = st.integers(1, 2**32 - 1)


@given(st.uuids(), NUMBERS, NUMBERS)
def test_a_message_comes_back_as_it_was_written(task: UUID, attempt: int, dispatch: int) -> None:
    body = encode(task, attempt, dispatch)
    assert len(body) == 25
    assert decode(body) == [Reference(task, attempt, dispatch)]


@given(st.lists(st.tuples(st.uuids(), NUMBERS, NUMBERS), min_size=1, max_size=16))
def test_a_message_of_several_comes_back_in_order(references: list[tuple[UUID, int, int]]) -> None:
    assert decode(encode_all(references)) == references
    assert len(references) > 1 or encode_all(references) == encode(*references[0])


@given(st.binary(max_size=60))
def test_foreign_bytes_are_refused_or_read_never_guessed(body: bytes) -> None:
    try:
        references = decode(body)
    except ValueError:
        return
    assert references and encode_all(references) == body


@pytest.mark.parametrize("body", [b"", b"x", b"\x01", bytes(25), b"\x02" + bytes(24), b"\x01" + bytes(25)])
def test_another_version_or_length_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"version|bytes instead of|bytes are no message"):
        decode(body)


def test_the_message_id_differs_for_every_dispatch() -> None:
    task = UUID(int=7)
    ids = {message_id(task, attempt, dispatch) for attempt in (1, 2, 12) for dispatch in (1, 2, 12)}
    assert len(ids) == 9


def test_the_message_id_of_several_differs_unless_all_are_the_same() -> None:
    one, two, other = (UUID(int=1), 1, 1), (UUID(int=2), 1, 1), (UUID(int=2), 1, 2)
    ids = [message_id_of_all(encode_all(references)) for references in ([one, two], [one, other], [one], [one, two])]
    assert len(set(ids)) == 3 and ids[0] == ids[3]


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
