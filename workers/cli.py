"""``dispatcher worker module:app``: run a worker until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Coroutine
from typing import Annotated, Any, TypedDict, Unpack

import typer

from dispatcher.app import Dispatcher
from dispatcher.bus import Bus
from dispatcher.cli.first_look import look_at_database
from dispatcher.cli.options import (
    DatabaseUrl,
    LogFormat,
    MetricsPort,
    Namespace,
    NatsUrl,
    Schema,
    StreamsConf,
    load_settings,
    require_nats,
)
from dispatcher.cli.output import guard
from dispatcher.collector import calm
from dispatcher.failpoints import arm
from dispatcher.load import load_app
from dispatcher.logs import configure_logging
from dispatcher.loop import run
from dispatcher.options import check_queue_name
from dispatcher.probes import Probes
from dispatcher.settings import Settings
from dispatcher.streams.config import load
from workers.reload import Reloader, worker_command
from workers.runtime import Worker, default_name

__all__ = ["command", "run_worker"]

_log = logging.getLogger("dispatcher.worker")

RESTART = 70
"""Exit code of a worker that only a new process can replace, as at the end of a lease that it cannot renew."""


Queues = Annotated[
    list[str] | None, typer.Option("--queues", "-q", help="Queues to serve, comma separated or repeated.")
]
Concurrency = Annotated[int, typer.Option("--concurrency", "-c", min=1, max=10_000, help="Tasks at a time.")]
Grace = Annotated[
    float | None, typer.Option("--grace", min=0, help="Seconds that running tasks get to finish at a stop.")
]
Lease = Annotated[
    float | None, typer.Option("--lease", min=2, help="Seconds of silence after which tasks go to others.")
]
Processes = Annotated[
    int | None, typer.Option("--processes", min=1, help="Child processes at most, for pool='process'; else cores.")
]
RecycleAfter = Annotated[
    int | None, typer.Option("--process-recycle-after", min=1, help="Replace a child after so many tasks.")
]
Memory = Annotated[int | None, typer.Option("--process-memory", min=16, help="Megabytes that a child may use.")]


class WorkerOptions(TypedDict, total=False):
    """The keyword arguments of ``Worker``."""

    queues: list[str]
    slots: int
    name: str | None
    burst: bool


async def run_worker(app: Dispatcher, settings: Settings, **options: Unpack[WorkerOptions]) -> int:
    """Connect, work, and drain at the first SIGTERM or SIGINT; the second one ends the process at once.

    Returns the exit code: 70 asks whoever watches over the process to start it again.
    """
    bus = await Bus.connect(settings, name="dispatcher worker")
    try:
        worker = Worker(app, settings, load(settings.streams_conf), bus, **options)
        Probes(worker.metrics.registry, worker.is_ready).serve(settings.metrics_port, settings.metrics_address)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, os._exit, 1)
            _log.info("draining; a second signal stops at once")
            worker.drain()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await worker.run()
        code = RESTART if worker.must_restart else 0
        if worker.executor.stuck:  # coroutines that swallow every cancellation would keep the loop from ending
            logging.shutdown()
            os._exit(code)
        return code
    finally:
        await app.close()
        await bus.close()


def _run(worker: Coroutine[Any, Any, int]) -> int:
    """Run to the end, and end even if a plain function goes on: its task is given back, nobody waits for the thread."""
    calm()
    code = run(worker)
    for thread in threading.enumerate():
        if thread.name.startswith("dispatcher-handler"):
            thread.join(timeout=0.2)
            if thread.is_alive():
                logging.shutdown()
                os._exit(code)
    return code


def _queue_names(given: list[str] | None) -> list[str]:
    """Every queue named by ``-q``, commas split; ``default`` when none is."""
    return [check_queue_name(part.strip()) for text in given or ["default"] for part in text.split(",") if part.strip()]


Reload = Annotated[bool, typer.Option("--reload", help="For development: start again when a source file changes.")]


def command(
    app: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the Dispatcher is, for example shop:app.")],
    queues: Queues = None,
    concurrency: Concurrency = 16,
    name: Annotated[str | None, typer.Option("--name", help="Shown in listings.", show_default="host-pid")] = None,
    burst: Annotated[bool, typer.Option("--burst", help="Stop when nothing waits any more.")] = False,
    grace: Grace = None,
    lease: Lease = None,
    processes: Processes = None,
    process_recycle_after: RecycleAfter = None,
    process_memory: Memory = None,
    reload: Reload = False,
    database_url: DatabaseUrl = None,
    nats_url: NatsUrl = None,
    schema: Schema = None,
    namespace: Namespace = None,
    streams_conf: StreamsConf = None,
    metrics_port: MetricsPort = None,
    log_format: LogFormat = None,
) -> None:
    """Run tasks that are pushed from the named queues."""
    with guard():
        settings = load_settings(
            database_url=database_url, nats_url=nats_url, db_schema=schema, namespace=namespace,
            streams_conf=streams_conf, grace=grace, lease=lease, processes=processes,
            process_recycle_after=process_recycle_after, process_memory=process_memory,
            metrics_port=metrics_port, log_format=log_format,
        )  # fmt: skip
        require_nats(settings)
        arm("workers.failpoints")
        names = _queue_names(queues)
        if reload:
            raise SystemExit(asyncio.run(Reloader(worker_command()).run()))
        dispatcher = load_app(app)
        configure_logging(settings.log_format, name or default_name())
        look_at_database(settings)
        options = WorkerOptions(queues=names, slots=concurrency, name=name, burst=burst)
        code = _run(run_worker(dispatcher, settings, **options))
    if code:
        raise typer.Exit(code)
