"""``Flow``: any acyclic graph of tasks by names, with results passed by parameter, conditions and failure policies.

order = Flow("order")
order.add("stock", reserve.call(7))
order.add("paid", charge.call(7))
order.add("ship", ship.partial(address="x"), takes={"reservation": "stock", "receipt": "paid"})
order.add("refund", refund.call(7), on_failure=["ship"])
task = order.enqueue(session)
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, overload

from dispatcher.compose import RULES, Composed, Partial
from dispatcher.errors import FlowInvalid, did_you_mean
from dispatcher.flow_plan import GRAPH, Edge, Node, Plan, decoder_of, expand
from dispatcher.flow_types import refuse_misfit
from dispatcher.handle import Task
from dispatcher.order import Order
from dispatcher.task import Unbound
from dispatcher.tx import AsyncTx, SyncTx

__all__ = ["Flow"]


@dataclass(slots=True)
class _Part:
    call: Order | Composed[Any]
    takes: Mapping[str, str]
    rules: dict[str, int] = field(default_factory=dict)
    wants: Mapping[str, Any] = field(default_factory=dict)


class Flow:
    """A graph to be.  ``stop_on_failure`` cancels everything else as soon as one task has failed."""

    def __init__(self, name: str, *, stop_on_failure: bool = False) -> None:
        if not isinstance(name, str) or not 1 <= len(name) <= 200:
            raise FlowInvalid("a flow's name must be text of 1 to 200 characters")
        self.name, self.stop_on_failure = name, stop_on_failure
        self._parts: dict[str, _Part] = {}

    def add(
        self,
        name: str,
        call: Composed[Any] | Unbound,
        *,
        takes: Mapping[str, str] | None = None,
        after: Iterable[str] = (),
        ignore: Iterable[str] = (),
        on_failure: Iterable[str] = (),
        when: Mapping[str, Any] | None = None,
    ) -> Flow:
        """Add a task, chain or group under a name of its own; the names it refers to may be added later.

        ``takes``: parameter to the name of the task whose result it gets.  ``after``: further tasks to wait for.  Each
        task it waits for must succeed, or this one fails (``dependency_failed``); except those in ``ignore``, which
        only have to end (a result that is not there is ``None``), and those in ``on_failure``, which must fail.
        ``when``: name to the result that the task must have; with another one this task is skipped, and so are those
        that wait for it.  Raises ``FlowInvalid`` and what a call raises.
        """
        if not isinstance(name, str) or not 1 <= len(name) <= 200:
            raise FlowInvalid("the name of a part must be text of 1 to 200 characters")
        if name in self._parts:
            raise FlowInvalid(f"{self.name!r} has a part {name!r} already")
        part = _part(name, call, dict(takes or {}), dict(when or {}))
        for names, rule in (
            ((*part.takes.values(), *_names("after", after), *part.wants), "succeeded"),
            (_names("ignore", ignore), "ended"),
            (_names("on_failure", on_failure), "failed"),
        ):
            part.rules.update(dict.fromkeys(names, RULES[rule]))
        if loose := [parent for parent in part.wants if part.rules[parent] != RULES["succeeded"]]:
            raise FlowInvalid(f"{name!r} wants a result of {loose[0]!r}, which it ignores or expects to fail")
        self._parts[name] = part
        return self

    @overload
    def enqueue(self, tx: SyncTx, /) -> Task[dict[str, Any]]: ...
    @overload
    def enqueue(self, tx: AsyncTx, /) -> Coroutine[Any, Any, Task[dict[str, Any]]]: ...
    def enqueue(self, tx: Any, /) -> Any:
        """Create every task in this transaction; the handle's ``id`` is the flow's, its result all results by name.

        Raises ``FlowInvalid`` for a cycle, an unknown name, or a result that cannot fit the parameter it goes to, and
        what ``TaskType.enqueue`` raises; nothing is changed then.
        """
        from dispatcher.flow_write import enqueue_flow

        return enqueue_flow(tx, self._plan())

    def _plan(self) -> Plan:
        if not self._parts:
            raise FlowInvalid(f"{self.name!r} has no parts: add some")
        decoders = {name: decoder_of(part.call) for name, part in self._parts.items()}
        plan = Plan(lambda value: {name: decoders[name](part) for name, part in value.items()})
        root = plan.add(Node(None, kind=GRAPH, name=self.name))
        root.stop = self.stop_on_failure
        nodes: dict[str, Node] = {}
        for slot, name in enumerate(self._order()):
            nodes[name], heads = expand(plan, self._parts[name].call, root)
            nodes[name].name, nodes[name].slot = name, slot
            for head in heads:
                self._connect(name, head, nodes)
        return plan.numbered()

    def _order(self) -> list[str]:
        for name, part in self._parts.items():
            for parent in part.rules:
                if parent not in self._parts:
                    known = did_you_mean(parent, self._parts)
                    raise FlowInvalid(f"{name!r} waits for {parent!r}, which {self.name!r} does not have{known}")
        try:
            return list(TopologicalSorter({name: part.rules for name, part in self._parts.items()}).static_order())
        except CycleError as error:
            raise FlowInvalid(f"{self.name!r} goes in a circle: {' -> '.join(error.args[1])}") from None

    def _connect(self, name: str, node: Node, nodes: Mapping[str, Node]) -> None:
        part = self._parts[name]
        for parent in part.wants:
            if nodes[parent].order is None:
                raise FlowInvalid(f"{name!r} wants a result of {parent!r}: only that of a single task can be compared")
        for param, parent in part.takes.items():
            rule = part.rules[parent]
            if rule != RULES["failed"]:
                assert isinstance(part.call, Partial)
                refuse_misfit(self._parts[parent].call, part.call, param)
            elif nodes[parent].order is None:
                raise FlowInvalid(f"{name!r} takes the error of {parent!r}: only a single task has one")
            node.edges.append(Edge(nodes[parent], param, rule))
        for parent, rule in part.rules.items():
            wants = json.dumps(part.wants[parent]) if parent in part.wants else None
            if parent not in part.takes.values() or wants is not None:
                node.edges.append(Edge(nodes[parent], "", rule, wants))


def _names(option: str, names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise FlowInvalid(f"{option} takes several names: [{names!r}]")
    return tuple(names)


def _part(name: str, call: Any, takes: dict[str, str], when: dict[str, Any]) -> _Part:
    if isinstance(call, Unbound):
        return _Part(call.task_type.bind(tuple(takes), call.args, call.kwargs), takes, wants=when)
    if not isinstance(call, Composed):
        raise FlowInvalid(
            f"{name!r} needs a call such as charge.call(...) or ship.partial(...), or a composition, not {call!r}"[:300]
        )
    if takes:
        cure = f"write {call.name}.partial(...), not .call(...)" if isinstance(call, Order) else "add its tasks here"
        raise FlowInvalid(f"{name!r} has all its arguments: with takes {cure}")
    return _Part(call, takes, wants=when)
