"""Breadth first through every interleaving; the first path found to a broken invariant is a shortest one."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from state.protocol.invariants import broken
from state.protocol.moves import label_text, moves, quiet
from state.protocol.world import Label, Setup, World, begin

__all__ = ["Found", "Verdict", "check"]


class Found(NamedTuple):
    """A counterexample."""

    what: str
    path: tuple[str, ...]


class Verdict(NamedTuple):
    """What one configuration showed."""

    states: int
    steps: int
    depth: int
    complete: bool
    """Nothing was left to explore."""
    found: Found | None


class _Graph:
    """States by number, how each was reached, and the steps that are no faults backwards."""

    def __init__(self, first: World) -> None:
        self.numbers: dict[World, int] = {first: 0}
        self.parents: list[tuple[int, Label]] = [(-1, ())]
        self.depths = [0]
        self.back: list[list[int]] = [[]]
        self.goals: list[int] = []
        self.steps = 0

    def path(self, number: int, *last: Label) -> tuple[str, ...]:
        labels = list(last)
        while number > 0:
            number, label = self.parents[number]
            labels.insert(0, label)
        return tuple(label_text(label) for label in labels)

    def add(self, world: World, parent: int, label: Label, fault: bool) -> bool:
        """Returns whether the state is new."""
        self.steps += 1
        number = self.numbers.setdefault(world, len(self.depths))
        new = number == len(self.depths)
        if new:
            self.parents.append((parent, label))
            self.depths.append(self.depths[parent] + 1)
            self.back.append([])
        if not fault:
            self.back[number].append(parent)
        return new

    def stuck(self) -> int | None:
        """The first state from which, without further faults, the end cannot be reached."""
        good = set(self.goals)
        todo = list(self.goals)
        while todo:
            for parent in self.back[todo.pop()]:
                if parent not in good:
                    good.add(parent)
                    todo.append(parent)
        return next((number for number in range(len(self.depths)) if number not in good), None)


def check(setup: Setup, depth: int = 1000) -> Verdict:
    """Explore up to ``depth`` steps; liveness is judged only if nothing was left to explore."""
    first = begin(setup)
    graph, todo, complete = _Graph(first), deque([first]), True
    while todo:
        world = todo.popleft()
        number = graph.numbers[world]
        if quiet(world):
            graph.goals.append(number)
        if graph.depths[number] == depth:
            complete = False
            continue
        for label, after, fault in moves(world, setup):
            if wrong := broken(world, label, after, setup):
                return _verdict(graph, complete, Found(wrong[0], graph.path(number, label)))
            if graph.add(after, number, label, fault):
                todo.append(after)
    stuck = graph.stuck() if complete else None
    found = None if stuck is None else Found("can never end (I2)", graph.path(stuck))
    return _verdict(graph, complete, found)


def _verdict(graph: _Graph, complete: bool, found: Found | None) -> Verdict:
    return Verdict(len(graph.depths), graph.steps, max(graph.depths), complete, found)
