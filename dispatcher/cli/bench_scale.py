"""``dispatcher bench``, the commands about what happens at scale, under load and over time."""

from __future__ import annotations

from typing import Annotated

import typer

from dispatcher.bench import depth
from dispatcher.bench.commits import commits as commits_bench
from dispatcher.bench.enqueue import enqueue as enqueue_bench
from dispatcher.bench.fleet import fleet as fleet_bench
from dispatcher.bench.load import load as load_bench
from dispatcher.bench.shapes import shapes as shapes_bench
from dispatcher.bench.soak import soak as soak_bench
from dispatcher.cli.benching import Concurrency, Rounds, Seconds, Tasks, Workers, run
from dispatcher.cli.options import DatabaseUrl, Json, NatsUrl

__all__ = ["COMMANDS"]


def backlog(
    tasks: Tasks = 1_000_000,
    plain: Annotated[int, typer.Option("--plain", min=1, help="Tasks of the shallow backlog beside it.")] = 20_000,
    workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Drain a deep backlog against a shallow one, in turn."""
    run(
        database_url, nats_url, json,
        lambda ground: depth.backlog(
            ground, tasks=tasks, plain=plain, workers=workers, concurrency=concurrency, rounds=rounds
        ),
    )  # fmt: skip


def history(
    rows: Annotated[int, typer.Option("--rows", min=1, help="Finished tasks in the tables.")] = 10_000_000,
    tasks: Tasks = 20_000, workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Drain a backlog with and without a long past in the tables, in turn."""
    run(
        database_url, nats_url, json,
        lambda ground: depth.history(
            ground, rows=rows, tasks=tasks, workers=workers, concurrency=concurrency, rounds=rounds
        ),
    )  # fmt: skip


def fleet(
    tasks: Tasks = 1500, concurrency: Concurrency = 10, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Share tasks among three workers of which one is slow, then long and short ones among equals."""
    run(
        database_url, nats_url, json,
        lambda ground: fleet_bench(ground, tasks=tasks, concurrency=concurrency, rounds=rounds),
    )  # fmt: skip


def load(
    part: Annotated[
        list[float] | None, typer.Option("--load", min=0.01, help="Part of the sustained rate; may be repeated.")
    ] = None,
    tasks: Tasks = 60_000, seconds: Seconds = 20.0,
    workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Measure from commit to start at parts of the sustained rate, measured just before."""
    parts = part or [0.5, 0.8, 0.95]
    run(
        database_url, nats_url, json,
        lambda ground: load_bench(
            ground, parts=parts, tasks=tasks, seconds=seconds,
            workers=workers, concurrency=concurrency, rounds=rounds,
        ),
    )  # fmt: skip


def shapes(
    tasks: Tasks = 20_000,
    types: Annotated[int, typer.Option("--types", min=1, help="Task types of the round with many.")] = 1000,
    queues: Annotated[int, typer.Option("--queues", min=1, help="Queues of the round with many.")] = 200,
    workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Drain large arguments, many types and many queues against plain tasks, in turn."""
    run(
        database_url, nats_url, json,
        lambda ground: shapes_bench(
            ground, tasks=tasks, types=types, queues=queues,
            workers=workers, concurrency=concurrency, rounds=rounds,
        ),
    )  # fmt: skip


def enqueue(
    calls: Annotated[int, typer.Option("--calls", min=8, help="Tasks per kind of session.")] = 4000,
    rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Measure what creating a task costs the caller, on each kind of session, against a bare INSERT."""
    run(database_url, nats_url, json, lambda ground: enqueue_bench(ground, calls=calls, rounds=rounds))


def commits(
    clients: Annotated[
        list[int] | None, typer.Option("--clients", min=1, help="Committing clients; may be repeated.")
    ] = None,
    seconds: Seconds = 5.0, workers: Workers = 1, concurrency: Concurrency = 100, rounds: Rounds = 3,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Measure the application's transactions a second, with and without our waking of the relay."""
    asked = clients or [1, 8, 32, 64]
    run(
        database_url, nats_url, json,
        lambda ground: commits_bench(
            ground, clients=asked, seconds=seconds, workers=workers, concurrency=concurrency, rounds=rounds
        ),
    )  # fmt: skip


def soak(
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="How long.")] = 30.0,
    tasks: Tasks = 60_000, workers: Workers = 1, concurrency: Concurrency = 100,
    database_url: DatabaseUrl = None, nats_url: NatsUrl = None, json: Json = False,
) -> None:  # fmt: skip
    """Run at half the sustained rate for a long time: memory, sizes, dead rows and latency must stay."""
    run(
        database_url, nats_url, json,
        lambda ground: soak_bench(ground, minutes=minutes, tasks=tasks, workers=workers, concurrency=concurrency),
    )  # fmt: skip


COMMANDS = (backlog, history, fleet, load, shapes, enqueue, commits, soak)
