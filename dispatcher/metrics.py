"""Every Prometheus name, label and bucket of our processes, in one place.

Labels are task type, queue and status only: never an id.  Each process has one registry; whoever runs the process may
serve it.  Counters are raised once per batch, not once per task.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from dispatcher.errors import ConfigurationError

__all__ = ["RelayMetrics", "WorkerMetrics", "serve"]

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)


class WorkerMetrics:
    """What one worker did."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.started = Counter(
            "dispatcher_tasks_started", "Attempts claimed.", ["task", "queue"], registry=self.registry
        )
        self.finished = Counter(
            "dispatcher_tasks_finished", "Attempts settled, by outcome.", ["task", "queue", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.duration = Histogram(
            "dispatcher_task_duration_seconds", "Run time of attempts.", ["task"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.refused = Counter("dispatcher_settles_refused", "Outcomes that came too late.", registry=self.registry)
        self.slots = Gauge("dispatcher_worker_slots", "Tasks this worker runs at a time.", registry=self.registry)
        self.slots_used = Gauge("dispatcher_worker_slots_used", "Tasks it runs now.", registry=self.registry)


class RelayMetrics:
    """What one relay did."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.published = Counter(
            "dispatcher_outbox_published", "Messages the stream confirmed.", registry=self.registry
        )
        self.publish_errors = Counter(
            "dispatcher_outbox_publish_errors", "Batches that could not be published.", registry=self.registry
        )
        self.active = Gauge("dispatcher_relay_active", "1 while this relay leads.", registry=self.registry)


def serve(registry: CollectorRegistry, port: int | None, address: str = "127.0.0.1") -> None:
    """Serve ``/metrics`` from a thread of its own; nothing happens without a port.

    Raises ``ConfigurationError`` when the port is taken.
    """
    if port is None:
        return
    try:
        start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise ConfigurationError(f"metrics cannot be served on {address}:{port}: {error.strerror}") from None
