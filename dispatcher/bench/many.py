"""The app of ``bench shapes``: many task types beside the usual ones."""

from __future__ import annotations

import os
from typing import Any

from dispatcher.bench.tasks import app
from dispatcher.task import TaskType

__all__ = ["TYPES", "app", "make_types"]

TYPES = "DISPATCHER_BENCH_TYPES"
"""The environment variable that says how many."""


async def _nothing(number: int) -> None:
    """Do nothing."""


def make_types(count: int) -> list[TaskType[Any, Any, Any]]:
    """So many types; a worker that loads this module makes as many as its environment says."""
    return [app.task(name=f"bench.type-{number}")(_nothing) for number in range(count)]


make_types(int(os.environ.get(TYPES, "0")))
