"""What a worker writes down before it takes work: its queues and lanes, and what it knows of its task types."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from dispatcher.app import Dispatcher
from dispatcher.database import Database, Transient, pause_before_retry
from dispatcher.errors import ConfigurationError
from dispatcher.task import TaskType
from state.registry import QUEUE_IDS, REGISTER_TYPES, TYPE_IDS
from workers.lanes import Lanes

__all__ = ["register"]

_log = logging.getLogger("dispatcher.worker")


async def register(
    app: Dispatcher, lanes: Lanes, database: Database, queues: Sequence[str]
) -> tuple[dict[int, TaskType[Any, Any, Any]], dict[int, str]]:
    """Make our names known; returns the task types and the queue names by their numbers.

    Waits for a database that is away.  Raises ``ConfigurationError`` when the app has nothing to run.
    """
    app.check()
    names = {name: task_type for task_type in app.task_types.values() for name in (task_type.name, *task_type.aliases)}
    if not names:
        raise ConfigurationError("the app has no task types; decorate a function with @app.task in a module it imports")
    types = {"names": list(names), "options": [json.dumps(task_type.registered()) for task_type in names.values()]}
    tries = 0
    while True:
        try:
            await lanes.register(database)
            await database.run(REGISTER_TYPES, types)
            rows = await database.run(TYPE_IDS, {"names": types["names"]})
            queue_rows = await database.run(QUEUE_IDS, {"names": list(queues)})
            return {number: names[name] for number, name in rows}, dict(queue_rows)
        except Transient as error:
            tries += 1
            _log.warning("PostgreSQL is away, trying again: %s", str(error).strip().split("\n")[0])
            await pause_before_retry(tries)
