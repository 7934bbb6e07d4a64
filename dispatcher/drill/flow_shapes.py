"""Random compositions, and by their side what they mean: a model that knows nothing of the product's tables.

The number of a composition and the seed of the drill decide it, so the client that creates it and the checker that
judges it make the same one.  Chains and groups nested to any depth, diamonds, graphs by names; some tasks fail.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dispatcher import Call, Composed, Flow, group
from dispatcher.compose import RULES, Chain, Group
from dispatcher.drill.flow_tasks import leaf, merge
from dispatcher.drill.tasks import CANARY

__all__ = ["MOST", "Bundle", "Edge", "Job", "Node", "Shape", "shape_of"]

MOST = 1000
"""No composition has as many tasks; ``order // MOST`` is the number of a task's composition."""
_FAILS = 0.1
SUCCEEDED, ENDED, FAILED = RULES["succeeded"], RULES["ended"], RULES["failed"]


@dataclass(eq=False)
class Job:
    """A task: what it was told, and what it waits for."""

    order: int
    value: int | None
    """What it returns; ``None`` when that depends on what it takes over."""
    fails: bool
    edges: list[Edge] = field(default_factory=list)
    takes: Node | None = None


@dataclass(eq=False)
class Bundle:
    """A chain, group or graph: everything in it, and whose results are its own."""

    kind: str
    members: list[Node]
    slots: list[Node]


Node = Job | Bundle


class Edge(NamedTuple):
    """A task waits until ``parent`` has succeeded (with the result ``wants``), ended or failed."""

    parent: Node
    rule: int
    wants: int | None = None


@dataclass
class Shape:
    """One composition, ready to be enqueued, and its model."""

    composed: Chain[Any] | Group[Any] | Flow
    whole: Bundle
    jobs: list[Job]


class Part(NamedTuple):
    """A piece of a composition with its model, and the tasks that begin it."""

    composed: Composed[Any]
    node: Node
    heads: list[Job]


def shape_of(seed: int, number: int) -> Shape:
    """The composition of that number, 1 and up."""
    return _Maker(random.Random(f"{seed} {number}"), number).made()


