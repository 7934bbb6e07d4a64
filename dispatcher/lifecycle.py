"""What a worker opens before its first task and closes after its last one: resources, and hooks of its start and stop.

Each worker process and each child process does it for itself: nothing that is open can be shared between processes.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar

from dispatcher.errors import DispatcherError, OptionError

__all__ = ["Hook", "Lifecycle", "Opener", "Resource", "ResourceNotOpen"]

T = TypeVar("T")
H = TypeVar("H", bound="Hook")
Hook = Callable[[], Coroutine[Any, Any, None]] | Callable[[], None]
"""A function without parameters, plain or async."""
Opener = Callable[[], AsyncIterator[T]] | Callable[[], Iterator[T]]
"""A generator function without parameters that yields once, as for ``contextlib.contextmanager``."""

_log = logging.getLogger("dispatcher.worker")
_NOTHING: Any = object()


class ResourceNotOpen(DispatcherError):
    """A resource was asked for outside a worker."""


class Resource(Generic[T]):
    """Something that handlers share: opened once per worker and child process.  Made by ``@app.resource``."""

    def __init__(self, opener: Opener[T]) -> None:
        if not (inspect.isgeneratorfunction(opener) or inspect.isasyncgenfunction(opener)):
            raise OptionError(f"@resource needs a generator function, plain or async, not {opener!r}")
        if inspect.signature(opener).parameters:
            raise OptionError(f"@resource: {opener.__name__!r} must have no parameters: nobody would give them")
        self.name: str = opener.__name__
        self._open: Any = (
            asynccontextmanager(opener) if inspect.isasyncgenfunction(opener) else contextmanager(opener)  # type: ignore[arg-type]
        )
        self._value: T = _NOTHING

    def get(self) -> T:
        """What the generator yielded in this process.  Raises ``ResourceNotOpen`` where no worker runs."""
        if self._value is _NOTHING:
            raise ResourceNotOpen(
                f"resource {self.name!r} is not open here: workers open it; in a test say with {self.name}.using(...)"
            )
        return self._value

    @contextmanager
    def using(self, value: T) -> Iterator[T]:
        """Put ``value`` in its place for a while: for unit tests."""
        before, self._value = self._value, value
        try:
            yield value
        finally:
            self._value = before

    async def enter(self, stack: AsyncExitStack) -> None:
        """For the worker: open it and leave its end to ``stack``."""
        manager = self._open()
        if hasattr(manager, "__aenter__"):
            value = await stack.enter_async_context(manager)
        else:
            value = stack.enter_context(manager)
        stack.enter_context(self.using(value))

    def __repr__(self) -> str:
        return f"<resource {self.name!r}>"


class Lifecycle:
    """The resources and hooks of one app: its decorators, and what a worker does with them."""

    def __init__(self) -> None:
        self.resources: dict[str, Resource[Any]] = {}
        """Every resource by its function's name, in the order of definition."""
        self._on_start: list[Hook] = []
        self._on_stop: list[Hook] = []
        self._users = 0
        self._stack = AsyncExitStack()

    def resource(self, opener: Opener[T], /) -> Resource[T]:
        """Register a generator that yields something handlers share: opened once per worker and child process.

        Handlers take it with ``.get()`` of what the decorator returns, or ``context().resource(name)``.  Raises
        ``OptionError`` for anything but a generator function without parameters, and for a name that is taken.
        """
        made: Resource[T] = Resource(opener)
        if made.name in self.resources:
            raise OptionError(f"there is a resource {made.name!r} already: give one of them another name")
        self.resources[made.name] = made
        return made

    def on_worker_start(self, hook: H, /) -> H:
        """Register a plain or async function that each worker and child calls before its first task."""
        _check_hook(hook)
        self._on_start.append(hook)
        return hook

    def on_worker_stop(self, hook: H, /) -> H:
        """Register a plain or async function that each worker and child calls after its last task."""
        _check_hook(hook)
        self._on_stop.append(hook)
        return hook

    @asynccontextmanager
    async def worker_life(self) -> AsyncIterator[None]:
        """Open the resources in the order of their definition, then call the start hooks; backwards at the end.

        What a resource or start hook raises ends the worker before it takes work; what a stop hook or the end of a
        resource raises is logged.  Several workers in one process share the resources.
        """
        self._users += 1
        try:
            if self._users == 1:
                for resource in self.resources.values():
                    await resource.enter(self._stack)
            for hook in self._on_start:
                await _called(hook)
            yield
        finally:
            for hook in self._on_stop:
                await _survive(_called(hook), f"stop hook {getattr(hook, '__name__', hook)!r}")
            self._users -= 1
            if self._users == 0:
                stack, self._stack = self._stack, AsyncExitStack()
                await _survive(stack.aclose(), "closing a resource")


def _check_hook(hook: Any) -> None:
    if not callable(hook) or inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook):
        raise OptionError(f"a hook must be a plain or async function, not {hook!r}; use @app.resource to yield")
    if any(p.default is p.empty and p.kind.value not in (2, 4) for p in inspect.signature(hook).parameters.values()):
        raise OptionError(f"hook {hook.__name__!r} must have no parameters: nobody would give them")


async def _called(hook: Hook) -> None:
    result = hook()
    if inspect.isawaitable(result):
        await result


async def _survive(work: Any, what: str) -> None:
    try:
        await work
    except Exception:
        _log.exception("%s failed", what)
