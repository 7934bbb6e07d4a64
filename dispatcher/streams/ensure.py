"""Make and repair streams and consumers one by one: what relay and worker call while they run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from dispatcher.errors import BusError, ConfigurationError
from dispatcher.streams.config import QueueConfig, StreamConfig
from dispatcher.streams.drift import Difference, consumer_differences
from dispatcher.streams.plan import Change, Lane, compare_stream, plan_consumer, plan_stream
from dispatcher.streams.server import (
    CONSUMER_EXISTS,
    CONSUMER_MISSING,
    CONSUMER_NOT_FOUND,
    STREAM_EXISTS,
    STREAM_NOT_FOUND,
    SUBJECTS_OVERLAP,
    FoundStream,
    JetStreamApi,
    parse_version,
    put_consumer,
    read_consumer,
    stream_names,
)
from dispatcher.subjects import Subjects

__all__ = [
    "RACES",
    "carry_out",
    "ensure_consumer",
    "ensure_stream",
    "is_stopped",
    "is_store_damaged",
    "refuse_contradictions",
    "set_max_ack_pending",
]

_log = logging.getLogger("dispatcher.streams")

RACES = {STREAM_EXISTS, STREAM_NOT_FOUND, CONSUMER_EXISTS, CONSUMER_MISSING, CONSUMER_NOT_FOUND}
"""Refusals that mean: somebody else changed it between our look and our write; look again."""
_TRIES = 4
# what the server's refusals mean in terms of streams.conf
_FIELD_OF = {
    10026: "max_consumers",
    10047: "max_bytes",
    10028: "max_bytes",
    10065: "subjects",
    10074: "num_replicas",
    10100: "filter_subject",
    10113: "max_bytes",
    10120: "max_bytes",
}
_CONSUMER_REFUSED, _CONSUMER_STORE_FAILED, _STREAM_OFFLINE = 10012, 10104, 10194
_REFUSED = {10025, _CONSUMER_REFUSED, 10052}
"""Invalid document, consumer cannot be changed so, stream cannot be changed so."""


async def ensure_stream(bus: JetStreamApi, subjects: Subjects, stream: str, config: StreamConfig) -> str:
    """Make the stream if it is missing, set right what differs; returns its ``created`` time as the server tells it.

    Raises ``ConfigurationError`` naming the field when the server's stream contradicts the file.
    """
    return await _settle(bus, lambda: plan_stream(bus, subjects, stream, config))


async def ensure_consumer(
    bus: JetStreamApi,
    subjects: Subjects,
    stream: str,
    queue: str,
    lane: str,
    max_ack_pending: int,
    config: QueueConfig | None = None,
) -> None:
    """Make the consumer of a lane if it is missing, set right what differs.

    ``max_ack_pending`` is only the value of a consumer that is made now; an existing one keeps its own, which the
    leader set, unless it is above the cap of ``config``.  Raises ``ConfigurationError`` on a contradiction,
    ``BusError`` when the stream is missing.
    """
    settings = config or QueueConfig()

    async def look() -> Change:
        change = await plan_consumer(bus, subjects, Lane(stream, queue, lane), settings)
        if change.action != "create":
            return change
        return replace(change, send={**change.send, "max_ack_pending": min(max_ack_pending, settings.max_ack_pending)})

    await _settle(bus, look)


async def set_max_ack_pending(
    bus: JetStreamApi, subjects: Subjects, stream: str, queue: str, lane: str, value: int
) -> bool:
    """Set how many messages of a lane may be out at the workers; ``False`` if it was so already.

    Only this field changes: the consumer's other settings are sent back as the server told them.  Raises ``BusError``
    when stream or consumer are missing.
    """
    server_name, name = subjects.stream_name(stream), subjects.consumer(queue, lane)
    info = await read_consumer(bus, server_name, name)
    if info is None:
        raise BusError(404, CONSUMER_NOT_FOUND, f"consumer {name} of stream {server_name} not found")
    document = info["config"]
    if document.get("max_ack_pending") == value:
        return False
    metadata = {key: item for key, item in (document.get("metadata") or {}).items() if not key.startswith("_nats.")}
    taken = await put_consumer(
        bus, server_name, {**document, "max_ack_pending": value, "metadata": metadata}, action="update"
    )
    if taken.get("max_ack_pending") != value:
        raise ConfigurationError(
            f"consumer {name} of stream {server_name}: the server did not take max_ack_pending = {value}"
        )
    return True


def is_store_damaged(error: BusError) -> bool:
    """Whether the server could not make a consumer because of files that it left: no configuration cures that."""
    return error.err_code == _CONSUMER_STORE_FAILED or (
        error.err_code == _CONSUMER_REFUSED and "creating store" in error.description
    )


def is_stopped(error: BusError) -> bool:
    """Whether a server alone took the stream out of service because of settings that it cannot read.

    In a cluster "offline" may mean that the nodes have different versions, for as long as an upgrade takes.
    """
    return error.err_code == _STREAM_OFFLINE and "stopped" in error.description


def refuse_contradictions(changes: Sequence[Change]) -> None:
    """Raise ``ConfigurationError`` naming stream or consumer, field and cure for everything forbidden; or return."""
    lines = [_contradiction(change) for change in changes if change.action == "forbidden"]
    if lines:
        raise ConfigurationError("\n".join(lines))


async def carry_out(bus: JetStreamApi, change: Change) -> FoundStream | None:
    """Write one planned change and check what the server took; returns the stream if it was one.

    nats-server before 2.12 drops fields it does not know without a word, hence the check.
    """
    if change.action not in ("create", "update"):
        return None
    try:
        if change.kind == "stream":
            found = FoundStream.of(await bus.api(f"STREAM.{change.action.upper()}.{change.name}", change.send))
            if change.action == "create" and not found.is_fresh:
                # a server that could not read a stream's settings takes its files for those of the new one: consumers
                # remember sequence numbers that are used again now
                _log.error("stream %s was made over the files of a damaged one; made anew without them", change.name)
                await bus.api(f"STREAM.DELETE.{change.name}")
                found = FoundStream.of(await bus.api(f"STREAM.CREATE.{change.name}", change.send))
            left = compare_stream(found, change.wanted, parse_version(bus.server_version)).differences
        else:
            found, left = None, await _left_of_consumer(bus, change)
    except BusError as error:
        raise await _explained(bus, change, error) from None
    if left:
        fields = "; ".join(str(difference) for difference in left)
        raise ConfigurationError(
            f"{change.kind} {change.name}: nats-server {bus.server_version} did not take {fields}; change"
            " streams.conf or upgrade the server"
        )
    return found


async def _left_of_consumer(bus: JetStreamApi, change: Change) -> tuple[Difference, ...]:
    """What differs after the write.  nats-server 2.15.1 may answer with old metadata after a restart: look again."""
    left = consumer_differences(await put_consumer(bus, change.stream, change.send, change.action), change.wanted)
    if left and (info := await read_consumer(bus, change.stream, change.name)) is not None:
        left = consumer_differences(info["config"], change.wanted)
    return tuple(left)


async def _settle(bus: JetStreamApi, look: Callable[[], Awaitable[Change]]) -> str:
    """Look and write until nothing is left to do: another process may do the same at this moment."""
    for left in reversed(range(_TRIES)):
        change = await look()
        refuse_contradictions([change])
        try:
            found = await carry_out(bus, change)
            return found.created if found else change.created
        except BusError as error:
            if error.err_code not in RACES or not left:
                raise
            await asyncio.sleep(0)
    raise AssertionError("unreachable")


async def _explained(bus: JetStreamApi, change: Change, error: BusError) -> Exception:
    """The server's refusal in terms of streams.conf, or the error itself if it is about something else."""
    if error.err_code == SUBJECTS_OVERLAP:
        others = [name for name in await stream_names(bus, change.send["subjects"][0]) if name != change.name]
        return ConfigurationError(
            f"stream {change.name}: subjects {change.send['subjects'][0]} already belong to stream"
            f" {', '.join(others) or 'of another account'}; choose another DISPATCHER_NAMESPACE or delete that stream"
        )
    field = _FIELD_OF.get(error.err_code)
    if is_store_damaged(error) or (field is None and error.err_code not in _REFUSED):
        return error
    named = field or ", ".join(difference.field for difference in change.differences) or "configuration"
    return ConfigurationError(f"{change.kind} {change.name}: {named}: the server refuses it: {error.description}")


def _contradiction(change: Change) -> str:
    fields = "; ".join(_field_contradiction(difference) for difference in change.obstacles)
    if change.kind == "consumer":
        return f"consumer {change.name} of stream {change.stream}: {fields}; cure: dispatcher streams apply --recreate"
    return (
        f"stream {change.name}: {fields}; make streams.conf fit, or delete the stream and run: dispatcher streams apply"
        " (queued tasks are in PostgreSQL and are sent again)"
    )


def _field_contradiction(difference: Difference) -> str:
    return str(difference).replace(" -> ", " on the server, wanted ")
