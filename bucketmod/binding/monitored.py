"""Monitored programs: variants that show what every operator computes, forward and backward.

Every operator's outputs become outputs of the program. What flows back into an operator's input is the gradient of a
zero that is added to this input: the zeros ("taps") are inputs of the program, and its gradients are what is shown.
Nothing of this is in the programs of executors without a monitor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod.binding.backward_entries import Edge, Entries, Term, backward_entries
from bucketmod.binding.bucket import Argument, Bucket
from bucketmod.binding.placement import PlacedBucket, place
from bucketmod.ndarray import NDArray
from bucketmod.operators import get_op
from bucketmod.runtime.parameter_store import ParameterStore
from bucketmod.runtime.workspace import InputBuffers, Workspace
from bucketmod.symbol.graph import Entry, Node, auxiliary_nodes, topological_nodes
from bucketmod.symbol.inference import infer_shapes
from bucketmod.symbol.symbol import Symbol

Callback = Callable[[str, NDArray], Any]


def monitored(bucket: Bucket, callback: Callback, monitor_all: bool) -> MonitoredBucket:
    """The bucket, with executors that report every value to ``callback(name, array)``; with ``monitor_all`` also the
    inputs of every operator. NotImplementedError for ONNX models."""
    if not isinstance(bucket.graph, Symbol):
        raise NotImplementedError(
            f"monitors of ONNX models: {bucket.graph_name!r} is one; monitors see the operators of Symbols"
        )
    return MonitoredBucket(bucket, callback, monitor_all)


class MonitoredBucket:
    """Stands where a bucket makes its executors."""

    def __init__(self, bucket: Bucket, callback: Callback, monitor_all: bool) -> None:
        self._bucket, self._callback, self._monitor_all = bucket, callback, monitor_all

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
        """See :meth:`Bucket.executor`."""
        watched = _Watched(self._bucket, wrt)
        wanted = (*wrt, *watched.taps.values()) if wrt else ()
        inner = watched.bucket.executor(is_train, wanted, target, store, workspace, inputs, accumulate)
        return MonitoredExecutor(inner, watched, self._callback, self._monitor_all)


class _Watched:
    """A bucket's graph with taps and with all values as outputs.

    ``bucket``: that graph; ``taps``: the names of the zeros by (node, position of the input); ``positions``: where each
    value stands among the outputs; ``backward``: what to show of a backward pass.
    """

    def __init__(self, bucket: Bucket, wrt: Sequence[str]) -> None:
        assert isinstance(bucket.graph, Symbol)
        self.own = bucket
        self.nodes = topological_nodes(bucket.graph.outputs)
        self.shapes = infer_shapes(self.nodes, {a.name: a.shape for a in bucket.arguments})
        self.taps: dict[Edge, str] = {}
        self._hidden: dict[Entry, Entry] = {}
        self.positions: dict[Entry, int] = {}
        self.backward: list[Entries] = backward_entries(self.nodes, bucket.graph.outputs, wrt) if wrt else []
        self._active = self._find_active(set(wrt))
        self.bucket = self._made()

    def _find_active(self, wrt: set[str]) -> set[Node]:
        """Nodes that the inputs in ``wrt`` have a say in: what flows back to others is zero or not computed."""
        active: set[Node] = set()
        for node in self.nodes:
            if (node.is_variable and node.name in wrt) or any(child in active for child, _ in node.inputs):
                active.add(node)
        return active

    def _made(self) -> Bucket:
        made: dict[Node, Node] = {}
        heads = self.own.graph.outputs  # type: ignore[union-attr]
        states = auxiliary_nodes(self.nodes)
        for node in self.nodes:
            made[node] = node if node.is_variable else self._copy(node, made, states)
        outputs = [(made[node], index) for node, index in heads]
        shapes = list(self.own.outputs)
        for position, entry in enumerate(heads):
            self.positions.setdefault(entry, position)
        for node in self.nodes:
            for index in range(0 if node.is_variable else node.num_outputs):
                source = self._shown_entry(node, index, made[node])
                if source is None or (node, index) in self.positions:
                    continue
                self.positions[node, index] = len(outputs)
                # Blocked, so that what is only shown needs no gradient.
                shown = Node(get_op("BlockGrad"), f"{node.name}/shown{index}", _group(node), [source])
                outputs.append((shown, 0))
                shapes.append((shown.output_name(0), self.shape((node, index))))
        bucket = Bucket(Symbol(outputs), self._arguments(Symbol(outputs)), tuple(shapes), self.own.key)
        return place(bucket, self.own.default, self.own.group2ctx) if isinstance(self.own, PlacedBucket) else bucket

    def _copy(self, node: Node, made: Mapping[Node, Node], states: set[Node]) -> Node:
        inputs = []
        for position, (child, index) in enumerate(node.inputs):
            entry = made[child], index
            if child in self._active and child not in states:
                tap = self.taps[node, position] = f"{node.name}/tap{len(self.taps)}"  # nodes may share a name
                zero = Node(None, tap, _group(node), [])
                entry = Node(get_op("elemwise_add"), f"{tap}/sum", _group(node), [entry, (zero, 0)]), 0
            inputs.append(entry)
        if node.op_name == "Dropout":
            return self._masked(node, inputs)
        attrs = dict(node.attrs)
        if node.op_name == "BatchNorm":
            attrs["output_mean_var"] = "True"
        elif node.op_name == "LayerNorm":
            self._hidden[node, 1], self._hidden[node, 2] = _statistics(node, inputs[0])
        return Node(node.op, node.name, attrs, inputs)

    def _masked(self, node: Node, inputs: list[Entry]) -> Node:
        """Dropout as a product with its mask, which is what Dropout leaves of ones: the same numbers."""
        shape = self.shape(node.inputs[0])
        ones = Node(get_op("_ones"), f"{node.name}/ones", {"shape": str(shape), **_group(node)}, [])
        mask = Node(node.op, f"{node.name}/mask", dict(node.attrs), [(ones, 0)])
        self._hidden[node, 1] = mask, 0
        return Node(get_op("elemwise_mul"), node.name, _group(node), [inputs[0], (mask, 0)])

    def _shown_entry(self, node: Node, index: int, made: Node) -> Entry | None:
        """Where a value is to be found; None for one that only the operator itself sees."""
        if index < made.visible_outputs:
            return made, index
        return self._hidden.get((node, index))

    def shape(self, entry: Entry) -> tuple[int, ...]:
        """Of a value of the graph."""
        return tuple(self.shapes[entry[0]][entry[1]] or ())

    def _arguments(self, symbol: Symbol) -> tuple[Argument, ...]:
        known = {argument.name: argument for argument in self.own.arguments}
        for (node, position), tap in self.taps.items():
            known[tap] = Argument(tap, "data", self.shape(node.inputs[position]), "float32")
        names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
        return tuple(dataclasses.replace(known[name]) for name in names)


def _group(node: Node) -> dict[str, str]:
    """What keeps an added node on the context of its neighbour."""
    return {key: value for key, value in node.attrs.items() if key == "__ctx_group__"}


def _statistics(node: Node, data: Entry) -> tuple[Entry, Entry]:
    """Mean and deviation that LayerNorm keeps to itself."""

    def step(operator: str, inputs: list[Entry], **attrs: str) -> Entry:
        return Node(get_op(operator), f"{node.name}/{operator}", {**attrs, **_group(node)}, inputs), 0

    along = {"axis": str(node.parsed["axis"]), "keepdims": "True"}
    mean = step("mean", [data], **along)
    squares = step("square", [step("broadcast_sub", [data, mean])])
    return mean, step(
        "sqrt", [step("_plus_scalar", [step("mean", [squares], **along)], scalar=str(node.parsed["eps"]))]
    )


class MonitoredExecutor:
    """Runs the monitored program and reports; otherwise the executor of the program without a monitor."""

    def __init__(self, inner: Any, watched: _Watched, callback: Callback, monitor_all: bool) -> None:
        self._inner, self._watched = inner, watched
        self._callback, self._monitor_all = callback, monitor_all
        self.store: ParameterStore = inner.store
        self.trains: bool = inner.trains
        self.takes_seed: bool = inner.takes_seed
        self.output_shapes: list[tuple[str, tuple[int, ...]]] = inner.output_shapes[: len(watched.own.outputs)]

    def release(self) -> None:
        """The program looks after its own views."""

    def input(self, name: str) -> np.ndarray | None:
        """As of the executor inside."""
        return self._inner.input(name)

    def gradient(self, name: str) -> np.ndarray:
        """As of the executor inside."""
        return self._inner.gradient(name)

    def check_heads(self, head_gradients: Mapping[str, np.ndarray] | None) -> None:
        """As of the executor inside."""
        self._inner.check_heads(head_gradients)

    def outputs(self) -> list[np.ndarray]:
        """Those of the graph, without what is only shown."""
        return self._inner.outputs()[: len(self.output_shapes)]

    def forward(self, seed: tuple[int, int] = (0, 0)) -> None:
        """Runs forward, then reports operator by operator."""
        self._inner.forward(seed)
        values, positions = self._inner.outputs(), self._watched.positions
        for node in self._watched.nodes:
            if node.is_variable:
                continue
            if self._monitor_all:
                self._report_inputs(node, values)
            for index in range(node.num_outputs):
                if (node, index) in positions:
                    self._report(node.output_name(index), values[positions[node, index]])

    def _report_inputs(self, node: Node, values: Sequence[np.ndarray]) -> None:
        for (child, index), name in zip(node.inputs, shown_input_names(node), strict=True):
            if child.is_variable:
                value = self._variable(child.name)
                self._report(child.name, value)
            else:
                value = values[self._watched.positions[child, index]]
            self._report(f"{node.name}_{name}", value)

    def _variable(self, name: str) -> np.ndarray:
        for group in (self.store.parameters, self.store.auxiliary):
            if name in group:
                self.store.open_parameters()  # the callback may write to what it is shown
                return group[name]
        found = self._inner.input(name)
        assert found is not None, f"the program has no input {name!r}"
        return found

    def backward(self, head_gradients: Mapping[str, np.ndarray] | None = None) -> None:
        """Runs backward, then reports what flows back, last operator first."""
        self._inner.backward(head_gradients)
        given = head_gradients or {}
        for entries in self._watched.backward:
            for name, terms, like in entries.values:
                self._report(name, self._sum(terms, self._watched.shape(like), given))

    def _sum(self, terms: Sequence[Term], shape: tuple[int, ...], given: Mapping[str, np.ndarray]) -> np.ndarray:
        total = np.zeros(shape, np.float32)
        for term in terms:
            if isinstance(term, int):
                found = given.get(self.output_shapes[term][0])
            else:
                tap = self._watched.taps.get(term)
                found = None if tap is None else self._inner.gradient(tap)
            if found is not None:
                total += found
        return total

    def _report(self, name: str, value: np.ndarray) -> None:
        self._callback(name, NDArray(value))


# Operators whose inputs MXNet knows by number only.
_NUMBERED = frozenset({"Activation", "Flatten", "Reshape"})


def shown_input_names(node: Node) -> list[str]:
    """What ``monitor_all`` calls the inputs of an operator."""
    names = node.input_names
    if node.op_name in _NUMBERED:
        return [f"input{index}" for index in range(len(names))]
    return names
