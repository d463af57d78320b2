"""``group2ctxs``: a graph cut into parts, one for each stretch of nodes that stays on one context.

Nodes made under ``AttrScope(ctx_group=...)`` live on the context that the mapping gives for their group. A node's level
counts how often a way from the inputs to it changes contexts; the nodes of one level on one context are a part. Parts
in order of their levels never wait for a later one, and as few are made as the changes of contexts allow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.binding.bucket import Argument, Bucket
from bucketmod.binding.placed_executor import PlacedExecutor, PlacedPart
from bucketmod.compiler.service import CompileRequest
from bucketmod.context import Context
from bucketmod.runtime.parameter_store import ParameterStore
from bucketmod.runtime.workspace import InputBuffers, Workspace
from bucketmod.symbol.graph import Entry, Node, topological_nodes
from bucketmod.symbol.inference import infer_shapes, infer_types
from bucketmod.symbol.symbol import Symbol

_GROUP = "__ctx_group__"


@dataclass(frozen=True)
class Part:
    """``bucket``: the part's graph, where values of other parts are data inputs; ``cuts``: those inputs, each with
    (part, output) that makes it."""

    bucket: Bucket
    context: Context
    cuts: tuple[tuple[str, tuple[int, int]], ...]


@dataclass(frozen=True)
class PlacedBucket(Bucket):
    """A bucket that runs in parts. ``heads``: (part, output) of each output; ``contexts``: of every variable."""

    parts: tuple[Part, ...] = ()
    heads: tuple[tuple[int, int], ...] = ()
    contexts: Mapping[str, Context] = None  # type: ignore[assignment]
    default: Context = None  # type: ignore[assignment]
    group2ctx: Mapping[str, Context] = None  # type: ignore[assignment]

    def argument_contexts(self, context: Context) -> dict[str, Context]:
        """As the groups place them."""
        return {argument.name: self.contexts[argument.name] for argument in self.arguments}

    def output_contexts(self, context: Context) -> list[Context]:
        """Of the parts that make them."""
        return [self.parts[part].context for part, _ in self.heads]

    def requests(
        self, is_train: bool, wrt: Sequence[str] = (), target: str = "cpu", model: str | None = None
    ) -> list[CompileRequest]:
        """The request for each part's program."""
        return [
            part.bucket.request(is_train, wanted, target, model)
            for part, wanted in zip(self.parts, self._wrt_of_parts(wrt), strict=True)
        ]

    def _wrt_of_parts(self, wrt: Sequence[str]) -> list[tuple[str, ...]]:
        """Inputs of each part to differentiate: those of ``wrt`` and what other parts made from them."""
        active: list[bool] = []
        found = []
        for part in self.parts:
            own = [a.name for a in part.bucket.arguments if a.name in set(wrt)]
            own += [name for name, (source, _) in part.cuts if active[source]]
            active.append(bool(own))
            found.append(tuple(own))
        return found

    def executor(
        self,
        is_train: bool,
        wrt: Sequence[str],
        target: str,
        store: ParameterStore,
        workspace: Workspace,
        inputs: InputBuffers,
        accumulate: frozenset[str] = frozenset(),
    ) -> Any:
        """The programs of all parts behind the interface of one; see :meth:`Bucket.executor`."""
        wanted = self._wrt_of_parts(wrt)
        parameters = {argument.name for argument in self.by_role("parameter")}
        last = {name: number for number, names in enumerate(wanted) for name in names}
        placed = []
        for number, (part, names) in enumerate(zip(self.parts, wanted, strict=True)):
            # The part that runs backward first writes the gradient of a shared parameter, the others add to it.
            add = frozenset(
                name for name in names if name in accumulate or (name in parameters and last[name] > number)
            )
            executor = part.bucket.executor(is_train, names, target, store, workspace.part(number), inputs, add)
            placed.append(PlacedPart(executor, part.cuts, names))
        return PlacedExecutor(placed, self.heads, _distinct(self.outputs), store, workspace)


