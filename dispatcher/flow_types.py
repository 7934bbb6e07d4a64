"""Does a result fit the parameter it is passed to?  Decided by JSON form; only what can never fit is refused."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from dispatcher.compose import Chain, Composed, Fed, Group, Partial
from dispatcher.errors import FlowInvalid
from dispatcher.order import Order
from dispatcher.passing import param_schema, result_schema
from dispatcher.payload import Payload

__all__ = ["refuse_misfit"]

Schema = Mapping[str, Any]
_ANYTHING: Schema = {}


def refuse_misfit(before: Composed[Any] | Order, child: Partial, param: str) -> None:
    """Raise ``FlowInvalid`` when the result of ``before`` cannot be the argument ``param`` of ``child``."""
    given, wanted = _result(before), param_schema(child.payload, param)
    if _disjoint(given, wanted):
        raise FlowInvalid(
            f"the result of {_named(before)} is {_words(given)}, but {child.name!r} takes {_words(wanted)} as {param!r}"
        )
    if _secret(before) and param not in child.payload.secret_names:
        raise FlowInvalid(
            f"the result of {_named(before)} is secret, but {param!r} of {child.name!r} is not: annotate it as Secret"
            " or with a pydantic secret type"
        )


def _last(composed: Any) -> Any:
    """The part whose result is that of the whole."""
    while isinstance(composed, Chain):
        values = [link.part for link in composed.links if link.is_value]
        composed = values[-1] if values else composed.first
    return composed.order if isinstance(composed, Fed) else composed


def _result(composed: Any) -> Schema:
    last = _last(composed)
    if isinstance(last, Group):
        kinds = {id(schema): schema for schema in map(_result, last.members[:50])}
        return {"type": "array", "items": {"anyOf": list(kinds.values())}}
    schema: Schema = result_schema(last.payload)
    return schema


def _secret(composed: Any) -> bool:
    last = _last(composed)
    if isinstance(last, Group):
        return any(map(_secret, last.members[:50]))
    payload: Payload = last.payload
    return payload.secret_result


def _named(composed: Any) -> str:
    last = _last(composed)
    return "a group" if isinstance(last, Group) else repr(last.name)


def _disjoint(given: Schema, wanted: Schema) -> bool:
    ours, theirs = _kinds(given, given), _kinds(wanted, wanted)
    if ours is None or theirs is None:
        return False
    if "number" in theirs:
        theirs = theirs | {"integer"}
    both = ours & theirs
    if both == frozenset({"array"}):
        return _disjoint(_items(given), _items(wanted))
    return not both


def _kinds(schema: Schema, root: Schema) -> frozenset[str] | None:
    """The JSON types a schema allows; ``None``: anything, or something we cannot tell."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        found = root.get("$defs", {}).get(name)
        return None if found is None else _kinds({**found, "$defs": root.get("$defs", {})}, root)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            parts = [_kinds(part, root) for part in schema[word]]
            if any(part is None for part in parts):
                return None
            return frozenset[str]().union(*[part for part in parts if part is not None])
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    return frozenset(kind) if isinstance(kind, list) else None


def _items(schema: Schema) -> Schema:
    items = schema.get("items")
    if not isinstance(items, dict):
        return _ANYTHING
    return {**items, "$defs": schema.get("$defs", {})}


@lru_cache(maxsize=64)
def _joined(kinds: frozenset[str]) -> str:
    return " or ".join(sorted(kinds))


def _words(schema: Schema) -> str:
    kinds = _kinds(schema, schema)
    if kinds == frozenset({"array"}) and (inner := _kinds(_items(schema), schema)):
        return f"array of {_joined(inner)}"
    return _joined(kinds) if kinds else "anything"
