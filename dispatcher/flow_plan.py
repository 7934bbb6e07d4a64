"""From a composition to rows: every task and every flow as a node with its place, and the edges between them.  Pure.

A flow is a chain (1), a group (2), a graph by names (3) or the children of a handler (4).  Tasks and flows are nodes of
at most one flow each; an edge goes from a node to a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import UUID

from dispatcher.compose import RULES, Chain, Composed, Fed, Group, Link, Partial
from dispatcher.errors import FlowInvalid
from dispatcher.order import Order
from state.ids import new_ids

__all__ = ["CHAIN", "CHILDREN", "GRAPH", "GROUP", "Edge", "Node", "Plan", "decoder_of", "plan_of"]

CHAIN, GROUP, GRAPH, CHILDREN = 1, 2, 3, 4


class Node:
    """A task to be (``order``) or a flow (``kind``), and its place in the flow around it."""

    __slots__ = ("edges", "flow", "id", "kind", "name", "order", "pos", "slot", "stop", "total")
    id: UUID

    def __init__(
        self, flow: Node | None, *, order: Order | None = None, kind: int = 0, name: str | None = None
    ) -> None:
        self.flow, self.order, self.kind, self.name = flow, order, kind, name
        self.slot: int | None = None
        """Its place in the result of the flow around it."""
        self.total, self.stop = 0, False
        self.edges: list[Edge] = []
        """What it waits for."""
        self.pos = 0
        if flow is not None:
            self.pos = flow.total
            flow.total += 1


class Edge(NamedTuple):
    """A task waits for ``parent``; ``key`` is the parameter that takes its result, or empty."""

    parent: Node
    key: str
    rule: int
    wants: str | None = None


class Plan:
    """All nodes of one composition, parents before those that wait for them."""

    def __init__(self, decode: Callable[[Any], Any]) -> None:
        self.nodes: list[Node] = []
        self.decode = decode
        """From the stored result of the whole, read as JSON, to Python values."""

    def add(self, node: Node) -> Node:
        """Take a node in."""
        if node.order is not None and node.order.asked.key is not None:
            raise FlowInvalid(
                f"{node.order.name!r} has a key, but a task in a composition is always a new one: give the key to a"
                " task that hands over, by returning the composition from its handler"
            )
        self.nodes.append(node)
        return node

    def numbered(self) -> Plan:
        """Give every node its id."""
        for node, id in zip(self.nodes, new_ids(len(self.nodes)), strict=True):
            node.id = id
        return self

    def tasks(self) -> Iterator[Node]:
        """The nodes that are tasks."""
        return (node for node in self.nodes if node.order is not None)

    def flows(self) -> Iterator[Node]:
        """The nodes that are flows; the first is the whole."""
        return (node for node in self.nodes if node.order is None)


def plan_of(composed: Composed[Any]) -> Plan:
    """The plan of a chain or group, with ids."""
    plan = Plan(decoder_of(composed))
    expand(plan, composed, None)
    return plan.numbered()


def expand(plan: Plan, composed: Any, flow: Node | None) -> tuple[Node, list[Node]]:
    """Add a composition to the plan: the node that has its result, and the tasks that begin it."""
    if isinstance(composed, Group):
        return _group(plan, composed, flow)
    if isinstance(composed, Chain):
        return _chain(plan, composed, flow)
    order: Order = composed.order if isinstance(composed, Fed) else composed
    node = plan.add(Node(flow, order=order))
    return node, [node]


def _group(plan: Plan, group: Group[Any], flow: Node | None) -> tuple[Node, list[Node]]:
    whole = plan.add(Node(flow, kind=GROUP, name=group.name))
    whole.stop = group.stop_on_failure
    heads: list[Node] = []
    before: Node | None = None
    for slot, member in enumerate(group.members):
        value, firsts = expand(plan, member, whole)
        value.slot = slot
        if before is None or not group.sequential:
            heads.extend(firsts)
        else:
            for first in firsts:
                first.edges.append(Edge(before, "", RULES["succeeded"]))
        before = value
    return whole, heads


def _chain(plan: Plan, chain: Chain[Any], flow: Node | None) -> tuple[Node, list[Node]]:
    whole = plan.add(Node(flow, kind=CHAIN))
    value, heads = expand(plan, chain.first, whole)
    for link in chain.links:
        after, firsts = expand(plan, link.part, whole)
        for first in firsts:
            first.edges.append(Edge(value, _param(link, first), link.rule))
        value = after if link.is_value else value
    value.slot = 0
    return whole, heads


def _param(link: Link, first: Node) -> str:
    if link.param == "*" and isinstance(first.order, Partial):
        return first.order.passed[0]
    return link.param


def decoder_of(composed: Any) -> Callable[[Any], Any]:
    """From the JSON value of a composition's result to what the handlers returned."""
    if isinstance(composed, Group):
        members = [decoder_of(member) for member in composed.members]
        return lambda value: (
            None if value is None else [decode(part) for decode, part in zip(members, value, strict=True)]
        )
    if isinstance(composed, Chain):
        values = [link.part for link in composed.links if link.is_value]
        return decoder_of(values[-1] if values else composed.first)
    order = composed.order if isinstance(composed, Fed) else composed
    return _Leaf(order)


class _Leaf:
    __slots__ = ("_order",)

    def __init__(self, order: Order) -> None:
        self._order = order

    def __call__(self, value: Any) -> Any:
        """The result of one task; one that was skipped or failed and ignored has none."""
        from pydantic_core import to_json

        return None if value is None else self._order.payload.decode_result(to_json(value))