def _distinct(outputs: Sequence[tuple[str, tuple[int, ...]]]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes, with a number behind the name of an output that comes again: each has its own gradient."""
    seen: dict[str, int] = {}
    found = []
    for name, shape in outputs:
        count = seen[name] = seen.get(name, -1) + 1
        found.append((f"{name}/{count}" if count else name, shape))
    return found


def prepare_group2ctxs(group2ctxs: Any, count: int) -> list[dict[str, Context]]:
    """The mapping from group to context for each of ``count`` contexts of a module.

    ``group2ctxs``: None, a list of mappings, or a mapping to a Context (for all) or to a list of one or ``count``.
    AssertionError for other lengths and types.
    """
    if group2ctxs is None:
        return [{} for _ in range(count)]
    if isinstance(group2ctxs, list):
        assert len(group2ctxs) == count, f"group2ctxs has {len(group2ctxs)} entries for {count} contexts"
        return [dict(mapping or {}) for mapping in group2ctxs]
    assert isinstance(group2ctxs, Mapping), (
        f"group2ctxs must be a dict from group to context(s), or a list of dicts, got {type(group2ctxs)}"
    )
    found: list[dict[str, Context]] = [{} for _ in range(count)]
    for group, given in group2ctxs.items():
        contexts = [given] if isinstance(given, Context) else list(given)
        contexts = contexts * count if len(contexts) == 1 else contexts
        assert len(contexts) == count, f"group2ctxs[{group!r}] has {len(contexts)} contexts, expected {count} or 1"
        for mapping, context in zip(found, contexts, strict=True):
            mapping[group] = context
    return found


def place(bucket: Bucket, context: Context, group2ctx: Mapping[str, Context] | None) -> Bucket:
    """The bucket, cut into parts where ``group2ctx`` sends groups of nodes to other contexts than ``context``.

    MXNetError for a group that the mapping lacks, NotImplementedError for contexts that are no CPUs.
    """
    if not group2ctx or not isinstance(bucket.graph, Symbol):
        return bucket
    nodes = topological_nodes(bucket.graph.outputs)
    placed = _assign(nodes, context, group2ctx)
    for used in placed.values():
        if used.device_type not in ("cpu", "cpu_pinned", "cpu_shared"):
            raise NotImplementedError(f"CUDA execution: group2ctx places nodes on {used}; use mx.cpu()")
    if all(used == context for used in placed.values()):
        return bucket
    return _Cutting(bucket, nodes, placed).result(context, group2ctx)


def _assign(nodes: Sequence[Node], context: Context, group2ctx: Mapping[str, Context]) -> dict[Node, Context]:
    """A node without a group follows its first placed input, else whoever uses it."""
    found: dict[Node, Context] = {}
    for node in nodes:
        group = node.attrs.get(_GROUP)
        if group is not None:
            if group not in group2ctx:
                raise MXNetError(
                    f"node {node.name!r} is in ctx_group {group!r}, which group2ctx does not place; it has: "
                    f"{', '.join(group2ctx)}"
                )
            found[node] = group2ctx[group]
        else:
            placed = next((found[child] for child, _ in node.inputs if child in found), None)
            if placed is not None:
                found[node] = placed
    for node in reversed(nodes):
        if node in found:
            for child, _ in node.inputs:
                found.setdefault(child, found[node])
    return {node: found.get(node, context) for node in nodes}


def _levels(nodes: Sequence[Node], placed: Mapping[Node, Context]) -> dict[Node, int]:
    """Level of every operator: the lowest, or a higher one where its context has a part that all its users can wait
    for. Operators that nobody uses (outputs) stay with what they read."""
    operators = [node for node in nodes if not node.is_variable]
    inputs = {node: [child for child, _ in node.inputs if not child.is_variable] for node in operators}
    used = {child for node in operators for child in inputs[node]}
    level: dict[Node, int] = {}

    def lowest(node: Node) -> int:
        return max((level[child] + (placed[child] != placed[node]) for child in inputs[node]), default=0)

    for node in operators:
        level[node] = lowest(node)
    parts = {(level[node], placed[node]) for node in operators}
    bounds: dict[Node, dict[bool, int]] = {}  # by whether the user is used itself: those that are not can follow
    for node in reversed(operators):
        if node in used:
            of_users = bounds[node]
            reach = range(level[node], of_users.get(True, of_users.get(False, 0)) + 1)
            level[node] = max(number for number in reach if (number, placed[node]) in parts)
        for child in inputs[node]:
            bound, known = level[node] - (placed[child] != placed[node]), bounds.setdefault(child, {})
            known[node in used] = min(known.get(node in used, bound), bound)
    for node in operators:
        if node not in used:
            level[node] = lowest(node)
    return level


class _Cutting:
    """The parts of one bucket, under construction."""

    def __init__(self, bucket: Bucket, nodes: Sequence[Node], placed: Mapping[Node, Context]) -> None:
        self._bucket, self._nodes, self._placed = bucket, nodes, placed
        self._heads: list[Entry] = bucket.graph.outputs  # type: ignore[union-attr]  # place() has checked
        known = {argument.name: argument for argument in bucket.arguments}
        self._arguments = known
        self._shapes = infer_shapes(nodes, {name: argument.shape for name, argument in known.items()})
        self._types = infer_types(nodes, {name: argument.dtype for name, argument in known.items()})
        self._number = self._part_numbers()
        self._taken = set(known)
        self._cut_names: dict[Entry, str] = {}

    def _part_numbers(self) -> dict[Node, int]:
        """Part of every operator, and of every variable that is an output itself (the part of its context)."""
        level = _levels(self._nodes, self._placed)
        order = {node: index for index, node in enumerate(self._nodes)}
        first: dict[tuple[int, Context], int] = {}
        for node, number in level.items():
            key = number, self._placed[node]
            first[key] = min(first.get(key, order[node]), order[node])
        keys = sorted(first, key=lambda key: (key[0], first[key]))
        numbers = {node: keys.index((number, self._placed[node])) for node, number in level.items()}
        for node, _ in self._heads:
            if node.is_variable:
                numbers[node] = next((i for i, key in enumerate(keys) if key[1] == self._placed[node]), 0)
        self._contexts = [context for _, context in keys]
        return numbers

    def result(self, context: Context, group2ctx: Mapping[str, Context]) -> PlacedBucket:
        outputs = self._outputs_of_parts()
        place_of = {entry: (number, i) for number, part in enumerate(outputs) for i, entry in enumerate(part)}
        parts = tuple(self._part(number, entries, place_of) for number, entries in enumerate(outputs))
        bucket = self._bucket
        return PlacedBucket(
            bucket.graph, bucket.arguments, bucket.outputs, bucket.key,
            parts=parts, heads=tuple(place_of[entry] for entry in self._heads),
            contexts={node.name: self._placed[node] for node in self._nodes if node.is_variable},
            default=context, group2ctx=dict(group2ctx),
        )  # fmt: skip

    def _outputs_of_parts(self) -> list[list[Entry]]:
        """What each part hands out: outputs of the graph, and values that other parts use."""
        outputs: list[dict[Entry, None]] = [{} for _ in self._contexts]
        for node in self._nodes:
            for child, index in node.inputs:
                if not child.is_variable and self._number[child] != self._number[node]:
                    outputs[self._number[child]][child, index] = None
        for node, index in self._heads:
            outputs[self._number[node]][node, index] = None
        return [list(part) for part in outputs]

    def _part(self, number: int, outputs: list[Entry], place_of: Mapping[Entry, tuple[int, int]]) -> Part:
        made: dict[Node, Node] = {}
        cuts: dict[Entry, Node] = {}

        def entry(old: Entry) -> Entry:
            child = old[0]
            if child.is_variable:
                return old
            if self._number[child] == number:
                return made[child], old[1]
            if old not in cuts:
                cuts[old] = Node(None, self._cut_name(old), {}, [])
            return cuts[old], 0

        for node in self._nodes:
            if not node.is_variable and self._number[node] == number:
                made[node] = Node(node.op, node.name, self._attrs(node), [entry(e) for e in node.inputs])
        symbol = Symbol([(made.get(node, node), index) for node, index in outputs])
        inputs = [(self._cut_names[old], place_of[old]) for old in cuts]
        return Part(self._part_bucket(symbol, outputs, cuts), self._contexts[number], tuple(inputs))

    def _attrs(self, node: Node) -> dict[str, str]:
        """Operators that make arrays from nothing may learn their shape from users, who can be in another part."""
        if node.inputs or "shape" not in node.parsed:
            return dict(node.attrs)
        return {**node.attrs, "shape": str(tuple(self._shapes[node][0] or ()))}

    def _cut_name(self, entry: Entry) -> str:
        if entry not in self._cut_names:
            wanted = name = entry[0].output_name(entry[1])
            count = 0
            while name in self._taken:
                count += 1
                name = f"{wanted}/{count}"
            self._taken.add(name)
            self._cut_names[entry] = name
        return self._cut_names[entry]

    def _part_bucket(self, symbol: Symbol, outputs: Sequence[Entry], cuts: Mapping[Entry, Node]) -> Bucket:
        cut = {node.name: entry for entry, node in cuts.items()}
        arguments = []
        for name in [*symbol.list_arguments(), *symbol.list_auxiliary_states()]:
            if name in cut:
                node, index = cut[name]
                dtype = np.dtype(self._types[node][index] or "float32").name
                arguments.append(Argument(name, "data", tuple(self._shapes[node][index] or ()), dtype))
            else:
                arguments.append(self._arguments[name])
        shapes = [tuple(self._shapes[node][index] or ()) for node, index in outputs]
        named = tuple(zip(symbol.list_outputs(), shapes, strict=True))
        return Bucket(symbol, tuple(arguments), named, self._bucket.key)
