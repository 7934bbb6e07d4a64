"""Secret arguments and results: find them in a type, carry them intact, list the texts to redact.

Pydantic's own serialiser writes asterisks for ``SecretStr``.  Ours is built from the same schema with those serialisers
replaced, nested models included; nothing of the user's classes is changed.  On the way sets get a fixed order, so that
equal arguments have equal bytes in every process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["Found", "Secret", "find_secrets", "secret_texts", "serializer_for"]

_MARK = "dispatcher_secret"
# Parts of a core schema that hold the user's data or our marks, never a schema.
_NOT_SCHEMAS = frozenset({"metadata", "default", "expected", "cls", "config", "ref", "members"})


class Secret:
    """Mark for arguments that must never be shown: ``token: Annotated[str, Secret]``.

    The handler gets the plain value.  Pydantic's ``SecretStr``, ``SecretBytes`` and ``Secret[...]`` need no mark.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        schema = handler(source)
        return {**schema, "metadata": {**(schema.get("metadata") or {}), _MARK: True}}


class Found(NamedTuple):
    """What a type holds at any depth."""

    typed: bool
    """pydantic's secret types"""
    marked: bool
    """values marked with :class:`Secret`"""
    unordered: bool
    """sets"""


def find_secrets(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Found:
    """Look through a core schema, named parts included."""
    typed = marked = unordered = False
    seen: set[str] = set()
    todo: list[Mapping[str, Any]] = [schema]
    while todo:
        node = todo.pop()
        typed = typed or _is_secret_type(node)
        unordered = unordered or _is_unordered(node)
        marked = marked or bool((node.get("metadata") or {}).get(_MARK))
        name = node.get("schema_ref")
        if node.get("type") == "definition-ref" and name is not None and name not in seen:
            seen.add(name)
            if name in definitions:
                todo.append(definitions[name])
        todo.extend(_parts(node))
    return Found(typed, marked, unordered)


def serializer_for(schema: Any, config: Mapping[str, Any], found: Found) -> Any:
    """A pydantic serialiser that writes secrets as what they hold, and sets in order."""
    from pydantic_core import SchemaSerializer

    settings: Any = dict(config)
    if not (found.typed or found.unordered):
        return SchemaSerializer(schema, settings)
    try:
        return SchemaSerializer(reveal(schema), settings, False)  # without those that classes bring along
    except TypeError:  # pydantic before 2.13 always uses those, unless it does not recognise the classes
        return SchemaSerializer(_disguised(reveal(schema)), settings)


def reveal(schema: Any) -> Any:
    """A copy of a core schema that serialises secret types as what they hold, and sets in order."""
    if isinstance(schema, dict):
        if _is_secret_type(schema):
            return {**schema, "serialization": _plain(_read, schema["json_schema"]["schema"])}
        if _is_unordered(schema):
            items = schema.get("items_schema") or {"type": "any"}
            return {**schema, "serialization": _plain(_ordered, {"type": "list", "items_schema": items})}
        return {key: value if key in _NOT_SCHEMAS else reveal(value) for key, value in schema.items()}
    if isinstance(schema, (list, tuple)):
        return type(schema)(map(reveal, schema))
    return schema


class _Disguise(type):
    """A class that recognises the instances of another one."""

    real: type

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.real)


def _disguised(schema: Any) -> Any:
    if isinstance(schema, dict):
        copy = {key: value if key in _NOT_SCHEMAS else _disguised(value) for key, value in schema.items()}
        if schema.get("type") in ("model", "dataclass"):
            copy["cls"] = _Disguise(schema["cls"].__name__, (), {"real": schema["cls"]})
        return copy
    if isinstance(schema, (list, tuple)):
        return type(schema)(map(_disguised, schema))
    return schema


def secret_texts(value: Any, *, everything: bool) -> list[str]:
    """Every text that secret types inside ``value`` hold; with ``everything`` any text inside it at all."""
    found: list[str] = []
    seen: set[int] = set()
    todo: list[tuple[Any, bool]] = [(value, everything)]
    while todo:
        item, hidden = todo.pop()
        read = getattr(type(item), "get_secret_value", None)
        if read is not None:
            todo.append((read(item), True))
        elif isinstance(item, (str, bytes, int, float)):
            if hidden and not isinstance(item, bool):
                found.append(item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item))
        elif id(item) not in seen:
            seen.add(id(item))
            todo.extend((part, hidden) for part in _inside(item))
    return list(dict.fromkeys(filter(None, found)))


def _is_secret_type(node: Mapping[str, Any]) -> bool:
    serialization = node.get("serialization")
    function = serialization.get("function") if isinstance(serialization, dict) else None
    return getattr(function, "__module__", "") == "pydantic.types" and "secret" in getattr(function, "__name__", "")


def _is_unordered(node: Mapping[str, Any]) -> bool:
    return node.get("type") in ("set", "frozenset") and "serialization" not in node


def _plain(function: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A serialiser that first applies ``function`` and then writes what it returned by ``schema``."""
    from pydantic_core import core_schema

    return dict(core_schema.plain_serializer_function_ser_schema(function, return_schema=reveal(schema)))


def _read(value: Any) -> Any:
    return value.get_secret_value()


def _ordered(value: Any) -> list[Any]:
    return sorted(value, key=repr)


def _parts(node: Any) -> Iterator[Mapping[str, Any]]:
    values = (v for k, v in node.items() if k not in _NOT_SCHEMAS) if isinstance(node, dict) else iter(node)
    for value in values:
        if isinstance(value, dict):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _parts(value)


def _inside(item: Any) -> Iterator[Any]:
    if isinstance(item, Mapping):
        yield from item.keys()
        yield from item.values()
    elif isinstance(item, (list, tuple, set, frozenset)):
        yield from item
    elif hasattr(item, "__dict__"):
        yield from vars(item).values()
        yield from (getattr(item, "__pydantic_extra__", None) or {}).values()
    for cls in type(item).__mro__:
        for name in cls.__dict__.get("__slots__", ()) if hasattr(type(item), "__dataclass_fields__") else ():
            yield getattr(item, name, None)
