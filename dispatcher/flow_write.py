"""Write a plan in the caller's transaction: a handful of statements for a small flow, a few per thousand tasks else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

from dispatcher.asked import Asked
from dispatcher.awaiting import guarded
from dispatcher.enqueue import arrays
from dispatcher.flow_plan import Node, Plan
from dispatcher.handle import Task
from dispatcher.order import Order
from dispatcher.steps import Steps
from dispatcher.tx import is_async, resolved, run_steps, run_steps_async
from dispatcher.tx_open import open_check
from state import flows
from state.create import CREATE_MANY
from state.machine import Flag

__all__ = ["enqueue_flow", "flow_steps"]

_CHUNK = 1000
"""Tasks and other rows per statement."""
SHARD = 1000
"""A flow with more members than this counts them in rows of so many each: see migration 0006."""


def enqueue_flow(tx: Any, plan: Plan) -> Any:
    """Write all of it or nothing: a ``Task`` that stands for the whole, or a coroutine that gives one."""
    tx = resolved(tx)
    home = next(plan.tasks()).order.home  # type: ignore[union-attr]
    root = next(plan.flows())

    def handle() -> Task[Any]:
        return Task(root.id, created=True, home=home, decode=_decoder(plan), is_open=open_check(tx))

    async def later() -> Task[Any]:
        await run_steps_async(tx, flow_steps(plan), home.schema)
        return handle()

    if is_async(tx):
        return guarded(tx, f"enqueue of a flow of {len(plan.nodes)} parts", later)
    run_steps(tx, flow_steps(plan), home.schema)
    return handle()


def _decoder(plan: Plan) -> Any:
    from pydantic_core import from_json

    return lambda data: plan.decode(from_json(data))


def flow_steps(plan: Plan) -> Steps[None]:
    """The statements, for any kind of session."""
    yield from _structure(plan)
    adapt = _Adapter()
    tasks = list(plan.tasks())
    for chunk in _chunks([node for node in tasks if node.edges]):
        params = arrays([adapt(node) for node in chunk], [node.id for node in chunk])
        for name in ("meta", "run_at"):
            params[name] = params[name] or [None] * len(chunk)
        yield flows.CREATE_BLOCKED, params
    # last, because their outbox rows wake the relay
    for chunk in _chunks([node for node in tasks if not node.edges]):
        yield CREATE_MANY, arrays([adapt(node) for node in chunk], [node.id for node in chunk])


def _structure(plan: Plan) -> Steps[None]:
    """Everything but the tasks: flows, places, edges, counters."""
    whole = list(plan.flows())
    for chunk in _chunks(whole):
        yield (
            flows.CREATE_FLOWS,
            {
                "root": whole[0].id,
                "ids": [node.id for node in chunk],
                "kinds": [node.kind for node in chunk],
                "names": [node.name for node in chunk],
                "totals": [node.total for node in chunk],
                "stops": [node.stop for node in chunk],
            },
        )
    for chunk in _chunks([node for node in plan.nodes if node.flow is not None]):
        yield (
            flows.CREATE_NODES,
            {
                "nodes": [node.id for node in chunk],
                "flows": [node.flow.id for node in chunk if node.flow],
                "positions": [node.pos for node in chunk],
                "slots": [node.slot for node in chunk],
                "shards": [_shard(node) for node in chunk],
                "names": [node.name for node in chunk],
            },
        )
    for pairs in _chunks([(node, edge) for node in plan.tasks() for edge in node.edges]):
        yield (
            flows.CREATE_DEPS,
            {
                "parents": [edge.parent.id for _, edge in pairs],
                "children": [node.id for node, _ in pairs],
                "keys": [edge.key for _, edge in pairs],
                "rules": [edge.rule for _, edge in pairs],
                "wants": [edge.wants for _, edge in pairs],
            },
        )
    for rows in _chunks(list(_joins(plan))):
        nodes, shards, are_flows, remaining = map(list, zip(*rows, strict=True))
        yield flows.CREATE_JOINS, {"nodes": nodes, "shards": shards, "are_flows": are_flows, "remaining": remaining}


def _chunks(rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))


def _shard(node: Node) -> int:
    """Members of a big flow count in shard 1, 2, 3 ...; those of a small one in its own row, 0."""
    assert node.flow is not None
    return 1 + node.pos // SHARD if node.flow.total > SHARD else 0


def _joins(plan: Plan) -> Iterable[tuple[Any, int, bool, int]]:
    for node in plan.nodes:
        if node.order is not None:
            if node.edges:
                yield node.id, 0, False, len(node.edges)
        elif node.total <= SHARD:
            yield node.id, 0, True, node.total
        else:
            full, rest = divmod(node.total, SHARD)
            shards = full + bool(rest)
            yield node.id, 0, True, shards
            for shard in range(1, shards + 1):
                yield node.id, shard, True, SHARD if shard <= full else rest


class _Adapter:
    """An order as a part of a flow: flags, what the worker must know, and a delay that begins with the release."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, bool, bool], Asked] = {}
        self._kept: list[Asked] = []

    def __call__(self, node: Node) -> Order:
        order = node.order
        assert order is not None
        key = (id(order.asked), bool(node.edges), any(edge.key for edge in node.edges))
        asked = self._seen.get(key)
        if asked is None:
            self._kept.append(order.asked)  # so that its id stays its own
            asked = self._seen[key] = _adapted(order.asked, key[1], key[2])
        return Order(order.home, order.name, order.payload, order.args, asked)


def _adapted(before: Asked, waits: bool, takes: bool) -> Asked:
    asked = copy(before)
    meta = json.loads(asked.meta) if asked.meta else {}
    meta["flow"] = 1
    if takes:
        meta["takes"] = 1
    if waits:
        for name in ("delay", "expires"):
            if getattr(asked, name) is not None:
                meta[name] = getattr(asked, name)
                setattr(asked, name, None)
    asked.meta = json.dumps(meta, separators=(",", ":"))
    asked.flags |= Flag.IN_FLOW | (Flag.HAS_PARENTS if waits else 0)
    asked.plain = False
    return asked
