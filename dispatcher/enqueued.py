"""How many tasks this process created, by type and queue: a plain count, so that creating needs no metrics library.

``dispatcher.metrics.EnqueuedCollector`` shows it to Prometheus.
"""

from __future__ import annotations

from collections import Counter

__all__ = ["ENQUEUED"]

ENQUEUED: Counter[tuple[str, str]] = Counter()
"""(name of the task type, queue) to tasks.  Under threads a count may get lost now and then; none is ever too many."""
