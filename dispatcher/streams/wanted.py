"""What the server should hold: the JetStream API's own documents for a stream and for a lane's consumer.  Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dispatcher.streams.config import QueueConfig, StreamConfig
from dispatcher.streams.units import nanoseconds
from dispatcher.subjects import DELIVER_GROUP, Subjects

__all__ = ["CONFIG_KEY", "MANAGED_BY", "consumer_document", "is_ours", "stream_document"]

MANAGED_BY = "jetstream-dispatcher"
CONFIG_KEY = "config"


def stream_document(subjects: Subjects, stream: str, config: StreamConfig) -> dict[str, Any]:
    """The stream's configuration as STREAM.CREATE takes it; every field that we rely on is stated."""
    document: dict[str, Any] = {
        "name": subjects.stream_name(stream),
        "subjects": [subjects.stream_filter(stream)],
        "description": config.description,
        "retention": "workqueue",
        "discard": "new",
        "storage": config.storage,
        "num_replicas": config.num_replicas,
        "max_bytes": config.max_bytes,
        "max_msgs": config.max_msgs,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": config.max_consumers,
        "duplicate_window": nanoseconds(config.duplicate_window),
        "compression": config.compression,
        "no_ack": False,
        "sealed": False,
        "discard_new_per_subject": False,
    }
    if config.placement is not None:
        document["placement"] = config.placement.model_dump(exclude_defaults=True)
    return _stamped(document)


def consumer_document(subjects: Subjects, stream: str, queue: str, lane: str, config: QueueConfig) -> dict[str, Any]:
    """The consumer's configuration as CONSUMER.CREATE takes it, with ``max_ack_pending`` at the lane's cap."""
    name = subjects.consumer(queue, lane)
    document: dict[str, Any] = {
        "name": name,
        "durable_name": name,
        "deliver_subject": subjects.push(stream, queue, lane),
        "deliver_group": DELIVER_GROUP,
        "filter_subject": subjects.lane(stream, queue, lane),
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "replay_policy": "instant",
        "max_deliver": -1,
        "ack_wait": nanoseconds(config.ack_wait),
    }
    return {**_stamped(document), "max_ack_pending": config.max_ack_pending}


def is_ours(document: Mapping[str, Any]) -> bool:
    """Whether a stream's or consumer's configuration carries our stamp."""
    return bool((document.get("metadata") or {}).get("managed_by") == MANAGED_BY)


def _stamped(document: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
    return {**document, "metadata": {"managed_by": MANAGED_BY, CONFIG_KEY: digest}}
