"""What relay and worker count, and that it can be fetched."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

import pytest
from prometheus_client import generate_latest

from dispatcher.errors import ConfigurationError
from dispatcher.metrics import WorkerMetrics, serve
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet


async def test_batches_are_counted_by_type_queue_and_outcome(fleet: Fleet) -> None:
    relay = await fleet.relay()
    worker = await fleet.worker()
    tasks = fleet.enqueue_many([apps.note.call(n) for n in range(20)])
    await fleet.all_finish(20)
    shown = generate_latest(worker.metrics.registry).decode()
    labels = f'queue="default",status="succeeded",task="{apps.note.name}"'
    assert f"dispatcher_tasks_finished_total{{{labels}}} 20.0" in shown
    assert f'dispatcher_tasks_started_total{{queue="default",task="{apps.note.name}"}} 20.0' in shown
    assert f'dispatcher_task_duration_seconds_count{{task="{apps.note.name}"}} 20.0' in shown
    published = generate_latest(relay.metrics.registry).decode()
    assert "dispatcher_outbox_published_total 20.0" in published and "dispatcher_relay_active 1.0" in published
    assert len(tasks) == 20 and str(tasks[0].id) not in shown  # never an id in a label


async def test_metrics_are_served_and_a_taken_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="metrics cannot be served"):
            serve(WorkerMetrics().registry, taken.getsockname()[1])
        port = taken.getsockname()[1]
    serve(WorkerMetrics().registry, port)
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read())
    assert b"dispatcher_worker_slots" in page
