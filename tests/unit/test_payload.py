from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from dispatcher import ArgumentsInvalid, ArgumentsTooLarge, OptionError, ResultUnserialisable, Undecodable
from dispatcher.payload import Payload


def payload(function: Callable[..., Any], **limits: int) -> Payload:
    return Payload("shop.f", function, **limits)


class Colour(Enum):
    RED = "red"


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sku: str = Field(alias="SKU")
    count: int = Field(default=1, serialization_alias="n")


@dataclass
class Point:
    x: float
    y: float


def everything(
    i: int,
    when: datetime,
    wait: timedelta,
    money: Decimal,
    colour: Colour,
    id: UUID,
    raw: bytes,
    line: Line,
    point: Point,
    words: set[str],
    pair: tuple[int, str],
    choice: Literal["a", "b"] | None,
    number: float,
    free: Any,
) -> None: ...


def test_every_kind_of_argument_comes_back_equal() -> None:
    args = (
        2**70,
        datetime(2030, 1, 1, tzinfo=UTC),
        timedelta(seconds=1.5),
        Decimal("1.10"),
        Colour.RED,
        uuid4(),
        b"\x00\xff",
        Line(SKU="x"),
        Point(1, 2),
        {"a", "b"},
        (1, "x"),
        None,
        math.inf,
        {"any": [1, "two", None]},
    )
    p = payload(everything)
    positional, named = p.decode(p.encode(args, {}))
    assert positional == ()
    assert tuple(named.values()) == args


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=8),
        max_size=5,
    )
)
def test_json_data_comes_back_equal(data: dict[str, Any]) -> None:
    def f(data: dict[str, Any]) -> None: ...

    p = payload(f)
    try:
        stored = p.encode((data,), {})
    except ArgumentsInvalid as error:
        assert "surrogate" in str(error)
    else:
        assert p.decode(stored) == ((), {"data": data})


def test_only_what_was_passed_is_stored_by_parameter_name() -> None:
    def f(order_id: int, *, currency: str = "EUR", note: str | None = None) -> None: ...

    assert json.loads(payload(f).encode(("7",), {"note": None})) == {"order_id": 7, "note": None}


