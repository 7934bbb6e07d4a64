"""One call of a task type, bound and validated, not yet enqueued."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Literal, TypeVar, Unpack, overload

from dispatcher.asked import Asked, merge
from dispatcher.compose import Composed
from dispatcher.enqueue import enqueue, statement
from dispatcher.errors import OptionError
from dispatcher.handle import Task
from dispatcher.installation import Installation
from dispatcher.options import CALL_CHECKS, CallOptions, check_options
from dispatcher.order import Order
from dispatcher.payload import Payload
from dispatcher.tx import AsyncTx, SyncTx

__all__ = ["Call"]

R_co = TypeVar("R_co", covariant=True)


class Call(Order, Composed[R_co]):
    """Arguments and options of one task to be.  Immutable; may be enqueued more than once, each time a new task."""

    __slots__ = ("_defaults", "_overrides")

    def __init__(
        self,
        home: Installation,
        name: str,
        payload: Payload,
        args: bytes,
        asked: Asked,
        defaults: Mapping[str, Any],
        overrides: Mapping[str, Any],
    ) -> None:
        super().__init__(home, name, payload, args, asked)
        self._defaults = defaults
        self._overrides = overrides

    def options(self, **options: Unpack[CallOptions]) -> Call[R_co]:
        """The same call with these options on top.  Raises ``OptionError``."""
        overrides = merge(self._overrides, check_options(options, CALL_CHECKS))
        asked = Asked(self._defaults, overrides, self.payload.secret_names, self.payload.secret_result)
        return Call(self.home, self.name, self.payload, self.args, asked, self._defaults, overrides)

    @overload
    def enqueue(self, tx: SyncTx, /) -> Task[R_co]: ...
    @overload
    def enqueue(self, tx: AsyncTx, /) -> Coroutine[Any, Any, Task[R_co]]: ...
    def enqueue(self, tx: Any, /) -> Any:
        """Create the task in this transaction; it exists when that commits, and never when it rolls back."""
        return enqueue(tx, self)

    def statement(self, *, style: Literal["numbered", "format"] = "numbered") -> tuple[str, list[Any]]:
        """SQL text and parameters that create the task through any driver, in whatever transaction that has.

        ``numbered`` has ``$1`` parameters (asyncpg), ``format`` has ``%s`` (Django, psycopg, psycopg2).  The statement
        returns one row ``(task_id uuid, created boolean)``.  Each call of this method makes a new task id.  A key that
        belongs to a task with other arguments is a database error here, SQLSTATE ``DS003``.
        """
        if style not in ("numbered", "format"):
            raise OptionError(f"style must be 'numbered' or 'format', not {style!r}")
        return statement(self, style=style)

    def __repr__(self) -> str:
        return f"Call({self.name!r}, {len(self.args)} bytes of arguments)"
