"""Mistakes in streams.conf, told to people: file, line, field, what is wrong, what was probably meant."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dispatcher.errors import ConfigurationError
from dispatcher.streams.lines import find_line, key_lines
from dispatcher.streams.units import format_duration

__all__ = ["Problem", "StreamsFileError", "explain", "suggestion"]

Model = TypeVar("Model", bound=BaseModel)
Finding = tuple[tuple[str, ...], str]

_NAME = "is not a legal name: use 1 to 64 letters, digits, '_' or '-'"
_TIMEDELTA = re.compile(r"datetime\.timedelta\(seconds=(\d+)\)")
_SYNTAX_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True)
class Problem:
    """One mistake.  ``line`` counts from 1; 0 means the file as a whole."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"

    @classmethod
    def of_syntax(cls, file: str, text: str, error: tomllib.TOMLDecodeError) -> Problem:
        """What ``tomllib`` says, with its line moved to where editors look for it."""
        match = _SYNTAX_LINE.search(str(error))
        line = int(match[1]) if match and match[1] else max(1, len(text.splitlines()))
        return cls(file, line, "", f"not legal TOML: {_SYNTAX_LINE.sub('', str(error))}")


class StreamsFileError(ConfigurationError):
    """streams.conf cannot be used.  ``problems`` lists every mistake; the message has one line for each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or nothing."""
    names = list(known)
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    close = close or [name for name in names if name.lower() == wrong.lower()]
    return f"; did you mean {close[0]!r}?" if close else ""


def explain(
    model: type[Model],
    data: dict[str, Any],
    text: str,
    file: str,
    found: list[Finding],
    check: Callable[[Model], list[Finding]],
) -> Model:
    """``data`` as the model; raises ``StreamsFileError`` with what was found before and whatever is found now."""
    lines = key_lines(text)
    config = None
    try:
        config = model.model_validate(data)
        found = found + check(config)
    except ValidationError as error:
        found = found + [_finding(model, detail) for detail in error.errors(include_url=False)]
        found = _without_inherited(found, lines)
    if found or config is None:
        problems = {Problem(file, find_line(lines, path), ".".join(path), message) for path, message in found}
        raise StreamsFileError(sorted(problems, key=lambda problem: (problem.line, problem.field)))
    return config


def _without_inherited(found: list[Finding], lines: dict[tuple[str, ...], int]) -> list[Finding]:
    """A mistake in [defaults] shows up in each stream and queue as well: tell it once, where it stands."""
    told = {path[1] for path, _ in found if path[0] == "defaults" and len(path) > 1}
    return [
        (path, message)
        for path, message in found
        if path[0] not in ("streams", "queues") or len(path) < 3 or path[2] not in told or path[:3] in lines
    ]


def _finding(model: type[BaseModel], detail: ErrorDetails) -> Finding:
    path = tuple(str(part) for part in detail["loc"])
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return path, f"unknown field{suggestion(path[-1], _fields_at(model, path[:-1]))}"
    if path and path[-1] == "[key]":
        lane = ", and no '--', no '-' in front" if "lanes" in path else ""
        return path[:-1], f"{_NAME}{lane}"
    if kind == "literal_error" and isinstance(detail["input"], str):
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return path, f"must be {context['expected']}{suggestion(detail['input'], allowed)}"
    if kind == "value_error":
        return path, str(context["error"])
    return path, _plain(detail)


def _plain(detail: ErrorDetails) -> str:
    message = detail["msg"]
    if detail["type"] in ("model_type", "dict_type"):
        return "must be a table"
    if detail["type"] == "string_pattern_mismatch":
        return _NAME
    message = message.replace("Input should be", "must be")
    message = _TIMEDELTA.sub(lambda match: format_duration(int(match[1]) * 10**9), message)
    return f"{message}, not {detail['input']!r}" if isinstance(detail["input"], str | int | float) else message


def _fields_at(model: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """The legal field names inside the table at ``path``."""
    kind: Any = model
    for part in path:
        fields = getattr(kind, "model_fields", None)
        if fields is not None:
            kind = fields[part].annotation if part in fields else None
        else:  # a dictionary by name: its values
            kind = next((arg for arg in reversed(get_args(kind)) if arg is not type(None)), None)
        kind = (
            next((arg for arg in get_args(kind) if isinstance(arg, type) and issubclass(arg, BaseModel)), kind)
            if (type(None) in get_args(kind))
            else kind
        )
    return list(getattr(kind, "model_fields", ()))
