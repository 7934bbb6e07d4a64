"""Queues and lanes of streams.conf as rows: the database knows which stream a queue uses and which lanes it has."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from dispatcher.streams.config import StreamsConfig
from state.registry import REGISTER_QUEUE

__all__ = ["queue_rows", "register_queues"]


def queue_rows(config: StreamsConfig) -> list[dict[str, Any]]:
    """The parameters of ``REGISTER_QUEUE`` for every queue of the file, by name: the same order everywhere."""
    return [
        {
            "name": name,
            "stream": queue.stream,
            "lanes": list(queue.lanes),
            "priorities": list(queue.lanes.values()),
        }
        for name, queue in sorted(config.queues.items())
    ]


def register_queues(connection: Connection[Any], config: StreamsConfig, schema: str) -> list[str]:
    """Write the queues, each in its own transaction on an autocommit connection; returns those that were not so before.

    Lanes are added and their priorities set; lanes that the file no longer names stay, because tasks refer to them.
    """
    changed = []
    for row in queue_rows(config):
        answer = connection.execute(REGISTER_QUEUE.psycopg(schema).encode(), row).fetchone()
        if answer is not None and answer[0]:
            changed.append(row["name"])
    return changed
