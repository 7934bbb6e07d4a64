"""What relay and worker count, who shows the figures of the installation, and how healthy a process says it is."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from dispatcher.cli.main import main
from dispatcher.embedded import EmbeddedServers
from dispatcher.embedded.ports import free_port
from dispatcher.errors import ConfigurationError
from dispatcher.metrics import WorkerMetrics
from dispatcher.probes import Probes
from dispatcher.relay.service import Relay
from dispatcher.status import pause
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE


async def test_batches_are_counted_by_type_queue_and_outcome(fleet: Fleet) -> None:
    relay = await fleet.relay()
    worker = await fleet.worker()
    tasks = fleet.enqueue_many([apps.note.call(n) for n in range(20)])
    fleet.enqueue(apps.flaky.call(1))
    await fleet.all_finish(21)
    shown = generate_latest(worker.metrics.registry).decode()
    labels = f'queue="default",status="succeeded",task="{apps.note.name}"'
    assert f"dispatcher_tasks_finished_total{{{labels}}} 20.0" in shown
    assert f'dispatcher_tasks_started_total{{queue="default",task="{apps.note.name}"}} 20.0' in shown
    assert f'dispatcher_task_retries_total{{queue="default",task="{apps.flaky.name}"}} 1.0' in shown
    for name in ("task_duration", "task_queue_wait"):
        assert f'dispatcher_{name}_seconds_count{{task="{apps.note.name}"}} 20.0' in shown
    wait = worker.metrics.registry.get_sample_value("dispatcher_task_queue_wait_seconds_sum", {"task": apps.note.name})
    assert wait is not None and 0 < wait < 20 * 10
    heartbeat = worker.metrics.registry.get_sample_value("dispatcher_worker_last_heartbeat_timestamp_seconds")
    assert heartbeat is not None and abs(time.time() - heartbeat) < 60
    published = relay.metrics.registry.get_sample_value
    names = "dispatcher_outbox_published_total", "dispatcher_outbox_forgotten_total"
    await until(lambda: sum(published(name) or 0 for name in names) == 22)
    assert published("dispatcher_relay_active") == 1
    assert len(tasks) == 20 and str(tasks[0].id) not in shown  # never an id in a label


async def test_slots_and_the_oldest_running_task_are_those_of_now(fleet: Fleet) -> None:
    await fleet.relay()
    worker = await fleet.worker(slots=3)
    task = fleet.enqueue(apps.hold.call("a"))
    await fleet.entry("start", task)
    value = worker.metrics.registry.get_sample_value
    assert (value("dispatcher_worker_slots"), value("dispatcher_worker_slots_used")) == (3, 1)
    await until(lambda: (value("dispatcher_worker_oldest_task_seconds") or 0) > 0.05)
    fleet.open("a")
    await fleet.reaches(task, "succeeded")
    # the slot is free as soon as the handler has returned, the task is held until its end is written
    await until(lambda: value("dispatcher_worker_slots_used") == 0)
    await until(lambda: value("dispatcher_worker_oldest_task_seconds") == 0)


async def test_figures_of_the_installation_come_from_the_leader_alone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await fleet.relay()
    standby = await fleet.relay(leads=False)
    await until(lambda: standby.ready()["role"] == "standby")
    await fleet.worker()
    fleet.enqueue(apps.raising.call("no"))
    await until(fleet.finished)
    with fleet.connection.transaction():
        pause(fleet.connection, "default")
    waiting = fleet.enqueue_many([apps.note.call(n) for n in range(3)])
    await until(lambda: fleet.count("parked") == len(waiting))
    monkeypatch.setattr("dispatcher.relay.gauges.BUSY_SECONDS", 0.0)
    monkeypatch.setattr("dispatcher.relay.gauges.IDLE_SECONDS", 0.0)
    for relay in (leader, standby):
        await relay.gauges.refresh()
    value = leader.metrics.registry.get_sample_value
    assert value("dispatcher_queue_tasks", {"queue": "default", "state": "queued"}) == 3
    assert value("dispatcher_dead_tasks", {"queue": "default"}) == 1
    assert value("dispatcher_queue_paused", {"queue": "default"}) == 1
    assert 0 < (value("dispatcher_queue_latency_seconds", {"queue": "default"}) or 0) < 60
    assert (value("dispatcher_outbox_pending"), value("dispatcher_outbox_oldest_age_seconds")) == (0, 0)
    assert value("dispatcher_stream_messages", {"stream": "TASKS"}) == 0
    assert value("dispatcher_consumer_pending", {"queue": "default", "lane": "high"}) == 0
    alone = generate_latest(standby.metrics.registry).decode()
    assert "dispatcher_queue_tasks" not in alone and "dispatcher_relay_active 0.0" in alone


async def test_an_idle_installation_is_asked_once_a_minute_however_often_it_is_scraped(fleet: Fleet) -> None:
    relay = await fleet.relay()
    asked = 0
    run = relay.gauges._database.run

    async def counted(*arguments: object) -> object:
        nonlocal asked
        asked += 1
        return await run(*arguments)  # type: ignore[arg-type]

    relay.gauges._database.run = counted  # type: ignore[method-assign,assignment]
    for _ in range(20):
        await relay.gauges.refresh()
    assert asked == 1
    assert relay.metrics.registry.get_sample_value("dispatcher_outbox_pending") == 0


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextmanager
def served(probes: Probes) -> Iterator[int]:
    port = free_port()
    probes.serve(port)
    try:
        yield port
    finally:
        probes.close()


async def test_readiness_says_who_leads_and_who_receives(own_fleet: Fleet, own_servers: EmbeddedServers) -> None:
    relay = Relay(own_fleet.settings, own_fleet.streams, await own_fleet.new_bus())
    with served(Probes(relay.metrics.registry, relay.ready, relay.gauges.refresh)) as port:
        status, body = await asyncio.to_thread(get, port, "/readyz")
        assert status == 503 and json.loads(body)["role"] == "none"
    leader = await own_fleet.relay()
    worker = await own_fleet.worker()
    with (
        served(Probes(leader.metrics.registry, leader.ready, leader.gauges.refresh)) as relays,
        served(Probes(worker.metrics.registry, worker.is_ready)) as workers,
    ):
        for port in (relays, workers):
            for path in ("/readyz", "/livez"):
                assert (await asyncio.to_thread(get, port, path))[0] == 200
        assert json.loads((await asyncio.to_thread(get, relays, "/readyz"))[1])["role"] == "leader"
        status, page = await asyncio.to_thread(get, relays, "/metrics")
        assert status == 200 and "dispatcher_outbox_pending 0.0" in page
        assert (await asyncio.to_thread(get, relays, "/elsewhere"))[0] == 404
        await asyncio.to_thread(own_servers.kill_nats)
        for port in (relays, workers):

            async def refuses(port: int = port) -> bool:
                return (await asyncio.to_thread(get, port, "/readyz"))[0] == 503

            await until(refuses)
            assert (await asyncio.to_thread(get, port, "/livez"))[0] == 200  # a restart would not help
        await asyncio.to_thread(own_servers.restart_nats)


async def test_a_loop_that_does_not_turn_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.probes._LIVE_SECONDS", 1.0)  # a busy machine's loop turns within that
    with served(Probes(CollectorRegistry(), lambda: {"ready": True})) as port:
        assert (await asyncio.to_thread(get, port, "/livez"))[0] == 200
        assert get(port, "/livez") == (
            503,
            '{"live": false}\n',
        )  # asked by the loop's own thread, which so stands still
        assert get(port, "/readyz")[0] == 200


def health(*args: str) -> int:
    try:
        main(["health", *args])
    except SystemExit as left:
        return int(left.code or 0)
    return 0


async def test_the_health_command_tells_by_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    answer: dict[str, Any] = {"ready": True, "role": "leader"}
    with served(Probes(CollectorRegistry(), lambda: answer)) as port:
        at = ("--metrics-port", str(port))
        assert await asyncio.to_thread(health, *at) == 0
        assert capsys.readouterr().out == 'ready=true role="leader"\n'
        answer["ready"] = False
        assert await asyncio.to_thread(health, *at, "--json") == 5
        assert json.loads(capsys.readouterr().out) == answer
        assert await asyncio.to_thread(health, *at, "--live") == 0
    assert await asyncio.to_thread(health, *at) == 5
    assert "error: no relay or worker answers" in capsys.readouterr().err
    assert health() == 2
    assert "set DISPATCHER_METRICS_PORT" in capsys.readouterr().err


async def test_a_taken_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="metrics cannot be served"):
            Probes(WorkerMetrics().registry, lambda: {"ready": True}).serve(taken.getsockname()[1])
