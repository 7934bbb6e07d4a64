"""Turns settled batches into metrics: counted per type, queue and outcome, so that the cost is per batch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from uuid import UUID

from dispatcher.metrics import WorkerMetrics
from state.machine import State
from workers.attempt import Attempt

__all__ = ["Measure"]


class Measure:
    """Owned by the worker; ``queue_names`` by their numbers."""

    def __init__(self, metrics: WorkerMetrics, queue_names: Mapping[int, str]) -> None:
        self._metrics, self._queue_names = metrics, queue_names

    def claimed(self, attempts: list[Attempt]) -> None:
        """These were claimed just now."""
        for (task, queue), count in Counter((a.task_type.name, a.queue_id) for a in attempts).items():
            self._metrics.started.labels(task, self._queue_names.get(queue, "")).inc(count)

    def settled(self, attempts: list[Attempt], accepted: Mapping[UUID, State]) -> None:
        """These were settled just now; those that are not in ``accepted`` came too late."""
        now = time.monotonic()
        counts: Counter[tuple[str, int, str]] = Counter()
        for attempt in attempts:
            state = accepted.get(attempt.delivery.task_id)
            if state is None:
                self._metrics.refused.inc()
                continue
            counts[attempt.task_type.name, attempt.queue_id, state.label] += 1
            if attempt.started_at:
                self._metrics.duration.labels(attempt.task_type.name).observe(now - attempt.started_at)
        for (task, queue, status), count in counts.items():
            self._metrics.finished.labels(task, self._queue_names.get(queue, ""), status).inc(count)
