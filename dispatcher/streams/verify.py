"""Keep the server as streams.conf says while the processes run: at start, and every few seconds by the leader."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from dispatcher.errors import BusError, BusUnavailable
from dispatcher.streams.config import StreamsConfig
from dispatcher.streams.ensure import (
    RACES,
    carry_out,
    ensure_stream,
    is_stopped,
    is_store_damaged,
    refuse_contradictions,
)
from dispatcher.streams.plan import Change, Lane, plan
from dispatcher.streams.server import JetStreamApi, check_server_version, read_stream
from dispatcher.subjects import Subjects

__all__ = ["Verified", "verify"]

_log = logging.getLogger("dispatcher.streams")


@dataclass
class Verified:
    """What :func:`verify` found and did."""

    created: dict[str, str] = field(default_factory=dict)
    """The ``created`` time of each stream of the file, by its name in the file; a new one means: reconcile all."""
    messages: dict[str, int] = field(default_factory=dict)
    """How many messages each of them holds."""
    repaired: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


async def verify(
    config: StreamsConfig, bus: JetStreamApi, subjects: Subjects, lanes: Iterable[Lane] = (), *, repair: bool = True
) -> Verified:
    """See that every stream of the file and every consumer of ``lanes`` is there and as wanted.

    What is missing is made.  What differs is set right if ``repair``, otherwise only told in ``warnings``: only one
    process should repair, or two with different files would undo each other's work for ever.  Raises
    ``ConfigurationError`` naming the field on a contradiction or a server that is too old, ``BusError`` and
    ``BusUnavailable`` when the server does not answer properly.  Costs one call per stream and 256 consumers.
    """
    result = Verified()
    warning = check_server_version(bus.server_version)
    if warning:
        result.warnings.append(warning)
    try:
        changes = await plan(config, bus, subjects, lanes)
    except BusError as error:
        if repair and not isinstance(error, BusUnavailable):  # asking a server that is away only costs time
            await _delete_stopped(config, bus, subjects)
        raise
    refuse_contradictions(changes)
    names = {subjects.stream_name(stream): stream for stream in config.streams}
    for change in changes:
        if change.kind == "stream" and change.name in names:
            result.created[names[change.name]] = change.created
            result.messages[names[change.name]] = change.messages
        if change.action == "create" or (change.action == "update" and repair):
            await _repair(bus, change, config, subjects, result, repair)
        elif change.action in ("update", "extra", "unknown"):
            result.warnings.append("; ".join([str(change), *map(str, change.differences)]))
    return result


async def _delete_stopped(config: StreamsConfig, bus: JetStreamApi, subjects: Subjects) -> None:
    """Delete every stream that its server has stopped for good; the next look makes it anew.

    A server alone does that when it cannot read the settings of the stream or of one of its consumers.
    """
    for stream in config.streams:
        name = subjects.stream_name(stream)
        try:
            await read_stream(bus, name)
        except BusError as error:
            if is_stopped(error):
                _log.error("the server has stopped %s (%s); deleting it, to make it anew", name, error.description)
                await bus.api(f"STREAM.DELETE.{name}")


async def _repair(
    bus: JetStreamApi, change: Change, config: StreamsConfig, subjects: Subjects, result: Verified, repair: bool
) -> None:
    """Carry out one change; that somebody else did it at the same moment is fine.

    A stream whose damaged files stand in the way of a consumer is deleted if ``repair``; the next look makes it anew,
    and what was queued is sent again.
    """
    if change.kind == "stream":
        stream = next(name for name in config.streams if subjects.stream_name(name) == change.name)
        result.created[stream] = await ensure_stream(bus, subjects, stream, config.streams[stream])
    else:
        try:
            await carry_out(bus, change)
        except BusError as error:
            if repair and is_store_damaged(error):
                _log.error("the server's files of %s are damaged; deleting the stream, to make it anew", change.stream)
                await bus.api(f"STREAM.DELETE.{change.stream}")
            if error.err_code not in RACES:
                raise
    result.repaired.append(change)
