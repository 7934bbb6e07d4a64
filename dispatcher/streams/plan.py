"""What would have to change on the server so that it is as streams.conf says.  Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dispatcher.streams.config import QueueConfig, StreamConfig, StreamsConfig
from dispatcher.streams.drift import Difference, consumer_differences, merged, stream_differences
from dispatcher.streams.server import (
    FoundStream,
    JetStreamApi,
    list_consumers,
    parse_version,
    read_consumer,
    read_stream,
    stream_names,
)
from dispatcher.streams.wanted import consumer_document, is_ours, stream_document
from dispatcher.subjects import Subjects

__all__ = ["Action", "Change", "Lane", "compare_stream", "plan", "plan_consumer", "plan_stream"]

Action = Literal["create", "update", "unchanged", "forbidden", "extra", "unknown"]


class Lane(NamedTuple):
    """A lane that is in use: names as in streams.conf and in the database."""

    stream: str
    queue: str
    lane: str


@dataclass(frozen=True)
class Change:
    """What is to be done about one stream or consumer.

    ``forbidden``: the server cannot change it in place, see ``obstacles``.  ``extra``: it is there, but the file does
    not ask for it.  ``unknown``: its leader did not answer.
    """

    kind: Literal["stream", "consumer"]
    action: Action
    stream: str
    """The stream's name on the server."""
    name: str
    """The stream's or consumer's name on the server."""
    differences: tuple[Difference, ...] = ()
    note: str = ""
    wanted: dict[str, Any] = field(default_factory=dict, repr=False)
    send: dict[str, Any] = field(default_factory=dict, repr=False)
    created: str = ""
    """When the stream was made, as the server tells it; empty for a stream that is missing and for consumers."""
    clustered: bool = False
    ours: bool = True
    messages: int = 0

    @property
    def obstacles(self) -> tuple[Difference, ...]:
        """The differences that the server cannot change in place."""
        return tuple(difference for difference in self.differences if difference.obstacle)

    def __str__(self) -> str:
        head = f"{self.kind} {self.name}" + (f" of {self.stream}" if self.kind == "consumer" else "")
        return f"{head}: {self.action}" + (f" ({self.note})" if self.note else "")

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        fields = [
            {"field": d.field, "found": d.found, "wanted": d.wanted, "obstacle": d.obstacle} for d in self.differences
        ]
        named = {"kind": self.kind, "action": self.action, "stream": self.stream, "name": self.name}
        return {**named, "note": self.note, "fields": fields}


async def plan(
    config: StreamsConfig, bus: JetStreamApi, subjects: Subjects, lanes: Iterable[Lane] = ()
) -> list[Change]:
    """Compare the server with the file: every stream of the file, every consumer there is, and those of ``lanes``.

    Consumers are made when a queue is first used, so a missing one is a change only if ``lanes`` names it.
    """
    needed: dict[str, list[Lane]] = {}
    for lane in lanes:
        needed.setdefault(lane.stream, []).append(lane)
    changes: list[Change] = []
    for stream, stream_config in config.streams.items():
        change = await plan_stream(bus, subjects, stream, stream_config)
        changes.append(change)
        found = await list_consumers(bus, change.name) if change.action != "create" else {}
        changes += _plan_consumers(config, subjects, stream, found, needed.get(stream, ()))
    return changes + await _extra_streams(config, bus, subjects)


async def plan_stream(bus: JetStreamApi, subjects: Subjects, stream: str, config: StreamConfig) -> Change:
    """Compare one stream."""
    wanted = stream_document(subjects, stream, config)
    found = await read_stream(bus, wanted["name"])
    if found is None:
        return Change("stream", "create", wanted["name"], wanted["name"], wanted=wanted, send=wanted)
    return compare_stream(found, wanted, parse_version(bus.server_version))


def compare_stream(found: FoundStream, wanted: dict[str, Any], version: tuple[int, ...]) -> Change:
    """The change that makes ``found`` as ``wanted``."""
    differences = stream_differences(found.config, wanted, clustered=found.clustered, version=version)
    return Change(
        "stream",
        _action(differences),
        wanted["name"],
        wanted["name"],
        tuple(differences),
        wanted=wanted,
        send=merged(found.config, wanted),
        created=found.created,
        clustered=found.clustered,
        messages=found.messages,
    )


