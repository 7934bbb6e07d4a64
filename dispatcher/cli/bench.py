"""``dispatcher bench drain|sustained|single|latency|fanout|chain|idle``: measure on real servers; never judges.

Exit code 0 when something was measured, 1 when it could not be.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from dispatcher.bench import flows as flow_bench
from dispatcher.bench import latency as latency_bench
from dispatcher.bench import report, throughput
from dispatcher.bench.ground import Ground, stand_on
from dispatcher.bench.idle import idle as idle_bench
from dispatcher.cli.failures import ERROR, USAGE, describe
from dispatcher.cli.options import DatabaseUrl, Json, NatsUrl, load_settings
from dispatcher.cli.output import emit_line, fail, guard

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Measure speed on real servers: embedded ones that are thrown away, or those of DISPATCHER_DATABASE_URL and"
    " DISPATCHER_NATS_URL, where a schema and a namespace of its own are used and removed.",
)

Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Rounds; their median is the result.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Worker processes.")]
Concurrency = Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Tasks at a time in each worker.")]
Tasks = Annotated[int, typer.Option("--tasks", min=1, help="Tasks of one round.")]
Seconds = Annotated[float, typer.Option("--seconds", min=1, help="Length of one round.")]


class CreatedBy(StrEnum):
    """Two ways to the same task."""

    PYTHON = "python"
    SQL = "sql"


Bench = Callable[[Ground], Awaitable[dict[str, Any]]]


def _run(database_url: str | None, nats_url: str | None, json: bool, bench: Bench) -> None:
    async def measure(ground: Ground) -> dict[str, Any]:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await bench(ground)

    with guard():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left behind then either
        logging.getLogger("dispatcher").setLevel(logging.ERROR)  # the servers' end is no news
        settings = load_settings(database_url=database_url, nats_url=nats_url)
        try:
            with stand_on(settings) as ground:
                result = report.with_goals(asyncio.run(measure(ground)))
        except asyncio.CancelledError:
            raise SystemExit(143) from None
        except Exception as error:
            failure = describe(error)
            if failure.code == USAGE or failure.message.startswith("unexpected "):
                raise
            fail(f"nothing was measured: {failure.message}", ERROR)
        if json:
            emit_line(result)
        else:
            print(report.human(result), flush=True)


@app.command()
def drain(
    tasks: Tasks = 20_000, workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Drain a backlog that waits in the outbox."""
    _run(
        database_url, nats_url, json,
        lambda ground: throughput.drain(ground, tasks=tasks, workers=workers, concurrency=concurrency, rounds=rounds),
    )  # fmt: skip


@app.command()
def sustained(
    tasks: Tasks = 60_000, workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Run a bulk producer, the relay and a worker together."""
    _run(
        database_url, nats_url, json,
        lambda ground: throughput.sustained(
            ground, tasks=tasks, workers=workers, concurrency=concurrency, rounds=rounds
        ),
    )  # fmt: skip


@app.command()
def single(
    clients: Annotated[int, typer.Option("--clients", min=1, help="Connections that commit at the same time.")] = 8,
    tasks: Tasks = 20_000, workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Create one task per transaction and run them, end to end."""
    _run(
        database_url, nats_url, json,
        lambda ground: throughput.single(
            ground, tasks=tasks, clients=clients, workers=workers, concurrency=concurrency, rounds=rounds
        ),
    )  # fmt: skip


@app.command()
def latency(
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="Tasks a second.")] = 20.0,
    by: Annotated[CreatedBy, typer.Option("--by", help="Who creates the tasks.")] = CreatedBy.PYTHON,
    seconds: Seconds = 60.0, workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Measure from the commit's return to the handler's first line."""
    _run(
        database_url, nats_url, json,
        lambda ground: latency_bench.latency(
            ground, by=by.value, rate=rate, seconds=seconds, workers=workers, concurrency=concurrency, rounds=rounds
        ),
    )  # fmt: skip


@app.command()
def fanout(
    tasks: Tasks = 100_000, workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Drain one large group with a task that takes its results, against a drain of the same size."""
    _run(
        database_url, nats_url, json,
        lambda ground: flow_bench.fanout(ground, tasks=tasks, workers=workers, concurrency=concurrency, rounds=rounds),
    )  # fmt: skip


@app.command()
def chain(
    length: Annotated[int, typer.Option("--length", min=2, help="Tasks of the chain.")] = 1000,
    workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Measure a chain, from the start of each task to the start of the next."""
    _run(
        database_url, nats_url, json,
        lambda ground: flow_bench.chain(
            ground, length=length, workers=workers, concurrency=concurrency, rounds=rounds
        ),
    )  # fmt: skip


@app.command()
def idle(
    seconds: Seconds = 60.0, workers: Workers = 2, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Count the statements of a system without work."""
    _run(
        database_url, nats_url, json,
        lambda ground: idle_bench(ground, seconds=seconds, workers=workers, concurrency=concurrency, rounds=rounds),
    )  # fmt: skip
