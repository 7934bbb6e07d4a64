"""Arguments that come from other tasks: calls that lack some, and the JSON form of parameters and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from inspect import Parameter
from typing import Any, get_type_hints

from dispatcher.errors import ArgumentsInvalid, ResultUnserialisable
from dispatcher.payload import Codec, Payload
from dispatcher.payload_problems import no_json

__all__ = ["encode_any", "encode_without", "first_parameter", "param_schema", "parameters", "result_schema"]


def first_parameter(payload: Payload) -> str | None:
    """The parameter that takes the result of the task before; ``None`` where there is no such."""
    return payload.positional[0] if payload.plain and payload.positional else None


def parameters(payload: Payload) -> frozenset[str]:
    """The parameters that results can be passed to: none of a function with ``*args`` or positional-only ones."""
    return frozenset(payload.signature.parameters) if payload.plain else frozenset()


def encode_without(payload: Payload, passed: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Like ``Payload.encode`` for a call that will get the arguments ``passed`` from other tasks.  Raises the same."""
    return payload.encode_values(_bind(payload, passed, args, kwargs), _loose(payload))


def _bind(payload: Payload, passed: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    free = [name for name in payload.positional if name not in passed]
    values = {**dict(zip(free, args, strict=False)), **kwargs}
    problem = ""
    if len(args) > len(free) or len(values) != len(args) + len(kwargs):
        problem = "too many positional arguments, or one given twice"
    elif twice := [name for name in passed if name in values]:
        problem = f"{twice[0]!r} comes from another task and is given too"
    for name, parameter in payload.signature.parameters.items():
        if name not in values and name not in passed and parameter.default is Parameter.empty:
            problem = problem or f"{name!r} is required, but not given"
    if problem:
        raise ArgumentsInvalid(payload.name, [{"loc": (), "type": "call", "msg": problem}])
    return values


@lru_cache(maxsize=1024)
def _loose(payload: Payload) -> Codec:
    return Codec(*payload.fields(get_type_hints(payload.function, include_extras=True), loose=True))


@lru_cache(maxsize=1024)
def param_schema(payload: Payload, name: str) -> Mapping[str, Any]:
    """The JSON schema of what the parameter takes; empty when there is none."""
    return _schema(get_type_hints(payload.function, include_extras=True).get(name, Any), "validation")


@lru_cache(maxsize=1024)
def result_schema(payload: Payload) -> Mapping[str, Any]:
    """The JSON schema of the result; empty when there is none."""
    hint = get_type_hints(payload.function, include_extras=True).get("return", Any)
    return _schema(type(None) if hint is None else hint, "serialization")


def _schema(hint: Any, mode: Any) -> Mapping[str, Any]:
    from pydantic import PydanticUserError, TypeAdapter

    try:
        return TypeAdapter[Any](hint).json_schema(mode=mode)
    except PydanticUserError:  # among them: this type has no JSON schema
        return {}


def encode_any(payload: Payload, value: Any) -> bytes:
    """A step's result: anything with a JSON form, within the limit of results.  Raises ``ResultUnserialisable``."""
    from pydantic_core import PydanticSerializationError, to_json

    try:
        data = to_json(value, bytes_mode="base64", inf_nan_mode="strings")
    except (PydanticSerializationError, RecursionError) as error:
        raise ResultUnserialisable(f"a step's result: {no_json(error)['msg']}") from None
    if len(data) > payload.result_limit:
        raise ResultUnserialisable(
            f"a step's result is {len(data):,} bytes, over the limit of {payload.result_limit:,}"
        )
    return data
