"""Writes ONNX's cross-entropy operators with operators whose gradients are proven."""

from __future__ import annotations

import numpy as np
from onnx import helper

from bucketmod.compiler.graph.graph import Graph, Node
from bucketmod.compiler.program import Program

_LOSSES = ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")


def decompose_losses(program: Program) -> Program:
    """The same program without SoftmaxCrossEntropyLoss and NegativeLogLikelihoodLoss; itself when it has none.

    The class of a label is picked by comparing it with all classes: comparing and multiplying, unlike a gather from
    each row, have a gradient that every target does well. Labels outside of the classes give 0, as ignored ones do.
    """
    if not any(n.op_type in _LOSSES and n.domain in ("", "ai.onnx") for n in program.model.graph.node):
        return program
    graph = Graph.of(program)
    for node in [n for n in graph.nodes if n.op in _LOSSES]:
        _Decomposition(graph, node).write()
    return graph.to_program()


class _Decomposition:
    """One loss: scores [N, C, ...], labels [N, ...], perhaps a weight for each class [C]."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node
        self.scores, self.labels = node.inputs[:2]
        self.class_weights = node.inputs[2] if len(node.inputs) > 2 else ""
        self.shape = graph.shape(self.scores)
        self.rows = graph.shape(self.labels)
        self.float_type = graph.elem_types[self.scores]

    def op(self, op: str, inputs: list[str], shape: tuple[int, ...], elem_type=0, output="", **attributes) -> str:
        types = [elem_type or self.float_type]
        name = f"{self.node.name}_{op.lower()}"
        outputs = [output] if output else []
        made = self.graph.add(
            op, inputs, [shape], name, self.node.order, outputs=outputs, elem_types=types, attributes=attributes
        )
        return made.outputs[0]

    def constant(self, value, hint: str, dtype=np.int64) -> str:
        return self.graph.add_constant(value, f"{self.node.name}_{hint}", dtype)

    def write(self) -> None:
        node = self.node
        self.graph.remove(node)
        log_prob = self.scores
        if node.op == "SoftmaxCrossEntropyLoss":
            wanted = node.outputs[1] if len(node.outputs) > 1 else ""
            log_prob = self.op("LogSoftmax", [self.scores], self.shape, axis=1, output=wanted)
        chosen = self._chosen()
        axes = self.constant([1], "class_axis")
        picked = self.op("Mul", [log_prob, chosen], self.shape)
        picked = self.op("ReduceSum", [picked, axes], self.rows, keepdims=0)
        weights = self._row_weights(chosen, axes)
        if weights:
            picked = self.op("Mul", [picked, weights], self.rows)
        reduction = node.attributes.get("reduction", b"mean")
        self._reduce(picked, weights, reduction.decode() if isinstance(reduction, bytes) else reduction)

    def _chosen(self) -> str:
        """[N, C, ...]: 1 at the class of the label, 0 elsewhere."""
        label_type = self.graph.elem_types[self.labels]
        column = (self.rows[0], 1, *self.rows[1:])
        label = self.op("Unsqueeze", [self.labels, self.constant([1], "class_axis")], column, label_type)
        classes = np.arange(self.shape[1]).reshape(-1, *[1] * (len(self.shape) - 2))
        dtype = helper.tensor_dtype_to_np_dtype(label_type)
        known = self.constant(classes, "classes", dtype)
        equal = self.op("Equal", [label, known], self.shape, helper.TensorProto.BOOL)
        return self.op("Cast", [equal], self.shape, to=self.float_type)

    def _row_weights(self, chosen: str, axes: str) -> str:
        """Weight of each label's row, "" where all weigh 1."""
        weights = ""
        if self.class_weights:
            shape = (self.shape[1], *[1] * (len(self.shape) - 2))
            column = self.op("Reshape", [self.class_weights, self.constant(list(shape), "weight_shape")], shape)
            spread = self.op("Mul", [chosen, column], self.shape)
            weights = self.op("ReduceSum", [spread, axes], self.rows, keepdims=0)
        if "ignore_index" in self.node.attributes:
            boolean = helper.TensorProto.BOOL
            dtype = helper.tensor_dtype_to_np_dtype(self.graph.elem_types[self.labels])
            ignored = self.constant(self.node.attributes["ignore_index"], "ignore_index", dtype)
            dropped = self.op("Equal", [self.labels, ignored], self.rows, boolean)
            kept = self.op("Not", [dropped], self.rows, boolean)
            kept = self.op("Cast", [kept], self.rows, to=self.float_type)
            weights = self.op("Mul", [weights, kept], self.rows) if weights else kept
        return weights

    def _reduce(self, picked: str, weights: str, reduction: str) -> None:
        loss = self.node.outputs[0]
        if reduction == "none":
            self.op("Neg", [picked], self.rows, output=loss)
            return
        axes = self.constant(list(range(len(self.rows))), "all_axes")
        total = self.op("ReduceSum", [picked, axes], (), keepdims=0)
        if reduction == "sum":
            self.op("Neg", [total], (), output=loss)
            return
        if weights:
            count = self.op("ReduceSum", [weights, axes], (), keepdims=0)
        else:
            dtype = helper.tensor_dtype_to_np_dtype(self.float_type)
            count = self.constant(np.prod(self.rows, dtype=np.int64), "count", dtype)
        self.op("Div", [self.op("Neg", [total], ()), count], (), output=loss)
