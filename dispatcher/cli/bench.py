"""``dispatcher bench``: measure on real servers; never judges.  The commands about speed; the others: bench_scale.

Exit code 0 when something was measured, 1 when it could not be.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from dispatcher.bench import flows as flow_bench
from dispatcher.bench import latency as latency_bench
from dispatcher.bench import throughput
from dispatcher.bench.idle import idle as idle_bench
from dispatcher.cli import bench_scale
from dispatcher.cli.benching import Concurrency, Rounds, Seconds, Tasks, Workers, run
from dispatcher.cli.options import DatabaseUrl, Json, NatsUrl

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Measure speed on real servers: embedded ones that are thrown away, or those of DISPATCHER_DATABASE_URL and"
    " DISPATCHER_NATS_URL, where a schema and a namespace of its own are used and removed.",
)


class CreatedBy(StrEnum):
    """Two ways to the same task."""

    PYTHON = "python"
    SQL = "sql"


@app.command()
def drain(
    tasks: Tasks = 20_000, workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Drain a backlog that waits in the outbox."""
    run(
        database_url, nats_url, json,
        lambda ground: throughput.drain(ground, tasks=tasks, workers=workers, concurrency=concurrency, rounds=rounds),
    )  # fmt: skip


@app.command()
def sustained(
    tasks: Tasks = 60_000, workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Run a bulk producer, the relay and a worker together."""
    run(
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
    run(
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
    run(
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
    run(
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
    run(
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
    run(
        database_url, nats_url, json,
        lambda ground: idle_bench(ground, seconds=seconds, workers=workers, concurrency=concurrency, rounds=rounds),
    )  # fmt: skip


for command in bench_scale.COMMANDS:
    app.command()(command)
