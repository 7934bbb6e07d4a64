"""The task type: a registered function with its name and options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import update_wrapper
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, Unpack, overload
from uuid import UUID

from dispatcher.asked import DEFAULT_LANE, DEFAULT_QUEUE, Asked, merge, tries_of
from dispatcher.call import Call
from dispatcher.compose import Partial
from dispatcher.enqueue import enqueue
from dispatcher.errors import FlowInvalid, OptionError
from dispatcher.handle import Task
from dispatcher.installation import Installation
from dispatcher.options import CALL_CHECKS, CallOptions, check_options, check_times
from dispatcher.passing import encode_without, first_parameter, parameters
from dispatcher.payload import Payload
from dispatcher.retry import Retry
from dispatcher.tx import AsyncTx, SyncTx

__all__ = ["TaskType"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class Unbound(NamedTuple):
    """A task type with some of its arguments."""

    task_type: TaskType[Any, Any, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class TaskType(Generic[P, R, C]):
    """A function that can be run as a task.  Made by ``@app.task``; calling it runs the plain function here and now."""

    __name__: str

    def __init__(
        self,
        function: Callable[P, C],
        name: str,
        home: Installation,
        options: Mapping[str, Any],
        limits: tuple[int, int],
    ) -> None:
        update_wrapper(self, function)
        self.function: Callable[P, C] = function
        self.name = name
        self.aliases: tuple[str, ...] = options.get("aliases", ())
        self.is_async = inspect.iscoroutinefunction(function)
        pool = options.get("pool")
        if pool == "thread" and self.is_async:
            raise OptionError(f"{name!r} is async and runs on the event loop: leave pool out, or say pool='process'")
        self.in_process = pool == "process"
        """Whether it runs in a child process."""
        self._home = home
        self._limits = limits
        self._defaults = {key: value for key, value in options.items() if key in CALL_CHECKS}
        self._overrides: Mapping[str, Any] = {}
        self._payload: Payload | None = None
        self._asked: Asked | None = None
        self.timed = self.timeout is not None or self.soft_timeout is not None
        """Whether its attempts have a time limit when a call says nothing else."""

    # what a worker needs --------------------------------------------------------------------------------------------

    @property
    def home(self) -> Installation:
        """Where its tasks live."""
        return self._home

    @property
    def queue(self) -> str:
        """Where its tasks wait when a call says nothing else."""
        return str(self._defaults.get("queue") or DEFAULT_QUEUE)

    @property
    def lane(self) -> str:
        """The priority lane when a call says nothing else."""
        return str(self._defaults.get("lane") or DEFAULT_LANE)

    @property
    def retry(self) -> Retry:
        """The retry policy when a call says nothing else."""
        return self._defaults.get("retry") or Retry()

    @property
    def timeout(self) -> float | None:
        """Seconds one attempt may run when a call says nothing else; ``None``: for ever."""
        return self._defaults.get("timeout")

    @property
    def soft_timeout(self) -> float | None:
        """Seconds after which an attempt is asked to come to an end when a call says nothing else."""
        return self._defaults.get("soft_timeout")

    @property
    def max_attempts(self) -> int:
        """How many tries when a call says nothing else."""
        return tries_of(self._defaults, {})

    @property
    def payload(self) -> Payload:
        """Arguments and result as JSON, built when first needed.  Raises ``OptionError`` if that cannot be done."""
        if self._payload is None:
            self._payload = Payload(self.name, self.function, *self._limits)
        return self._payload

    def decode(self, args: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Stored arguments as positional and keyword arguments of the function.  Raises ``Undecodable``."""
        return self.payload.decode(args)

    def encode_result(self, value: Any) -> bytes:
        """What the function returned, to be stored.  Raises ``ResultUnserialisable``."""
        return self.payload.encode_result(value)

    def secret_values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
        """The texts among these arguments that must appear in no log and no stored error."""
        return self.payload.secret_values(args, kwargs)

    # what a publisher needs -----------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Run the function itself: no task, no database.  For unit tests, and for calling one handler from another."""
        return self.function(*args, **kwargs)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """These arguments, validated, as a call that can be enqueued.

        Raises ``ArgumentsInvalid`` or ``ArgumentsTooLarge``.
        """
        payload = self._payload or self.payload
        asked = self._asked
        if asked is None:
            asked = self._asked = Asked(self._defaults, self._overrides, payload.secret_names, payload.secret_result)
        data = payload.encode(args, kwargs)
        return Call(self._home, self.name, payload, data, asked, self._defaults, self._overrides)

    def partial(self, *args: Any, **kwargs: Any) -> Unbound:
        """A call for ``Flow.add`` that lacks what ``takes`` passes to it; checked there."""
        return Unbound(self, args, kwargs)

    def bind(self, passed: Sequence[str] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Partial:
        """A call that gets the arguments ``passed`` (``None``: the first one) from other tasks, for compositions.

        Raises ``FlowInvalid``, ``ArgumentsInvalid`` or ``ArgumentsTooLarge``.
        """
        payload = self.payload
        names = parameters(payload)
        if passed is None:
            first = first_parameter(payload)
            if first is None:
                raise FlowInvalid(f"{self.name!r} takes no argument, so it cannot take a result: give it as a call")
            passed = (first,)
        for name in passed:
            if name not in names:
                raise FlowInvalid(f"{self.name!r} has no parameter {name!r} to pass a result to")
        asked = Asked(self._defaults, self._overrides, payload.secret_names, payload.secret_result)
        partial = Partial(self._home, self.name, payload, encode_without(payload, passed, args, kwargs), asked)
        partial.passed = tuple(passed)
        return partial

    def options(self, **options: Unpack[CallOptions]) -> TaskType[P, R, C]:
        """The same task type with these options for the calls made through it.  Raises ``OptionError``."""
        checked = check_options(options, CALL_CHECKS)
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._overrides = merge(self._overrides, checked)
        check_times(merge(self._defaults, other._overrides))
        other._asked = None
        return other

    @overload
    def enqueue(self, tx: SyncTx, /, *args: P.args, **kwargs: P.kwargs) -> Task[R]: ...
    @overload
    def enqueue(self, tx: AsyncTx, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Task[R]]: ...
    def enqueue(self, tx: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Create a task in this transaction; it exists when that commits, and never when it rolls back.

        Raises ``ArgumentsInvalid``, ``ArgumentsTooLarge``, ``KeyConflict``, ``OutboxFull``, ``OptionError`` (a session
        of an unknown kind, an unknown lane); nothing is changed then.
        """
        return enqueue(tx, self.call(*args, **kwargs))

    def handle(self, task_id: UUID | str) -> Task[R]:
        """A handle on a task of this type that is already there, to wait for it or read its result."""
        try:
            id = task_id if isinstance(task_id, UUID) else UUID(task_id)
        except ValueError:
            raise OptionError(f"{task_id!r} is not a task id") from None
        return Task(id, created=False, home=self._home, decode=self.payload.decode_result)

    def registered(self) -> dict[str, Any]:
        """What the database should know of the type, for those who create its tasks without this code."""
        optional = ("delay", "expires", "key", "key_ttl", "tags", "headers")
        return {
            "queue": self.queue,
            "lane": self.lane,
            "max_attempts": self.max_attempts,
            "secret": list(self.payload.secret_names),
            "secret_result": self.payload.secret_result,
            "args_limit": self._limits[0],
            **{name: self._defaults[name] for name in optional if self._defaults.get(name)},
        }

    def __repr__(self) -> str:
        return f"<task type {self.name!r}>"
