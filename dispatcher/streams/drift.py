"""Where the server's configuration differs from the wanted one, and whether the server can change it.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dispatcher.streams.units import format_duration, format_size

__all__ = ["Difference", "consumer_differences", "merged", "stream_differences"]

_DURATIONS = {"duplicate_window", "max_age", "ack_wait", "idle_heartbeat", "inactive_threshold"}
_UNSET: tuple[Any, ...] = (None, 0, "", False, [], {})
_STREAM_FORBIDDEN = {
    "retention": "the retention of a work queue cannot change",
    "storage": "the storage type cannot change",
    "sealed": "a sealed stream stays sealed",
    "mirror": "a mirror stays a mirror",
}
_MAX_CONSUMERS_FROM = (2, 12, 7)
# absent from our documents because the protocol forbids them: any value on the server is a difference
_STREAM_ABSENT = ("mirror", "placement", "sources", "subject_transform")
_CONSUMER_ABSENT = (
    "backoff",
    "idle_heartbeat",
    "flow_control",
    "headers_only",
    "inactive_threshold",
    "rate_limit_bps",
    "filter_subjects",
    "mem_storage",
)
_CONSUMER_FORBIDDEN = {
    "deliver_policy": "the deliver policy cannot change",
    "replay_policy": "the replay policy cannot change",
    "ack_policy": "the ack policy cannot change",
    "idle_heartbeat": "heartbeats cannot be switched off",
    "flow_control": "flow control cannot be switched off",
    "mem_storage": "the storage type cannot change",
}


@dataclass(frozen=True)
class Difference:
    """One field that is not as wanted.  ``obstacle`` says why the server cannot change it in place, if so."""

    field: str
    found: Any
    wanted: Any
    obstacle: str = ""

    def __str__(self) -> str:
        text = f"{self.field}: {_shown(self.field, self.found)} -> {_shown(self.field, self.wanted)}"
        return f"{text} ({self.obstacle})" if self.obstacle else text


def stream_differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], *, clustered: bool, version: tuple[int, ...]
) -> list[Difference]:
    """Compare two stream configurations.

    ``clustered`` tells whether the server is part of a cluster: nats-server before 2.15 accepts any number of replicas
    alone and shows it, without making them.
    """
    differences = []
    for field in dict.fromkeys((*wanted, *_STREAM_ABSENT)):
        here, there = found.get(field), wanted.get(field)
        if field == "metadata":
            if not _carries(here, there):
                differences.append(Difference(field, here, there))
        elif not _same(here, there):
            obstacle = _STREAM_FORBIDDEN.get(field, "")
            if field == "max_consumers" and version < _MAX_CONSUMERS_FROM:
                obstacle = "nats-server changes it in place from 2.12.7 on"
            differences.append(Difference(field, here, there, obstacle))
    replicas = wanted["num_replicas"]
    if replicas > 1 and not clustered:
        differences = [difference for difference in differences if difference.field != "num_replicas"]
        differences.append(Difference("num_replicas", 1, replicas, "the server is not part of a cluster"))
    return differences


def consumer_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Difference]:
    """Compare two consumer configurations.

    ``max_ack_pending`` counts only when it is above the lane's cap or unlimited: below it is the leader's to set.
    """
    differences = []
    for field in (*wanted, *_CONSUMER_ABSENT):
        here, there = found.get(field), wanted.get(field)
        if field == "max_ack_pending":
            differs = not isinstance(here, int) or not 0 < here <= wanted[field]
        elif field == "metadata":
            differs = not _carries(here, there)
        else:
            differs = not _same(here, there)
        if differs:
            obstacle = _CONSUMER_FORBIDDEN.get(field, "")
            if field == "deliver_subject" and not here:
                obstacle = "a pull consumer cannot become a push consumer"
            differences.append(Difference(field, here, there, obstacle))
    return differences


def merged(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The server's document with our fields put over it: what others set and we do not care about stays."""
    document = {name: value for name, value in found.items() if name not in (*_STREAM_ABSENT, *_CONSUMER_ABSENT)}
    kept = {key: value for key, value in (found.get("metadata") or {}).items() if not key.startswith("_nats.")}
    return {**document, **wanted, "metadata": {**kept, **wanted["metadata"]}}


def _same(here: Any, there: Any) -> bool:
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        return all(_same(here.get(key), there.get(key)) for key in here.keys() | there.keys())
    return here == there or (here in _UNSET and there in _UNSET)


def _carries(here: Any, there: Any) -> bool:
    return all((here or {}).get(key) == value for key, value in there.items())


def _shown(field: str, value: Any) -> str:
    if field == "metadata":
        return "/".join(f"{(value or {}).get(key, '')}" for key in ("managed_by", "config")).strip("/") or "none"
    if value in (None, "", [], {}):
        return "unset"
    if field in _DURATIONS:
        return format_duration(value)
    if field == "max_bytes":
        return format_size(value)
    if value == -1 and field.startswith("max_"):
        return "unlimited"
    return str(value).lower() if isinstance(value, bool) else str(value)
