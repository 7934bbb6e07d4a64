"""Every Prometheus name, label and bucket of our processes, in one place.

Labels are task type, queue, status and the like: never an id.  Each process has one registry; ``dispatcher.probes``
serves it.  Counters are raised once per batch, and what is measured per task costs less than a microsecond: see
``Durations``.  The figures of the whole cluster come from one place, the leading relay: ``dispatcher.relay.gauges``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from dispatcher.enqueued import ENQUEUED

__all__ = ["Durations", "EnqueuedCollector", "RelayMetrics", "WorkerMetrics"]

SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Durations:
    """A histogram by task type for values that come by the ten thousand a second.

    ``observe`` of the client library takes a lock and walks through the buckets (2.2 µs); this takes 0.2.  It must be
    called from one thread only; a scrape in another thread reads what is there.
    """

    def __init__(self, name: str, help: str, registry: CollectorRegistry) -> None:
        self._name, self._help = name, help
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        registry.register(self)

    def observe(self, task: str, seconds: float) -> None:
        """Count one value."""
        counts = self._counts.get(task)
        if counts is None:
            self._sums[task] = 0.0
            counts = self._counts[task] = [0] * (len(SECONDS) + 1)
        counts[bisect_left(SECONDS, seconds)] += 1
        self._sums[task] += seconds

    def describe(self) -> Iterator[Metric]:
        """The name, for the registry."""
        yield HistogramMetricFamily(self._name, self._help, labels=["task"])

    def collect(self) -> Iterator[Metric]:
        """One family, for a scrape."""
        family = HistogramMetricFamily(self._name, self._help, labels=["task"])
        for task, counts in list(self._counts.items()):
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, SECONDS), "+Inf"), list(counts), strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric([task], buckets=buckets, sum_value=self._sums[task])
        yield family


class EnqueuedCollector:
    """``dispatcher_tasks_enqueued_total`` of this process: register it in a service that serves metrics of its own.

    Counts calls that succeeded; a transaction that is rolled back later is counted too.
    """

    def collect(self) -> Iterator[Metric]:
        """One family, for a scrape."""
        family = CounterMetricFamily(
            "dispatcher_tasks_enqueued",
            "Tasks this process created, rolled-back ones included.",
            labels=["task", "queue"],
        )
        for (task, queue), count in list(ENQUEUED.items()):
            family.add_metric([task, queue], count)
        yield family


class WorkerMetrics:
    """What one worker did."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        _common(registry)
        self.started = Counter("dispatcher_tasks_started", "Attempts claimed.", ["task", "queue"], registry=registry)
        self.finished = Counter(
            "dispatcher_tasks_finished", "Attempts settled, by the state that followed.", ["task", "queue", "status"],
            registry=registry,
        )  # fmt: skip
        self.retries = Counter(
            "dispatcher_task_retries", "Attempts that failed and will be tried again.", ["task", "queue"],
            registry=registry,
        )  # fmt: skip
        self.duration = Durations("dispatcher_task_duration_seconds", "Run time of attempts.", registry)
        self.queue_wait = Durations(
            "dispatcher_task_queue_wait_seconds",
            "From the task's place on the stream to its claim; asked-for delays and back-off come before that.",
            registry,
        )
        self.refused = Counter("dispatcher_settles_refused", "Outcomes that came too late.", registry=registry)
        self.slots = Gauge("dispatcher_worker_slots", "Tasks this worker runs at a time.", registry=registry)
        self.slots_used = Gauge("dispatcher_worker_slots_used", "Tasks it runs now.", registry=registry)
        self.oldest = Gauge(
            "dispatcher_worker_oldest_task_seconds", "Run time of the task that runs longest.", registry=registry
        )
        self.heartbeat = Gauge(
            "dispatcher_worker_last_heartbeat_timestamp_seconds", "When the worker last announced itself.",
            registry=registry,
        )  # fmt: skip

    def count_redeliveries(self, read: Callable[[], int]) -> None:
        """Take the number of deliveries that were not the only one of their message from ``read`` at each scrape."""
        self.registry.register(
            _Read(
                "dispatcher_task_redeliveries",
                "Messages that were handed back because the worker was full, or came again for an attempt known here.",
                read,
            )
        )


class RelayMetrics:
    """What one relay did."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        _common(registry)
        self.published = Counter("dispatcher_outbox_published", "Messages the stream confirmed.", registry=registry)
        self.forgotten = Counter(
            "dispatcher_outbox_forgotten",
            "Entries that needed no message: a worker was told directly and had claimed the task.",
            registry=registry,
        )
        self.publish_errors = Counter(
            "dispatcher_outbox_publish_errors", "Batches that could not be published.", registry=registry
        )
        self.lag = Histogram(
            "dispatcher_outbox_lag_seconds", "From taking a batch out of the outbox to its confirmation by the stream.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.active = Gauge("dispatcher_relay_active", "1 while this relay leads.", registry=registry)


class _Read:
    """A counter that something else counts."""

    def __init__(self, name: str, help: str, read: Callable[[], int]) -> None:
        self._name, self._help, self._read = name, help, read

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._help, value=self._read())


def _common(registry: CollectorRegistry) -> None:
    """What every process tells."""
    build = Gauge("dispatcher_build_info", "Always 1; the label is the version.", ["version"], registry=registry)
    try:
        build.labels(version("jetstream-dispatcher")).set(1)
    except PackageNotFoundError:
        build.labels("unknown").set(1)
    registry.register(EnqueuedCollector())
