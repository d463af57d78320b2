"""Strings the steps of one cell together, from initial to last state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bucketmod.compiler.graph.graph import Graph, Node
from bucketmod.compiler.graph.steps import Step


@dataclass(eq=False)
class Chain:
    """Steps of one cell in the order they run. ``state``: which of a step's two products is that of the state."""

    steps: list[Step]
    state: int

    @property
    def inputs(self) -> list[str]:
        return [step.products[1 - self.state].data for step in self.steps]

    @property
    def nodes(self) -> set[Node]:
        return set().union(*(step.nodes for step in self.steps))


def find_chains(graph: Graph, steps: Iterable[Step], states: set[str]) -> list[Chain]:
    """Groups steps with the same weights and strings together those where one's state goes into the next.

    ``states``: graph inputs known to be initial states. Steps that fit nowhere are left out.
    """
    groups: dict[tuple, list[Step]] = {}
    for step in steps:
        if step.kind != "GRU":
            step.products = tuple(sorted(step.products, key=lambda p: p.parameters))  # type: ignore[assignment]
        if step.products[0].parameters != step.products[1].parameters:
            key = (step.kind, step.activation, *(p.parameters for p in step.products))
            groups.setdefault(key, []).append(step)
    chains = [chain for group in groups.values() for chain in _chains_of(graph, group, states)]
    return sorted(chains, key=lambda chain: chain.steps[0].last.order)


def _chains_of(graph: Graph, group: list[Step], states: set[str]) -> list[Chain]:
    sides = [side for side in (0, 1) if _fits(graph, group[0], side)]
    if group[0].kind == "GRU":
        sides = [side for side in sides if side == 1]
    if not sides:
        return []
    links = {side: _links(graph, group, side) for side in sides}
    side = max(sides, key=lambda s: (len(links[s]), sum(_starts(graph, step, s, states) for step in group)))
    chains = _strings(graph, group, side, links[side])
    if group[0].kind == "RNN":  # tanh(A x + B y) alone is no recurrence unless y looks like an initial state
        chains = [c for c in chains if len(c.steps) > 1 or _starts(graph, c.steps[0], side, states)]
    return chains


def _fits(graph: Graph, step: Step, side: int) -> bool:
    """Whether the product can be that of a state, and both make gates of the right size."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[step.kind] * step.hidden_size
    rows = [graph.shape(p.weight)[1 if p.turned else 0] for p in step.products]
    return rows == [gates, gates] and graph.shape(step.products[side].data) == graph.shape(step.h)


def _starts(graph: Graph, step: Step, side: int, states: set[str]) -> bool:
    data = step.products[side].data
    return data in states or graph.constant(data) is not None


def _links(graph: Graph, group: list[Step], side: int) -> dict[Step, Step]:
    """step -> the step before it."""
    by_h = {step.h: step for step in group}
    links: dict[Step, Step] = {}
    followers: dict[Step, list[Step]] = {}
    for step in group:
        before = by_h.get(step.products[side].data)
        if before is None or before is step or (step.kind == "LSTM" and before.c != step.c_previous):
            continue
        links[step] = before
        followers.setdefault(before, []).append(step)
    for before, after in followers.items():
        cell_stays = not before.c or (
            before.c not in graph.outputs
            and all(r in before.nodes or r in after[0].nodes for r in graph.readers(before.c))
        )
        if len(after) > 1 or not cell_stays:  # the state is needed elsewhere: the chain ends here
            for step in after:
                del links[step]
    return links


def _strings(graph: Graph, group: list[Step], side: int, links: dict[Step, Step]) -> list[Chain]:
    following = {before: step for step, before in links.items()}
    chains = []
    for step in group:
        if step in links:
            continue
        steps = [step]
        while steps[-1] in following:
            steps.append(following[steps[-1]])
        shapes = {graph.shape(s.products[1 - side].data) for s in steps}
        if len(shapes) == 1 and len({graph.elem_types[s.h] for s in steps}) == 1:
            chains.append(Chain(steps, side))
    return chains
