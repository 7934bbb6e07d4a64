"""What JetStream says: streams, consumers, versions; and the one way to write each of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from dispatcher.errors import BusError, ConfigurationError
from dispatcher.wire import parse_time

__all__ = [
    "CONSUMER_EXISTS",
    "CONSUMER_MISSING",
    "CONSUMER_NOT_FOUND",
    "STREAM_EXISTS",
    "STREAM_NOT_FOUND",
    "SUBJECTS_OVERLAP",
    "FoundStream",
    "JetStreamApi",
    "check_server_version",
    "consumer_states",
    "list_consumers",
    "parse_version",
    "put_consumer",
    "read_consumer",
    "read_stream",
    "stream_names",
]

STREAM_NOT_FOUND, CONSUMER_NOT_FOUND = 10059, 10014
STREAM_EXISTS, CONSUMER_EXISTS, CONSUMER_MISSING = 10058, 10148, 10149
SUBJECTS_OVERLAP = 10065

_OLDEST, _GOOD = (2, 10, 0), (2, 12, 7)
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


class JetStreamApi(Protocol):
    """The part of ``dispatcher.bus.Bus`` that this package uses."""

    async def api(self, subject: str, payload: dict[str, Any] | None = None, timeout: float = 5.0) -> dict[str, Any]:
        """One JetStream API call; raises ``BusError`` or ``BusUnavailable``."""
        ...

    @property
    def server_version(self) -> str:
        """For example ``2.15.1``."""
        ...


@dataclass(frozen=True)
class FoundStream:
    """A stream as the server shows it."""

    config: dict[str, Any]
    created: str
    clustered: bool
    messages: int
    is_fresh: bool = True
    """Whether everything in it was stored after it was made; if not, it took over what an older one left on disk."""

    @classmethod
    def of(cls, answer: dict[str, Any]) -> FoundStream:
        """From the answer to STREAM.INFO, CREATE or UPDATE."""
        state = answer.get("state") or {}
        # a server alone tells itself as leader here, but no cluster's name
        clustered = bool((answer.get("cluster") or {}).get("name"))
        is_fresh = not state.get("last_seq") or parse_time(state["last_ts"]) >= parse_time(answer["created"])
        return cls(answer["config"], answer["created"], clustered, int(state.get("messages", 0)), is_fresh)


def parse_version(version: str) -> tuple[int, int, int]:
    """``2.12.0-RC.1`` as ``(2, 12, 0)``; raises ``ConfigurationError`` for what is no version."""
    match = _VERSION.search(version)
    if match is None:
        raise ConfigurationError(f"the NATS server tells the version {version!r}, which cannot be read")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def check_server_version(version: str) -> str | None:
    """``None`` for a good nats-server, a warning below 2.12.7; raises ``ConfigurationError`` below 2.10."""
    number = parse_version(version)
    if number < _OLDEST:
        raise ConfigurationError(f"nats-server {version} is too old; upgrade it to 2.12.7 or later (2.10 at the least)")
    if number < _GOOD:
        return f"nats-server {version} works, but has known defects in its storage; upgrade it to 2.12.7 or later"
    return None


async def read_stream(bus: JetStreamApi, name: str) -> FoundStream | None:
    """The stream, or ``None`` if there is none of that name."""
    try:
        return FoundStream.of(await bus.api(f"STREAM.INFO.{name}"))
    except BusError as error:
        if error.err_code == STREAM_NOT_FOUND:
            return None
        raise


async def stream_names(bus: JetStreamApi, subject: str) -> list[str]:
    """The names of all streams that listen on some of ``subject`` (wildcards allowed)."""
    return [name async for name in _pages(bus, "STREAM.NAMES", "streams", {"subject": subject})]


async def read_consumer(bus: JetStreamApi, stream: str, name: str) -> dict[str, Any] | None:
    """CONSUMER.INFO (``config``, ``num_pending``, ``num_ack_pending`` …), or ``None`` if there is no such consumer.

    Both are names on the server.  Raises ``BusError`` when the stream is missing.
    """
    try:
        return await bus.api(f"CONSUMER.INFO.{stream}.{name}")
    except BusError as error:
        if error.err_code == CONSUMER_NOT_FOUND:
            return None
        raise


async def list_consumers(bus: JetStreamApi, stream: str) -> dict[str, dict[str, Any] | None]:
    """Every consumer of the stream by name; ``None`` for one that exists but whose leader did not answer."""
    return {name: info and info["config"] for name, info in (await consumer_states(bus, stream)).items()}


async def consumer_states(bus: JetStreamApi, stream: str) -> dict[str, dict[str, Any] | None]:
    """What CONSUMER.INFO says of every consumer of the stream, by name; ``None`` where no leader answered."""
    found: dict[str, dict[str, Any] | None] = {}
    offset, total = 0, 1
    while offset < total:
        # a cluster waits 4 s for consumers that have no leader at the moment
        answer = await bus.api(f"CONSUMER.LIST.{stream}", {"offset": offset}, timeout=10.0)
        page = answer.get("consumers") or []
        absent = [*(answer.get("missing") or []), *(answer.get("offline") or {})]
        found |= {name: None for name in absent} | {item["name"]: item for item in page}
        total = int(answer.get("total", 0))
        offset += int(answer.get("limit", 0)) or max(1, len(page))
    return found


async def put_consumer(bus: JetStreamApi, stream: str, document: dict[str, Any], action: str) -> dict[str, Any]:
    """Create (``action="create"``) or change (``"update"``) a consumer; returns the configuration the server took."""
    subject = f"CONSUMER.CREATE.{stream}.{document['durable_name']}.{document['filter_subject']}"
    payload = {"stream_name": stream, "config": document, "action": action}
    config: dict[str, Any] = (await bus.api(subject, payload))["config"]
    return config


async def _pages(bus: JetStreamApi, subject: str, key: str, query: dict[str, Any]) -> AsyncIterator[str]:
    offset, total = 0, 1
    while offset < total:
        answer = await bus.api(subject, {**query, "offset": offset})
        page = answer.get(key) or []
        for name in page:
            yield name
        total = int(answer.get("total", 0))
        offset += int(answer.get("limit", 0)) or max(1, len(page))
