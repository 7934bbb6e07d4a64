"""Keep the server as streams.conf says while the processes run: at start, and every few seconds by the leader."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dispatcher.errors import BusError
from dispatcher.streams.config import StreamsConfig
from dispatcher.streams.ensure import RACES, carry_out, ensure_stream, refuse_contradictions
from dispatcher.streams.plan import Change, Lane, plan
from dispatcher.streams.server import JetStreamApi, check_server_version
from dispatcher.subjects import Subjects

__all__ = ["Verified", "verify"]


@dataclass
class Verified:
    """What :func:`verify` found and did."""

    created: dict[str, str] = field(default_factory=dict)
    """The ``created`` time of each stream of the file, by its name in the file; a new one means: reconcile all."""
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
    changes = await plan(config, bus, subjects, lanes)
    refuse_contradictions(changes)
    names = {subjects.stream_name(stream): stream for stream in config.streams}
    for change in changes:
        if change.kind == "stream" and change.name in names:
            result.created[names[change.name]] = change.created
        if change.action == "create" or (change.action == "update" and repair):
            await _repair(bus, change, config, subjects, result)
        elif change.action in ("update", "extra", "unknown"):
            result.warnings.append("; ".join([str(change), *map(str, change.differences)]))
    return result


async def _repair(
    bus: JetStreamApi, change: Change, config: StreamsConfig, subjects: Subjects, result: Verified
) -> None:
    """Carry out one change; that somebody else did it at the same moment is fine."""
    if change.kind == "stream":
        stream = next(name for name in config.streams if subjects.stream_name(name) == change.name)
        result.created[stream] = await ensure_stream(bus, subjects, stream, config.streams[stream])
    else:
        try:
            await carry_out(bus, change)
        except BusError as error:
            if error.err_code not in RACES:
                raise
    result.repaired.append(change)
