"""Names, labels and help of all metrics, by the rules that ``promtool check metrics`` knows, and by our own list."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, cast
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from dispatcher.enqueued import ENQUEUED
from dispatcher.metrics import SECONDS, Durations, RelayMetrics, WorkerMetrics
from dispatcher.relay.gauges import ClusterGauges
from dispatcher.settings import Settings
from dispatcher.streams.config import load
from workers.measure import stored_at

PROMISED = """
dispatcher_tasks_enqueued_total dispatcher_tasks_started_total dispatcher_tasks_finished_total
dispatcher_task_retries_total dispatcher_task_redeliveries_total dispatcher_task_duration_seconds
dispatcher_task_queue_wait_seconds dispatcher_queue_tasks dispatcher_queue_latency_seconds dispatcher_queue_paused
dispatcher_worker_slots dispatcher_worker_slots_used dispatcher_worker_oldest_task_seconds
dispatcher_worker_last_heartbeat_timestamp_seconds dispatcher_outbox_pending dispatcher_outbox_oldest_age_seconds
dispatcher_outbox_published_total dispatcher_outbox_publish_errors_total dispatcher_outbox_lag_seconds
dispatcher_relay_active dispatcher_dead_tasks dispatcher_stream_messages dispatcher_consumer_pending
dispatcher_consumer_ack_pending dispatcher_consumer_redelivered dispatcher_build_info
""".split()
LABELS = {"task", "queue", "status", "state", "stream", "lane", "version", "le"}
OTHER_UNITS = re.compile(r"(milliseconds|microseconds|minutes|hours|days|_ms|kilobytes|megabytes|percent)(_|$)")
ABBREVIATED = re.compile(r"_(s|ms|us|ns|sec|b|kb|mb|gb|tb|pb|m|h|d)$")


def pages() -> Iterator[str]:
    """What a relay that leads and a worker would show, with a value for every name."""
    ENQUEUED["report", "default"] += 1
    worker = WorkerMetrics()
    worker.count_redeliveries(lambda: 3)
    for counter in (worker.started, worker.retries):
        counter.labels("report", "default").inc()
    worker.finished.labels("report", "default", "succeeded").inc()
    worker.duration.observe("report", 0.3)
    worker.queue_wait.observe("report", 0.3)
    yield generate_latest(worker.registry).decode()
    relay = RelayMetrics()
    nothing = cast(Any, None)
    gauges = ClusterGauges(Settings(), load(None), nothing, nothing, lambda: True, lambda: 0)
    gauges._figures = {
        "tasks": {("default", "queued"): 1.0}, "dead": {("default",): 0.0}, "latency": {("default",): 0.0},
        "paused": {("default",): 0.0}, "pending": {(): 0.0}, "oldest": {(): 0.0}, "messages": {("TASKS",): 0.0},
        "consumer": {("default", "high"): 0.0}, "ack": {("default", "high"): 0.0},
        "redelivered": {("default", "high"): 0.0},
    }  # fmt: skip
    relay.registry.register(gauges)
    yield generate_latest(relay.registry).decode()


def families() -> Iterator[Metric]:
    for page in pages():
        yield from text_string_to_metric_families(page)


def test_every_promised_name_is_there() -> None:
    shown = {sample.name for family in families() for sample in family.samples} | {family.name for family in families()}
    assert set(PROMISED) <= shown, set(PROMISED) - shown


RULES: dict[str, Callable[[Metric], bool]] = {
    "help": lambda f: bool(f.documentation),
    "prefix, snake case, no digits": lambda f: re.fullmatch(r"dispatcher_[a-z][a-z_]*[a-z]", f.name) is not None,
    "counters end in _total": lambda f: (
        f.type != "counter" or all(s.name.endswith(("_total", "_created")) for s in f.samples)
    ),
    "only counters end in _total": lambda f: f.type == "counter" or not f.name.endswith("_total"),
    "looks like no histogram": lambda f: f.type == "histogram" or not f.name.endswith(("_count", "_sum", "_bucket")),
    "base units, written out": lambda f: not (OTHER_UNITS.search(f.name) or ABBREVIATED.search(f.name)),
    "the type is no part of the name": lambda f: f.type not in f.name.split("_"),
    "labels": lambda f: LABELS.issuperset(label for sample in f.samples for label in sample.labels),
}
"""The rules of promtool's linter, and ours about prefix and labels."""


def test_names_labels_and_help_follow_the_rules_of_prometheus() -> None:
    assert [(f.name, rule) for f in families() for rule, holds in RULES.items() if not holds(f)] == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: package prometheus) is not installed")
def test_promtool_finds_nothing() -> None:
    for page in pages():
        result = subprocess.run(
            ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=30
        )
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("value", [0.0, 0.001, 0.0011, 0.3, 1800.0, 5000.0])
def test_a_value_lies_in_every_bucket_above_it(value: float) -> None:
    registry = CollectorRegistry()
    durations = Durations("dispatcher_x_seconds", "x", registry)
    durations.observe("report", value)
    for bound in SECONDS:
        found = registry.get_sample_value("dispatcher_x_seconds_bucket", {"task": "report", "le": str(bound)})
        assert found == float(value <= bound)
    assert registry.get_sample_value("dispatcher_x_seconds_bucket", {"task": "report", "le": "+Inf"}) == 1
    assert registry.get_sample_value("dispatcher_x_seconds_sum", {"task": "report"}) == value


def test_the_time_of_a_message_is_read_from_its_reply_subject() -> None:
    assert stored_at("$JS.ACK.TASKS.default--high.1.7.7.1763812345678901234.0") == pytest.approx(1763812345.678901)
    assert stored_at("$JS.ACK.hub.hash.TASKS.d--high.1.7.7.1763812345678901234.0.x") == pytest.approx(1763812345.678901)
    assert stored_at(f"_INBOX.{uuid4()}") == 0.0
