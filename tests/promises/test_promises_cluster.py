"""The shape of production on one machine: three NATS nodes (R3), two relays, several workers, everything restarted."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from dispatcher.handle import Task
from dispatcher.subjects import Subjects
from tests.fixtures import apps
from tests.fixtures.cluster import Cluster
from tests.fixtures.fleet import Fleet, Process, until
from tests.fixtures.patience import PATIENCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # see test_promises_servers
]


@asynccontextmanager
async def load(fleet: Fleet) -> AsyncIterator[list[Task[Any]]]:
    """Tasks are created all the time, some hundred a second, until the block ends."""
    tasks: list[Task[Any]] = []
    over = asyncio.Event()

    async def create() -> None:
        while not over.is_set():
            tasks.extend(fleet.enqueue_many([apps.doze.call(0.01) for _ in range(10)]))
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.05)

    creating = asyncio.create_task(create())
    try:
        yield tasks
    finally:
        over.set()
        await creating


async def goes_on(fleet: Fleet, tasks: list[Task[Any]]) -> None:
    """A task that was created just now is finished: everything on its way works again."""
    number = len(tasks)
    await until(lambda: len(tasks) > number and fleet.state(tasks[number]) == "succeeded", 2 * PATIENCE, "work goes on")


async def assert_none_lost_none_twice(fleet: Fleet, cluster: Cluster, tasks: list[Task[Any]]) -> None:
    """By what the handlers wrote down themselves; the fixture checks the whole audit trail after that."""
    await fleet.all_finish(len(tasks), timeout=2 * PATIENCE)
    ran = Counter(entry.task_id for entry in fleet.ledger("ran"))
    assert set(ran) == {task.id for task in tasks}
    assert {task: times for task, times in ran.items() if times > 1} == {}
    assert cluster.refusals() == []  # nodes that only the server named were shown the login too


async def test_a_killed_stream_leader_and_restarted_nodes_lose_nothing(
    cluster_fleet: Fleet, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster_fleet.relay()
    await cluster_fleet.relay(leads=False)
    for _ in range(2):
        await cluster_fleet.worker(slots=8)
    stream = Subjects(cluster_fleet.settings.namespace).stream_name("TASKS")
    info = await cluster_fleet.bus.api(f"STREAM.INFO.{stream}")
    assert info["config"]["num_replicas"] == 3 and len(info["cluster"]["replicas"]) == 2
    async with load(cluster_fleet) as tasks:
        await goes_on(cluster_fleet, tasks)
        leader = await cluster.leader_of(cluster_fleet.bus, stream)
        assert leader is not None
        await leader.end(signal.SIGKILL)
        await goes_on(cluster_fleet, tasks)  # on two nodes of three
        leader.start()
        await until(cluster.is_healthy, what="the killed node is back")
        await goes_on(cluster_fleet, tasks)
        # one of three is no majority, and it never led: nobody can publish, nothing can be asked
        led = await until(lambda: cluster.leader_of(cluster_fleet.bus, stream))
        killed = [led, next(node for node in cluster.nodes if node is not led)]
        await asyncio.gather(*(node.end(signal.SIGKILL) for node in killed))
        late = asyncio.create_task(cluster_fleet.worker(patience=2 * PATIENCE))
        await until(lambda: "JetStream does not answer as it should" in caplog.text)
        for node in killed:
            node.start()
        await late
        await goes_on(cluster_fleet, tasks)
    await assert_none_lost_none_twice(cluster_fleet, cluster, tasks)


async def test_a_rolling_restart_of_every_process_loses_nothing(cluster_fleet: Fleet, cluster: Cluster) -> None:
    relays = [await cluster_fleet.relay_process(), cluster_fleet.process("relay")]
    workers = [await cluster_fleet.worker_process(slots=8) for _ in range(2)]
    async with load(cluster_fleet) as tasks:
        await goes_on(cluster_fleet, tasks)
        for worker in workers:
            new = await cluster_fleet.worker_process(slots=8)
            await stopped_in_order(worker)
            assert worker.pid != new.pid
        for relay in relays:
            cluster_fleet.process("relay")
            await stopped_in_order(relay)
            await goes_on(cluster_fleet, tasks)
        for node in cluster.nodes:
            await cluster.restart(node)
            await goes_on(cluster_fleet, tasks)
    await assert_none_lost_none_twice(cluster_fleet, cluster, tasks)


async def stopped_in_order(process: Process) -> None:
    process.send(signal.SIGTERM)
    assert await process.ended() == 0, process.output
