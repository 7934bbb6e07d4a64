"""Turns batches into metrics: counted per type, queue and outcome, so that the cost is per batch; logs what failed."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from uuid import UUID

from dispatcher.logs import attempt_fields
from dispatcher.metrics import WorkerMetrics
from state.machine import State
from workers.attempt import Attempt
from workers.claimer import Claimer
from workers.executor import Executor
from workers.inbox import Inbox
from workers.presence import Presence

__all__ = ["Measure", "stored_at"]

_log = logging.getLogger("dispatcher.task")


def stored_at(reply: str) -> float:
    """When the stream stored this message, in Unix seconds: a token of its reply subject, 0.0 if there is none.

    ``$JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<seq>.<nanoseconds>.<pending>``, or with two tokens more before it.
    """
    tokens = reply.split(".")
    try:
        return int(tokens[7] if len(tokens) == 9 else tokens[9]) / 1e9
    except (IndexError, ValueError):
        return 0.0


class Measure:
    """Owned by the worker; ``queue_names`` by their numbers."""

    def __init__(self, metrics: WorkerMetrics, queue_names: Mapping[int, str]) -> None:
        self._metrics, self._queue_names = metrics, queue_names

    def watch(self, executor: Executor, inbox: Inbox, claimer: Claimer, presence: Presence) -> None:
        """Take from these, at each scrape, what nobody has to count."""

        def oldest() -> float:
            started = [held.started_at for held in list(executor.running.values()) if held.started_at]
            return time.monotonic() - min(started) if started else 0.0

        self._metrics.slots_used.set_function(lambda: executor.executing)
        self._metrics.oldest.set_function(oldest)
        self._metrics.heartbeat.set_function(lambda: presence.announced_at)
        self._metrics.count_redeliveries(lambda: inbox.refused + claimer.counts["stale"])

    def claimed(self, attempts: list[Attempt]) -> None:
        """These were claimed just now."""
        for (task, queue), count in Counter((a.task_type.name, a.queue_id) for a in attempts).items():
            self._metrics.started.labels(task, self._queue_names.get(queue, "")).inc(count)
        now, wait = time.time(), self._metrics.queue_wait.observe
        for attempt in attempts:
            first = attempt.delivery.parcels[0]
            since = stored_at(first.reply)  # a hint was not stored: it counts from here
            wait(attempt.task_type.name, max(0.0, now - since if since else attempt.claimed_at - first.received_at))

    def settled(self, attempts: list[Attempt], accepted: Mapping[UUID, State]) -> None:
        """These were settled just now; those that are not in ``accepted`` came too late."""
        now, took = time.monotonic(), self._metrics.duration.observe
        counts: Counter[tuple[str, int, State]] = Counter()
        for attempt in attempts:
            state = accepted.get(attempt.delivery.task_id)
            if state is None:
                self._metrics.refused.inc()
                continue
            counts[attempt.task_type.name, attempt.queue_id, state] += 1
            if attempt.started_at:
                took(attempt.task_type.name, now - attempt.started_at)
            if state is State.FAILED or state is State.RETRYING:
                self._tell(attempt, state)
        for (task, queue, state), count in counts.items():
            labels = task, self._queue_names.get(queue, "")
            self._metrics.finished.labels(*labels, state.label).inc(count)
            if state is State.RETRYING:
                self._metrics.retries.labels(*labels).inc(count)

    def _tell(self, attempt: Attempt, state: State) -> None:
        """One line for an attempt that failed; the message has its secrets masked, as it is stored."""
        outcome = attempt.outcome
        detail = (outcome.detail if outcome else None) or {}
        why = detail.get("message") or (outcome.reason.label if outcome and outcome.reason else "")
        queue = self._queue_names.get(attempt.queue_id, "")
        _log.log(
            logging.ERROR if state is State.FAILED else logging.WARNING,
            "%s: %s%s%s",
            state.label,
            detail.get("type", ""),
            ": " if detail.get("type") else "",
            str(why).split("\n")[0][:500],
            extra=attempt_fields(attempt.task_id, attempt.task_type.name, attempt.number, queue),
        )
