"""Where an app's tasks live: settings, database schema, and the connections that waiting needs.  No I/O until used."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from dispatcher.errors import ConfigurationError
from state.sql import check_schema

if TYPE_CHECKING:
    from concurrent.futures import Future
    from uuid import UUID

__all__ = ["Installation"]


class Installation:
    """Shared by an app, its task types, calls and handles.  Modules with weight are imported when first needed."""

    def __init__(self, schema: str | None = None) -> None:
        if schema is not None:
            try:
                check_schema(schema)
            except ValueError as error:
                raise ConfigurationError(str(error)) from None
        self._schema = schema
        self.database: Any = None
        """What handlers' transactions are opened on: an engine, a session factory or a pool; ``None``: the settings."""
        self._settings: Any = None
        self._waiting: Any = None
        self._lock = threading.Lock()

    def configure(self, settings: Any) -> None:
        """Use these settings instead of the environment's; open waits of the old ones fail."""
        self.close_blocking()
        self._settings = settings
        self._schema = settings.db_schema

    def adopt(self, settings: Any) -> None:
        """Use these settings unless others were given: a worker's handlers enqueue and write where the worker is."""
        if self._settings is None:
            self._settings = settings
            self._schema = self._schema or settings.db_schema

    @property
    def configured_url(self) -> str:
        """The database's URL if settings were needed so far, otherwise nothing."""
        return (self._settings.database_url or "") if self._settings is not None else ""

    @property
    def settings(self) -> Any:
        """The ``Settings``; read from the environment when none were given.  Raises ``ConfigurationError``."""
        if self._settings is None:
            from pydantic import ValidationError

            from dispatcher.settings import Settings

            try:
                self._settings = Settings()
            except ValidationError as error:
                problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                raise ConfigurationError(f"the environment's settings are not valid: {problems}") from None
        return self._settings

    @property
    def schema(self) -> str:
        """The PostgreSQL schema with our tables."""
        if self._schema is None:
            self._schema = str(self.settings.db_schema)
        return self._schema

    def watch(self, task_id: UUID) -> Future[Any]:
        """A future with the task's ``Outcome``; opens the connections when it is the first."""
        from dispatcher.waiting import Waiting

        with self._lock:
            if self._waiting is None or not self._waiting.usable:
                self._waiting = Waiting(self.settings, self.schema)
            return self._waiting.watch(task_id)  # type: ignore[no-any-return]

    def close_blocking(self) -> None:
        """Close the connections that waiting opened; later waits open new ones."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.close()

    async def close(self) -> None:
        """The same without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.close_blocking)
