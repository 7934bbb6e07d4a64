"""From a function's signature to stored arguments and back: one JSON object by parameter name.

What was passed is stored, defaults are not: they are the code's business at the time it runs.  Pydantic validates at
the call and again at the work; neither its errors nor ours ever show a value.  Bytes travel as base64.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, NotRequired, Required, cast, get_type_hints

from dispatcher.errors import (
    ArgumentsInvalid,
    ArgumentsTooLarge,
    OptionError,
    ResultUnserialisable,
    Undecodable,
    did_you_mean,
)
from dispatcher.payload_problems import described, masked, no_json
from dispatcher.secret import find_secrets, secret_texts, serializer_for

__all__ = ["DEFAULT_LIMIT", "Codec", "Payload"]

DEFAULT_LIMIT = 1024 * 1024
"""Largest stored arguments or result in bytes."""
_CONFIG: dict[str, Any] = {
    "hide_input_in_errors": True,
    "ser_json_bytes": "base64",
    "val_json_bytes": "base64",
    "ser_json_inf_nan": "strings",
}


class Codec:
    """One type and its JSON form; ``found`` tells what needs care in it."""

    def __init__(self, type_: Any, config: Mapping[str, Any]) -> None:
        from pydantic import PydanticUserError, TypeAdapter

        try:
            adapter = TypeAdapter[Any](type_, config=dict(config))  # type: ignore[arg-type]
        except PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                raise
            adapter = TypeAdapter[Any](type_)
        schema: Any = adapter.core_schema
        self.definitions, self.schema = _definitions(schema)
        self.found = find_secrets(self.schema, self.definitions)
        self.validate = adapter.validator.validate_python
        self.validate_json = adapter.validator.validate_json
        # built here because the adapter's serialiser of a TypedDict ignores its configuration
        self.to_json = serializer_for(schema, config, self.found).to_json


class Payload:
    """The arguments and the result of one function.  Built once, when first needed; raises ``OptionError``."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        args_limit: int = DEFAULT_LIMIT,
        result_limit: int = DEFAULT_LIMIT,
    ) -> None:
        self.name = name
        self._args_limit, self.result_limit = args_limit, result_limit
        self.signature = inspect.signature(function)
        self.function = function
        self._sort(self.signature.parameters)
        try:
            hints = get_type_hints(function, include_extras=True)
            self._arguments = Codec(*self.fields(hints))
            result = hints.get("return", Any)
            self._result = Codec(None if result is None else result, _CONFIG)
        except Exception as error:
            raise OptionError(f"the signature of {name!r} cannot be stored as JSON: {error}") from error
        self._secrets = self._find_secrets()
        self.secret_names: tuple[str, ...] = tuple(self._secrets)
        """The parameters that must be masked wherever arguments are shown."""
        self.secret_result = self._result.found.typed or self._result.found.marked

    def _sort(self, parameters: Mapping[str, Parameter]) -> None:
        kinds = [(name, p.kind) for name, p in parameters.items()]
        positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        self.positional = tuple(name for name, kind in kinds if kind in positional)
        self._only = tuple(name for name, kind in kinds if kind is Parameter.POSITIONAL_ONLY)
        self._star = next((name for name, kind in kinds if kind is Parameter.VAR_POSITIONAL), None)
        self._stars = next((name for name, kind in kinds if kind is Parameter.VAR_KEYWORD), None)
        self._named = frozenset(parameters) - {self._star, self._stars, *self._only}
        self.plain = not (self._only or self._star or self._stars)

    def fields(self, hints: Mapping[str, Any], *, loose: bool = False) -> tuple[Any, Mapping[str, Any]]:
        """A type with one field per parameter, and its configuration; ``loose``: none of them has to be given."""
        from typing_extensions import TypedDict

        fields: dict[str, Any] = {}
        for name, parameter in self.signature.parameters.items():
            hint: Any = hints.get(name, Any)
            if name == self._star:
                hint = tuple.__class_getitem__((hint, ...))
            elif name == self._stars:
                hint = dict.__class_getitem__((str, hint))
            needed = parameter.default is Parameter.empty and name not in (self._star, self._stars)
            fields[name] = Required[hint] if needed and not loose else NotRequired[hint]
        model = cast(Any, TypedDict)("arguments", fields)
        config = {**_CONFIG, "extra": "forbid"}
        model.__pydantic_config__ = config
        return model, config

    def _find_secrets(self) -> dict[str, bool]:
        """Secret parameter to whether all text in it is secret."""
        fields = self._arguments.schema["fields"]
        found = {name: find_secrets(field, self._arguments.definitions) for name, field in fields.items()}
        return {name: at.marked for name, at in found.items() if at.typed or at.marked}

    # arguments ------------------------------------------------------------------------------------------------------

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """Bind, validate and encode.  Raises ``ArgumentsInvalid`` or ``ArgumentsTooLarge``."""
        return self.encode_values(self._bind(args, kwargs), self._arguments)

    def encode_values(self, values: dict[str, Any], codec: Codec) -> bytes:
        """Validate ``values`` by ``codec``, and encode them.  Raises as :meth:`encode` does."""
        try:
            data: bytes = codec.to_json(
                codec.validate(values, by_name=True), by_alias=False, round_trip=True, warnings=False
            )
        except Exception as error:
            refusal = self._refusal(error)
            if refusal is None:
                raise
            raise refusal from None
        if len(data) > self._args_limit:
            raise ArgumentsTooLarge(self.name, len(data), self._args_limit)
        return data

    def _refusal(self, error: Exception) -> ArgumentsInvalid | None:
        """What the caller is told; ``None``: a mistake of ours, or of the code of a type of theirs."""
        from pydantic_core import PydanticSerializationError, ValidationError

        if isinstance(error, ValidationError):
            return ArgumentsInvalid(self.name, self._problems(error))
        if isinstance(error, (PydanticSerializationError, RecursionError)):
            return ArgumentsInvalid(self.name, [no_json(error)])
        return None

    def decode(self, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments for the function.  Raises ``Undecodable``."""
        from pydantic_core import ValidationError

        try:
            values: dict[str, Any] = self._arguments.validate_json(data, by_name=True)
        except ValidationError as error:
            text = ArgumentsInvalid(self.name, self._problems(error))
            raise Undecodable(f"stored {text}") from None
        if self.plain:
            return (), values
        return self._spread(values)

    def digest(self, data: bytes) -> bytes:
        """What two calls with one key must agree in: a hash that is the same for the same JSON in any order."""
        same = json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(same.encode()).digest()

    def secret_values(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
        """The texts that must not appear in logs or stored errors of a call with these arguments."""
        if not self._secrets:
            return []
        values = self._bind(args, kwargs)
        found: dict[str, None] = {}
        for name, everything in self._secrets.items():
            if name in values:
                found.update(dict.fromkeys(secret_texts(values[name], everything=everything)))
        return list(found)

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        values = dict(zip(self.positional, args))  # noqa: B905 - its keyword alone takes as long as the rest
        if self.plain:
            if kwargs:
                values.update(kwargs)
            if len(values) != len(args) + len(kwargs):  # one too many by position, or one by position and by name
                self._refuse(args, kwargs)
            return values
        fits = len(args) <= len(self.positional)
        rest = {name: value for name, value in kwargs.items() if name not in self._named}
        named = {name: value for name, value in kwargs.items() if name in self._named}
        if (not fits and self._star is None) or (rest and self._stars is None) or named.keys() & values.keys():
            self._refuse(args, kwargs)
        values.update(named)
        if self._star is not None and not fits:
            values[self._star] = tuple(args[len(self.positional) :])
        if self._stars is not None and rest:
            values[self._stars] = rest
        return values

    def _refuse(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Let Python itself say what is wrong with the call; its message names parameters, never values."""
        try:
            self.signature.bind(*args, **kwargs)
            message = "the arguments do not fit the signature"
        except TypeError as error:
            message = str(error)
        raise ArgumentsInvalid(self.name, [{"loc": (), "type": "call", "msg": message}]) from None

    def _spread(self, values: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args: list[Any] = []
        if self._star in values:
            # everything before *args has to go by position, or the extra ones would take its place
            args = [values.pop(name) if name in values else self._default(name) for name in self.positional]
            args.extend(values.pop(str(self._star)))
        else:
            given = [name in values for name in self._only]
            last = max((i for i, there in enumerate(given) if there), default=-1)
            args = [values.pop(name) if name in values else self._default(name) for name in self._only[: last + 1]]
        values.update(values.pop(self._stars, None) or {} if self._stars is not None else {})
        return tuple(args), values

    def _default(self, name: str) -> Any:
        return self.signature.parameters[name].default

    # results --------------------------------------------------------------------------------------------------------

    def encode_result(self, value: Any) -> bytes:
        """Check against the return annotation and encode.  Raises ``ResultUnserialisable``."""
        from pydantic_core import PydanticSerializationError, ValidationError

        try:
            checked = self._result.validate(value, by_name=True)
            data: bytes = self._result.to_json(checked, by_alias=False, round_trip=True, warnings=False)
        except ValidationError as error:
            problems = described(error, self.secret_result)
            text = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'value'}: {p['msg']}" for p in problems)
            raise ResultUnserialisable(f"the result of {self.name!r} does not fit its annotation: {text}") from None
        except (PydanticSerializationError, RecursionError) as error:
            raise ResultUnserialisable(f"the result of {self.name!r}: {no_json(error)['msg']}") from None
        if len(data) > self.result_limit:
            raise ResultUnserialisable(
                f"the result of {self.name!r} is {len(data):,} bytes, over the limit of {self.result_limit:,}:"
                " store it elsewhere and return a reference"
            )
        return data

    def decode_result(self, data: bytes) -> Any:
        """The value the handler returned, by its return annotation.  Raises ``Undecodable``."""
        from pydantic_core import ValidationError

        try:
            return self._result.validate_json(data, by_name=True)
        except ValidationError as error:
            text = "; ".join(p["msg"] for p in described(error, self.secret_result))
            raise Undecodable(f"the stored result of {self.name!r} does not fit its annotation: {text}") from None

    def _problems(self, error: Any) -> list[dict[str, Any]]:
        problems = []
        for problem in described(error, False):
            name = problem["loc"][0] if problem["loc"] else None
            if problem["type"] == "missing" and len(problem["loc"]) == 1:
                problem["msg"] = "required, but not given"
            elif problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
                problem["msg"] = "no such argument" + did_you_mean(str(name), self._named)
            elif name in self._secrets:
                problem = masked(problem)
            problems.append(problem)
        return problems


def _definitions(schema: Any) -> tuple[dict[str, Any], Any]:
    """The named parts of a core schema, and the schema itself."""
    if schema["type"] == "definitions":
        return {part["ref"]: part for part in schema["definitions"]}, schema["schema"]
    return {}, schema
