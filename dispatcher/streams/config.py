"""streams.conf: what may be written, checked strictly; every mistake with its line and, where possible, its cure."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from dispatcher.streams.problems import Problem, StreamsFileError, explain, suggestion
from dispatcher.streams.rules import FIXED_QUEUE_FIELDS, FIXED_STREAM_FIELDS, refused
from dispatcher.streams.units import UNLIMITED, parse_duration, parse_keep, parse_size

__all__ = [
    "DEFAULT_LANES",
    "DEFAULT_STREAM",
    "Defaults",
    "Placement",
    "QueueConfig",
    "StreamConfig",
    "StreamsConfig",
    "load",
    "loads",
]

DEFAULT_STREAM = "TASKS"
"""The stream of every queue that the file does not place; it always exists."""
DEFAULT_LANES = {"high": 10, "default": 20, "low": 30}
"""The lanes of every queue that the file gives no others; the smaller number goes first."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
# "<queue>--<lane>" names the consumer: a lane that contained or began with dashes could name another lane's
LaneName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*-?$")]
Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Keep = Annotated[timedelta, BeforeValidator(parse_keep), Field(ge=timedelta(minutes=1))]
Size = Annotated[int, BeforeValidator(parse_size)]
Priority = Annotated[int, Field(ge=-32768, le=32767)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Placement(_Strict):
    """On which servers of a cluster a stream lies."""

    cluster: str | None = None
    tags: list[str] = []


class _StreamFields(_Strict):
    storage: Literal["file", "memory"] = "file"
    num_replicas: int = Field(default=1, ge=1, le=5)
    max_bytes: Size = UNLIMITED
    max_msgs: int = UNLIMITED
    duplicate_window: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(hours=1))] = timedelta(minutes=2)
    max_consumers: int = Field(default=4000, ge=1, le=100_000)
    compression: Literal["none", "s2"] = "none"
    placement: Placement | None = None

    @field_validator("max_bytes", "max_msgs")
    @classmethod
    def _some(cls, value: int) -> int:
        if value == 0 or value < UNLIMITED:
            raise ValueError("must be greater than 0, or -1 for no limit")
        return value


class _QueueFields(_Strict):
    ack_wait: Annotated[Duration, Field(ge=timedelta(seconds=2), le=timedelta(hours=1))] = timedelta(seconds=15)
    """A message that no worker acked or showed progress on for so long is delivered again."""
    max_ack_pending: int = Field(default=10_000, ge=1, le=100_000)
    """The most messages of one lane that may be out at the workers; the leader sets less, by demand."""
    keep_succeeded: Keep | None = None
    """How long succeeded tasks stay after their end; as the settings say when not given.  The same for the next two."""
    keep_failed: Keep | None = None
    keep_cancelled: Keep | None = None


class StreamConfig(_StreamFields):
    """One stream.  Its retention is always ``workqueue``, it refuses new messages when full."""

    description: str = ""


class QueueConfig(_QueueFields):
    """One queue: its stream, its lanes with their priorities, and how its consumers deliver."""

    stream: Name = DEFAULT_STREAM
    lanes: dict[LaneName, Priority] = DEFAULT_LANES

    @field_validator("lanes", mode="before")
    @classmethod
    def _numbered(cls, value: object) -> object:
        """A list names the lanes in order of priority: 10, 20, 30, …"""
        if not isinstance(value, list):
            return value
        if any(not isinstance(name, str) for name in value) or len(set(value)) != len(value):
            raise ValueError('a list of lanes holds different names, the most urgent first: ["high", "default"]')
        return {name: 10 * (number + 1) for number, name in enumerate(value)}

    @field_validator("lanes")
    @classmethod
    def _at_least_one(cls, value: dict[str, int]) -> dict[str, int]:
        if not 1 <= len(value) <= 32:
            raise ValueError("a queue has 1 to 32 lanes")
        return value


class Defaults(_StreamFields, _QueueFields):
    """What holds for every stream and queue that does not say otherwise."""


class StreamsConfig(_Strict):
    """The whole file, defaults filled in.  ``streams`` always has ``TASKS``."""

    version: Literal[1] = 1
    defaults: Defaults = Defaults()
    streams: dict[Name, StreamConfig] = {}
    queues: dict[Name, QueueConfig] = {}

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        """Put the defaults under every stream and queue, and add the stream that always exists."""
        if not isinstance(data, dict):
            return data
        defaults = data.get("defaults", {})
        if not isinstance(defaults, dict):
            return data
        streams, queues = data.get("streams", {}), data.get("queues", {})
        if isinstance(streams, dict):
            streams = {DEFAULT_STREAM: {}, **streams}
            streams = {name: _under(defaults, StreamConfig, table) for name, table in streams.items()}
        if isinstance(queues, dict):
            queues = {name: _under(defaults, QueueConfig, table) for name, table in queues.items()}
        return {**data, "streams": streams, "queues": queues}

    def queue(self, name: str) -> QueueConfig:
        """The settings of a queue; one that the file does not name has the defaults."""
        found = self.queues.get(name)
        if found is not None:
            return found
        return QueueConfig(**{field: getattr(self.defaults, field) for field in _QueueFields.model_fields})


def load(path: Path | None) -> StreamsConfig:
    """Read a streams.conf; without a path the built-in defaults: one stream ``TASKS``, three lanes for every queue.

    Raises ``StreamsFileError`` (a ``ConfigurationError``) naming file, line, field and cure of every mistake.
    """
    if path is None:
        return StreamsConfig()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise StreamsFileError([Problem(str(path), 0, "", f"cannot be read: {reason}")]) from None
    except UnicodeDecodeError as error:
        raise StreamsFileError([Problem(str(path), 0, "", f"is not UTF-8 text: {error.reason}")]) from None
    return loads(text, str(path))


def loads(text: str, file: str = "streams.conf") -> StreamsConfig:
    """Like :func:`load` for a text; ``file`` is what the errors call it."""
    try:
        data = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise StreamsFileError([Problem.of_syntax(file, text, error)]) from None
    fixed = list(_check_fixed(data))
    return explain(StreamsConfig, data, text, file, fixed, _check_references)


def _under(defaults: dict[str, Any], model: type[BaseModel], table: Any) -> Any:
    if not isinstance(table, dict):
        return table
    return {**{name: value for name, value in defaults.items() if name in model.model_fields}, **table}


def _check_fixed(data: dict[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """Refuse what breaks the protocol, then take the fixed fields out so that the models need not know them."""
    found: list[tuple[tuple[str, ...], str]] = []
    tables: list[tuple[tuple[str, ...], Any, Any]] = [
        (("defaults",), data.get("defaults"), {**FIXED_QUEUE_FIELDS, **FIXED_STREAM_FIELDS})
    ]
    for kind, rules in (("streams", FIXED_STREAM_FIELDS), ("queues", FIXED_QUEUE_FIELDS)):
        group = data.get(kind)
        tables += [((kind, name), table, rules) for name, table in group.items()] if isinstance(group, dict) else []
    for path, table, rules in tables:
        if isinstance(table, dict):
            found += [((*path, name), message) for name, message in refused(table, rules)]
            for name in table.keys() & rules.keys():
                del table[name]
    return found


def _check_references(config: StreamsConfig) -> list[tuple[tuple[str, ...], str]]:
    """What only shows when the whole file is read."""
    found: list[tuple[tuple[str, ...], str]] = []
    for name, queue in config.queues.items():
        if queue.stream not in config.streams:
            hint = suggestion(queue.stream, config.streams)
            found.append((("queues", name, "stream"), f"there is no stream {queue.stream!r} in this file{hint}"))
    return found
