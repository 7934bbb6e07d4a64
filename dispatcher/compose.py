"""Put calls together: one after another, side by side, nested to any depth.  Nothing is stored before ``enqueue``.

    charge.call(42).then(ship, address="x").then(notify)        # the result of one is the first argument of the next
    group(resize.call(1), resize.call(2)).then(summarise)       # a list of results

A composition is immutable.  Mistakes raise ``FlowInvalid`` or ``ArgumentsInvalid`` where they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, overload

from dispatcher.errors import FlowInvalid
from dispatcher.handle import Task
from dispatcher.order import Order
from dispatcher.tx import AsyncTx, SyncTx

__all__ = ["RULES", "Chain", "Composed", "Group", "Link", "Partial", "group"]

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")
S = TypeVar("S")
Q = ParamSpec("Q")

RULES = {"succeeded": 1, "ended": 2, "failed": 3}
"""What an edge waits for, by the number that is stored."""


class Partial(Order):
    """A call that gets some of its arguments from other tasks; ``passed`` are their names."""

    __slots__ = ("passed",)
    passed: tuple[str, ...]


class Link(NamedTuple):
    """The next part of a chain, and when it runs."""

    part: Composed[Any]
    rule: int
    param: str = ""
    """The parameter that gets the result of what stands before; empty: it gets nothing."""
    is_value: bool = True
    """Whether its result is that of the chain from now on."""


class Composed(Generic[R_co]):
    """Anything that gives an ``R`` when it has run: a call, a chain, a group."""

    __slots__ = ()

    @overload
    def then(
        self, nxt: Callable[Concatenate[R_co, Q], Coroutine[Any, Any, S]], /, *args: Q.args, **kwargs: Q.kwargs
    ) -> Chain[S]: ...
    @overload
    def then(self, nxt: Callable[Concatenate[R_co, Q], S], /, *args: Q.args, **kwargs: Q.kwargs) -> Chain[S]: ...
    @overload
    def then(self, nxt: Composed[S], /) -> Chain[S]: ...
    def then(self, nxt: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Go on with the task type ``nxt`` when this has succeeded; its first argument is the result of this.

        A call or composition that needs no result may be given instead.
        """
        if isinstance(nxt, Composed):
            if args or kwargs:
                raise FlowInvalid("then() takes arguments only for a task type, a call has its own already")
            return self._linked(Link(nxt, RULES["succeeded"]))
        leaf = _fed(self, nxt, args, kwargs)
        return self._linked(Link(leaf, RULES["succeeded"], leaf.order.passed[0]))

    @overload
    def then_each(self, *nxt: Callable[[R_co], Coroutine[Any, Any, S]]) -> Chain[list[S]]: ...
    @overload
    def then_each(self, *nxt: Callable[[R_co], Any]) -> Chain[list[Any]]: ...
    def then_each(self, *nxt: Callable[[R_co], Any]) -> Chain[list[Any]]:
        """Go on with several task types side by side; each gets the result of this.  The result is a list of theirs."""
        parts = tuple(_fed(self, one, (), {}) for one in nxt)
        return self._linked(Link(Group(parts), RULES["succeeded"], "*"))

    def on_success(self, call: Composed[Any], /) -> Chain[R_co]:
        """Also run ``call`` when this has succeeded; the result stays that of this."""
        return self._linked(Link(_composed(call), RULES["succeeded"], is_value=False))

    def on_failure(self, call: Composed[Any], /) -> Chain[R_co]:
        """Run ``call`` if this fails or is cancelled; otherwise it ends as cancelled (``skipped``)."""
        return self._linked(Link(_composed(call), RULES["failed"], is_value=False))

    def on_end(self, call: Composed[Any], /) -> Chain[R_co]:
        """Run ``call`` when this has ended, however."""
        return self._linked(Link(_composed(call), RULES["ended"], is_value=False))

    def _linked(self, link: Link) -> Chain[Any]:
        if isinstance(self, Chain):
            return Chain(self.first, (*self.links, link))
        return Chain(self, (link,))


class Fed(Composed[R_co]):
    """A task type whose first argument comes from what stands before it."""

    __slots__ = ("order",)

    def __init__(self, order: Partial) -> None:
        self.order = order


class _Root(Composed[R_co]):
    """A composition that can be enqueued as a whole."""

    __slots__ = ()

    @overload
    def enqueue(self, tx: SyncTx, /) -> Task[R_co]: ...
    @overload
    def enqueue(self, tx: AsyncTx, /) -> Coroutine[Any, Any, Task[R_co]]: ...
    def enqueue(self, tx: Any, /) -> Any:
        """Create every task of it in this transaction; the handle waits for the whole and has its result.

        Its ``id`` is the flow's.  Raises what ``TaskType.enqueue`` raises; nothing is changed then.
        """
        from dispatcher.flow_plan import plan_of
        from dispatcher.flow_write import enqueue_flow

        return enqueue_flow(tx, plan_of(self))


class Chain(_Root[R_co]):
    """One after another."""

    __slots__ = ("first", "links")

    def __init__(self, first: Composed[Any], links: tuple[Link, ...]) -> None:
        self.first, self.links = first, links

    def __repr__(self) -> str:
        return f"Chain({len(self.links) + 1} parts)"


class Group(_Root[list[R]], Generic[R]):
    """Side by side, or with ``sequential`` one after another; the result is the list of the members' results."""

    __slots__ = ("members", "name", "sequential", "stop_on_failure")

    def __init__(
        self,
        members: Iterable[Composed[R]],
        *,
        name: str | None = None,
        sequential: bool = False,
        stop_on_failure: bool = False,
    ) -> None:
        self.members = tuple(_composed(member) for member in members)
        self.name, self.sequential, self.stop_on_failure = name, sequential, stop_on_failure
        if not self.members:
            raise FlowInvalid("a group needs at least one call")

    def __repr__(self) -> str:
        return f"Group({len(self.members)} members)"


def group(
    *calls: Composed[R] | Iterable[Composed[R]],
    name: str | None = None,
    sequential: bool = False,
    stop_on_failure: bool = False,
) -> Group[R]:
    """Run calls side by side: ``group(a.call(1), a.call(2))`` or ``group(a.call(i) for i in numbers)``.

    ``sequential`` runs them in order, each when the one before has succeeded.  ``stop_on_failure`` cancels the others
    as soon as one has failed.  Raises ``FlowInvalid`` for an empty group and for what is no call.
    """
    members: list[Composed[R]] = []
    for call in calls:
        members.extend(call if isinstance(call, Iterable) else [call])
    return Group(members, name=name, sequential=sequential, stop_on_failure=stop_on_failure)


def _composed(call: Any) -> Composed[Any]:
    if not isinstance(call, Composed):
        raise FlowInvalid(f"expected a call such as charge.call(...), or a composition of calls, not {call!r}"[:300])
    return call


def _fed(before: Composed[Any], nxt: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Fed[Any]:
    from dispatcher.flow_types import refuse_misfit
    from dispatcher.task import TaskType

    if not isinstance(nxt, TaskType):
        raise FlowInvalid(f"then() takes a task type such as charge, or a call of one, not {nxt!r}"[:300])
    partial = nxt.bind(None, args, kwargs)
    refuse_misfit(before, partial, partial.passed[0])
    return Fed(partial)