async def plan_consumer(bus: JetStreamApi, subjects: Subjects, lane: Lane, config: QueueConfig) -> Change:
    """Compare the consumer of one lane."""
    info = await read_consumer(bus, subjects.stream_name(lane.stream), subjects.consumer(lane.queue, lane.lane))
    return _compare_consumer(subjects, lane, config, info["config"] if info else None)


def _compare_consumer(subjects: Subjects, lane: Lane, config: QueueConfig, found: dict[str, Any] | None) -> Change:
    wanted = consumer_document(subjects, lane.stream, lane.queue, lane.lane, config)
    stream, name = subjects.stream_name(lane.stream), wanted["name"]
    if found is None:
        return Change("consumer", "create", stream, name, wanted=wanted, send=wanted)
    differences = consumer_differences(found, wanted)
    send = merged(found, wanted)
    if not any(difference.field == "max_ack_pending" for difference in differences):
        send["max_ack_pending"] = found["max_ack_pending"]  # below the cap it is the leader's
    return Change("consumer", _action(differences), stream, name, tuple(differences), wanted=wanted, send=send)


def _plan_consumers(
    config: StreamsConfig,
    subjects: Subjects,
    stream: str,
    found: dict[str, dict[str, Any] | None],
    needed: Iterable[Lane],
) -> list[Change]:
    lanes = {subjects.consumer(lane.queue, lane.lane): lane for lane in needed}
    changes = []
    for name, document in found.items():
        lane = lanes.pop(name, None)
        if document is None:
            server_name = subjects.stream_name(stream)
            changes.append(Change("consumer", "unknown", server_name, name, note="its leader does not answer"))
            continue
        existing = lane or _lane_of(subjects, stream, name, document)
        obsolete = _why_extra(config, existing, document) if lane is None else ""
        if existing is None or obsolete:
            ours = is_ours(document)
            server_name = subjects.stream_name(stream)
            changes.append(Change("consumer", "extra", server_name, name, note=obsolete, ours=ours, send=document))
        else:
            changes.append(_compare_consumer(subjects, existing, config.queue(existing.queue), document))
    return changes + [_compare_consumer(subjects, lane, config.queue(lane.queue), None) for lane in lanes.values()]


def _lane_of(subjects: Subjects, stream: str, name: str, document: dict[str, Any]) -> Lane | None:
    """The lane that a consumer serves, told by its filter; its name must fit."""
    prefix = subjects.stream_filter(stream).removesuffix(">")
    queue, dot, lane = str(document.get("filter_subject") or "").removeprefix(prefix).partition(".")
    return Lane(stream, queue, lane) if dot and name == subjects.consumer(queue, lane) else None


def _why_extra(config: StreamsConfig, lane: Lane | None, document: dict[str, Any]) -> str:
    if lane is None:
        return "no lane of ours" if is_ours(document) else "not made by us; it takes messages away from the workers"
    queue = config.queues.get(lane.queue)
    home = config.queue(lane.queue).stream
    if home != lane.stream:
        return f"queue {lane.queue} belongs to stream {home}"
    if queue is not None and lane.lane not in queue.lanes:
        return f"queue {lane.queue} has no lane {lane.lane} in the file"
    return ""


async def _extra_streams(config: StreamsConfig, bus: JetStreamApi, subjects: Subjects) -> list[Change]:
    known = {subjects.stream_name(stream) for stream in config.streams}
    changes = []
    for name in await stream_names(bus, f"{subjects.namespace}.tasks.>"):
        found = await read_stream(bus, name) if name not in known else None
        if found is None:
            continue
        ours = is_ours(found.config)
        note = f"not in the file; holds {found.messages} messages" if ours else "not made by us, on our subjects"
        change = Change("stream", "extra", name, name, note=note, ours=ours, messages=found.messages, send=found.config)
        changes.append(change)
    return changes


def _action(differences: list[Difference]) -> Action:
    if any(difference.obstacle for difference in differences):
        return "forbidden"
    return "update" if differences else "unchanged"