@pytest.mark.parametrize(
    ("args", "kwargs", "stored"),
    [
        ((1,), {}, {"a": 1}),
        ((1, 2, 3, 4), {"d": 5, "z": 6}, {"a": 1, "b": 2, "c": [3, 4], "d": 5, "e": {"z": 6}}),
        ((1,), {"b": 2, "a": 3}, {"a": 1, "b": 2, "e": {"a": 3}}),
        ((1, 2), {}, {"a": 1, "b": 2}),
    ],
)
def test_every_kind_of_parameter(args: tuple[int, ...], kwargs: dict[str, int], stored: dict[str, Any]) -> None:
    def f(a: int, /, b: int = 0, *c: int, d: int = 0, **e: int) -> Any:
        return a, b, c, d, e

    p = payload(f)
    data = p.encode(args, kwargs)
    assert json.loads(data) == stored
    positional, named = p.decode(data)
    assert f(*positional, **named) == f(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "order_id: required, but not given"),
        (("x",), {}, "order_id: Input should be a valid integer"),
        ((1, 2), {}, "too many positional arguments"),
        ((1,), {"order_id": 2}, "multiple values for argument 'order_id'"),
        ((1,), {"curency": "USD"}, "curency: no such argument; did you mean 'currency'?"),
        ((None,), {}, "order_id: Input should be a valid integer"),
        ((1,), {"currency": 5}, "currency: Input should be a valid string"),
        ((1,), {"currency": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(args: Any, kwargs: dict[str, Any], message: str) -> None:
    def f(order_id: int, *, currency: str = "EUR") -> None: ...

    with pytest.raises(ArgumentsInvalid) as caught:
        payload(f).encode(args, kwargs)
    assert message in str(caught.value)
    assert str(caught.value).startswith("arguments of 'shop.f' are not valid: ")
    assert "\n" not in str(caught.value)


def test_errors_never_show_values() -> None:
    def f(order_id: int, lines: list[Line]) -> None: ...

    with pytest.raises(ArgumentsInvalid) as caught:
        payload(f).encode(("VALUE-1",), {"lines": [{"SKU": {"VALUE-2": 1}}], "extra": "VALUE-3"})
    error = caught.value
    assert [problem["loc"] for problem in error.errors] == [("order_id",), ("lines", 0, "SKU"), ("extra",)]
    assert "VALUE" not in repr(error.errors)
    assert "VALUE" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_arguments_without_a_json_form_are_refused() -> None:
    def f(thing: Any) -> None: ...

    with pytest.raises(ArgumentsInvalid, match="it has no JSON form: <class 'object'>"):
        payload(f).encode((object(),), {})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ArgumentsInvalid):
        payload(f).encode((loop,), {})


def test_arguments_over_the_limit_are_refused() -> None:
    def f(text: str) -> None: ...

    p = payload(f, args_limit=100)
    assert len(p.encode(("x" * 89,), {})) == 100
    with pytest.raises(ArgumentsTooLarge, match=r"are 101 bytes, over the limit of 100: store the data elsewhere") as e:
        p.encode(("x" * 90,), {})
    assert (e.value.size, e.value.limit) == (101, 100)


@pytest.mark.parametrize("data", [b"", b"[]", b"nonsense", b'{"order_id":"x"}', b"{}", b'{"order_id":1,"gone":2}'])
def test_stored_arguments_that_do_not_fit_are_undecodable(data: bytes) -> None:
    def f(order_id: int) -> None: ...

    with pytest.raises(Undecodable, match=r"stored arguments of 'shop\.f' are not valid"):
        payload(f).decode(data)


def test_a_signature_that_cannot_be_stored_is_refused() -> None:
    class Thing: ...

    def f(thing: Thing) -> None: ...

    f.__annotations__["thing"] = Thing
    with pytest.raises(OptionError, match=r"the signature of 'shop\.f' cannot be stored as JSON"):
        payload(f)


def test_results_follow_the_return_annotation() -> None:
    def f() -> Line: ...  # type: ignore[empty-body]

    p = payload(f)
    assert p.decode_result(p.encode_result(Line(SKU="a", count=2))) == Line(SKU="a", count=2)
    assert p.decode_result(p.encode_result({"SKU": "a"})) == Line(SKU="a")
    with pytest.raises(ResultUnserialisable, match=r"result of 'shop\.f' does not fit its annotation: SKU: Field req"):
        p.encode_result({"VALUE": 1})
    with pytest.raises(Undecodable, match="does not fit its annotation"):
        p.decode_result(b"5")


def test_results_without_annotation_or_without_value() -> None:
    def free(): ...  # type: ignore[no-untyped-def]

    def nothing() -> None: ...

    assert payload(free).decode_result(payload(free).encode_result({"a": [1]})) == {"a": [1]}
    assert payload(nothing).encode_result(None) == b"null"
    with pytest.raises(ResultUnserialisable, match="it has no JSON form: <class 'object'>"):
        payload(free).encode_result(object())
    with pytest.raises(ResultUnserialisable, match="does not fit its annotation"):
        payload(nothing).encode_result(5)
    with pytest.raises(ResultUnserialisable, match="over the limit of 10: store it elsewhere"):
        payload(free, result_limit=10).encode_result("x" * 9)


def test_equal_arguments_have_equal_digests_in_any_order() -> None:
    def f(words: set[str], table: dict[str, int], frozen: frozenset[int] = frozenset()) -> None: ...

    p = payload(f)
    many = [f"word{i}" for i in range(50)]
    one = p.encode((many, {"a": 1, "b": 2}), {})
    two = p.encode((many[::-1], {"b": 2, "a": 1}), {})
    assert p.digest(one) == p.digest(two)
    assert p.digest(one) != p.digest(p.encode((many, {"a": 1, "b": 3}), {}))
    assert one.index(b"word10") < one.index(b"word11")


def test_binding_and_decoding_are_cheap() -> None:
    """Loose bounds: a hundred times under a slow web request, far above what was measured (3 and 1.5 µs)."""

    def f(order_id: int, *, currency: Annotated[str, Field(max_length=3)] = "EUR") -> None: ...

    p = payload(f)
    data = p.encode((1,), {"currency": "USD"})
    assert _microseconds(lambda: p.encode((1,), {"currency": "USD"})) < 50
    assert _microseconds(lambda: p.decode(data)) < 25


def _microseconds(work: Callable[[], object], times: int = 2000) -> float:
    best = math.inf
    for _ in range(5):
        start = time.thread_time()
        for _ in range(times):
            work()
        best = min(best, (time.thread_time() - start) / times * 1e6)
    return best


def test_bytes_travel_as_base64_whatever_stands_beside_them() -> None:
    def f(raw: bytes) -> bytes: ...  # type: ignore[empty-body]

    p = payload(f)
    assert p.encode((b"\x00\xff",), {}) == b'{"raw":"AP8="}'
    assert p.decode(b'{"raw":"AP8="}') == ((), {"raw": b"\x00\xff"})
    assert p.decode_result(p.encode_result(b"\xff")) == b"\xff"
