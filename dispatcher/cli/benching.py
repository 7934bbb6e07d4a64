"""What every ``dispatcher bench`` command shares: its options, and the way from a measurement to what is printed."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from dispatcher.bench import report
from dispatcher.bench.ground import Ground, stand_on
from dispatcher.cli.failures import ERROR, USAGE, describe
from dispatcher.cli.options import load_settings
from dispatcher.cli.output import emit_line, fail, guard

__all__ = ["Concurrency", "Rounds", "Seconds", "Tasks", "Workers", "run"]

Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Rounds; their median is the result.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Worker processes.")]
Concurrency = Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Tasks at a time in each worker.")]
Tasks = Annotated[int, typer.Option("--tasks", min=1, help="Tasks of one round.")]
Seconds = Annotated[float, typer.Option("--seconds", min=1, help="Length of one round.")]

Bench = Callable[[Ground], Awaitable[dict[str, Any]]]


def run(database_url: str | None, nats_url: str | None, json: bool, bench: Bench) -> None:
    """Measure and print; nothing but a result goes to standard output."""

    async def measure(ground: Ground) -> dict[str, Any]:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await bench(ground)

    with guard():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left behind then either
        logging.getLogger("dispatcher").setLevel(logging.ERROR)  # the servers' end is no news
        settings = load_settings(database_url=database_url, nats_url=nats_url).direct()
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