class _Maker:
    def __init__(self, dice: random.Random, number: int) -> None:
        self._dice, self._number = dice, number
        self._jobs: list[Job] = []

    def made(self) -> Shape:
        """The whole."""
        kind = self._dice.random()
        if kind < 0.2:
            composed, whole = self._graph(self._dice.randrange(5, 20))
            return Shape(composed, whole, self._jobs)
        if kind < 0.35:
            composed, whole = self._diamond(self._dice.randrange(2, 7))
            return Shape(composed, whole, self._jobs)
        part = self._part(3)
        if isinstance(part.node, Job):
            part = self._chained(part, [self._fed])
        assert isinstance(part.node, Bundle) and isinstance(part.composed, Chain | Group)
        return Shape(part.composed, part.node, self._jobs)

    # tasks ----------------------------------------------------------------------------------------------------------

    def _job(self, value: int | None) -> Job:
        job = Job(self._number * MOST + len(self._jobs), value, self._dice.random() < _FAILS)
        self._jobs.append(job)
        return job

    def _leaf(self) -> tuple[Call[int], Job]:
        job = self._job(self._dice.choice((1, 7)))
        assert job.value is not None
        return leaf.call(job.order, job.value, job.fails, CANARY), job

    def _one(self) -> Part:
        call, job = self._leaf()
        return Part(call, job, [job])

    # chains and groups ----------------------------------------------------------------------------------------------

    def _part(self, depth: int) -> Part:
        kind = self._dice.random()
        if depth == 0 or kind < 0.3:
            return self._one()
        if kind < 0.6:
            return self._group(depth - 1)
        links = (self._fed, self._on_failure, self._on_end, self._then)
        wanted = self._dice.choices(links, (60, 15, 15, 10), k=self._dice.randrange(1, 3))
        return self._chained(self._part(depth - 1), wanted, depth - 1)

    def _group(self, depth: int) -> Part:
        members = [self._part(depth) for _ in range(self._dice.randrange(1, 5))]
        sequential = self._dice.random() < 0.2
        nodes = [member.node for member in members]
        heads = list(members[0].heads)
        for before, after in zip(nodes, members[1:], strict=False):
            if sequential:
                _wait(after.heads, before, SUCCEEDED)
            else:
                heads += after.heads
        composed: Composed[Any] = group([member.composed for member in members], sequential=sequential)
        return Part(composed, Bundle("group", nodes, nodes), heads)

    def _chained(self, first: Part, links: Sequence[_Link], depth: int = 0) -> Part:
        chain, composed = first.node, first.composed
        if not isinstance(chain, Bundle) or chain.kind == "group":
            chain = Bundle("chain", [first.node], [first.node])
        for link in links:
            composed, added, is_value = link(composed, chain.slots[0], depth)
            chain.members.append(added)
            chain.slots = [added] if is_value else chain.slots
        return Part(composed, chain, first.heads)

    def _fed(self, before: Composed[Any], value: Node, depth: int) -> tuple[Composed[Any], Node, bool]:
        job = self._job(None)
        job.takes = value
        _wait([job], value, SUCCEEDED)
        return before.then(merge, order=job.order, fails=job.fails, canary=CANARY), job, True

    def _then(self, before: Composed[Any], value: Node, depth: int) -> tuple[Composed[Any], Node, bool]:
        part = self._part(depth)
        _wait(part.heads, value, SUCCEEDED)
        return before.then(part.composed), part.node, True

    def _on_failure(self, before: Composed[Any], value: Node, depth: int) -> tuple[Composed[Any], Node, bool]:
        part = self._part(depth)
        _wait(part.heads, value, FAILED)
        return before.on_failure(part.composed), part.node, False

    def _on_end(self, before: Composed[Any], value: Node, depth: int) -> tuple[Composed[Any], Node, bool]:
        part = self._part(depth)
        _wait(part.heads, value, ENDED)
        return before.on_end(part.composed), part.node, False

    # graphs ---------------------------------------------------------------------------------------------------------

    def _graph(self, size: int) -> tuple[Flow, Bundle]:
        """Tasks, chains and groups that wait for random earlier ones, under random rules."""
        flow, nodes = Flow(f"graph {self._number}"), list[Node]()
        for i in range(size):
            part = self._part(1) if self._dice.random() < 0.2 else self._one()
            parents = self._dice.sample(range(i), min(i, self._dice.randrange(0, 4)))
            rules = {n: self._dice.choices((SUCCEEDED, ENDED, FAILED), (60, 30, 10))[0] for n in parents}
            plain = [n for n in parents if rules[n] == SUCCEEDED]
            tasks = [n for n in plain if isinstance(nodes[n], Job)]
            when = {tasks[0]: self._dice.choice((1, 7))} if tasks and self._dice.random() < 0.15 else {}
            for head in part.heads:
                head.edges = [Edge(nodes[n], rule, when.get(n)) for n, rule in rules.items()]
            flow.add(
                f"n{i}", part.composed, after=[f"n{n}" for n in plain],
                ignore=[f"n{n}" for n in parents if rules[n] == ENDED],
                on_failure=[f"n{n}" for n in parents if rules[n] == FAILED],
                when={f"n{n}": wanted for n, wanted in when.items()},
            )  # fmt: skip
            nodes.append(part.node)
        return flow, Bundle("graph", nodes, nodes)

    def _diamond(self, width: int) -> tuple[Flow, Bundle]:
        """One, then several side by side that take its result, then one that waits for all of them."""
        flow = Flow(f"diamond {self._number}")
        call, top = self._leaf()
        flow.add("top", call)
        middles = [self._job(None) for _ in range(width)]
        for i, job in enumerate(middles):
            _take(job, top, SUCCEEDED)
            flow.add(f"m{i}", _partial(job), takes={"values": "top"})
        ignored = self._dice.random() < 0.4
        bottom = self._job(None)
        _take(bottom, middles[0], ENDED if ignored else SUCCEEDED)
        _wait([bottom], middles[1:], SUCCEEDED)
        names = [f"m{i}" for i in range(width)]
        flow.add("bottom", _partial(bottom), takes={"values": "m0"}, after=names[1:], ignore=names[:1] * ignored)
        jobs: list[Node] = [top, *middles, bottom]
        return flow, Bundle("graph", jobs, jobs)


_Link = Callable[[Composed[Any], Node, int], tuple[Composed[Any], Node, bool]]


def _wait(jobs: list[Job], parent: Node | list[Job], rule: int) -> None:
    for job in jobs:
        job.edges += [Edge(one, rule) for one in (parent if isinstance(parent, list) else [parent])]


def _take(job: Job, parent: Job, rule: int) -> None:
    job.takes = parent
    _wait([job], parent, rule)


def _partial(job: Job) -> Any:
    return merge.partial(order=job.order, fails=job.fails, canary=CANARY)
