"""Finds the head of a classifier over many classes, and what its gradient is used for, and writes each as one node.

Both replace products that would otherwise read or write a tensor of scores as large as the probabilities: see
``kernels/softmax_head/``.
"""

from __future__ import annotations

from bucketmod.compiler.graph.graph import Graph, Node
from bucketmod.compiler.program import Program

# With fewer classes the scores stay in the first cache, and kernels of their own do as well.
FEWEST_CLASSES = 256
# Threads share the rows of the projection, and its weights are packed for all of them: with fewer rows, a product that
# threads share by columns does better.
FEWEST_ROWS = 64


def fuse_softmax_heads(program: Program) -> Program:
    """The same program with ``bucketmod::SoftmaxProjection`` (x, w[, bias]) -> p and ``bucketmod::SoftmaxHeadGrad``
    (p, label, x, w) -> (dx, dw, db); itself when there is no such head."""
    if not any(node.op_type in ("SoftmaxOutput", "Softmax") for node in program.model.graph.node):
        return program
    graph = Graph.of(program)
    changed = False
    for node in list(graph.nodes):
        if node.op in ("bucketmod::SoftmaxOutput", "Softmax"):
            changed |= _fuse_projection(graph, node)
        elif node.op == "bucketmod::SoftmaxOutputGrad":
            changed |= _fuse_gradient(graph, node)
    return graph.to_program() if changed else program


def _fuse_projection(graph: Graph, head: Node) -> bool:
    scores = head.inputs[0]
    shape = graph.shape(scores)
    product = graph.producer(scores)
    if len(shape) != 2 or shape[0] < FEWEST_ROWS or shape[1] < FEWEST_CLASSES:
        return False
    if head.attributes.get("multi_output", 0):
        return False
    if head.op == "Softmax" and head.attributes.get("axis", -1) not in (-1, 1):
        return False
    if product is None or scores in graph.outputs or graph.readers(scores) != [head] or not _is_plain(product, 0, 1):
        return False
    bias = product.inputs[2:3] if len(product.inputs) > 2 and product.inputs[2] else []
    if bias and graph.shape(bias[0]) not in ((shape[1],), (1, shape[1])):
        return False
    graph.remove(product)
    graph.remove(head)
    inputs = [*product.inputs[:2], *bias]
    graph.add("bucketmod::SoftmaxProjection", inputs, [shape], graph.take_name(head), head.order, outputs=head.outputs)
    return True


def _is_plain(node: Node, trans_a: int, trans_b: int) -> bool:
    """Whether the node is a product of this form, with nothing scaled."""
    get = node.attributes.get
    has_addend = len(node.inputs) > 2 and bool(node.inputs[2])
    return (
        node.op == "Gemm"
        and (get("transA", 0), get("transB", 0)) == (trans_a, trans_b)
        and get("alpha", 1.0) == 1.0
        and not (has_addend and get("beta", 1.0) != 1.0)
    )


def _fuse_gradient(graph: Graph, head: Node) -> bool:
    """The gradient of the scores is multiplied by the weights and the data, summed over the rows, and that is all."""
    gradient = head.outputs[0]
    prob, label = head.inputs[:2]
    shape = graph.shape(prob)
    get = head.attributes.get
    if len(shape) != 2 or shape[1] < FEWEST_CLASSES or len(head.inputs) > 2 or gradient in graph.outputs:
        return False
    if get("multi_output", 0) or get("smooth_alpha", 0.0) or graph.shape(label) == shape:
        return False
    found: dict[str, Node] = {}
    for reader in graph.readers(gradient):
        role = _role(graph, reader, gradient)
        if role is None or role in found:
            return False
        found[role] = reader
    if "dw" not in found or ("dx" in found and len(found) < 2):
        return False
    x = found["dw"].inputs[1]
    w = found["dx"].inputs[1] if "dx" in found else ""
    for node in (head, *found.values()):
        graph.remove(node)
    depth = graph.shape(x)[1]
    shapes = {"dx": (shape[0], depth), "dw": (shape[1], depth), "db": (shape[1],)}
    outputs = [found[role].outputs[0] if role in found else "" for role in shapes]
    order = max(node.order for node in (head, *found.values()))
    graph.add("bucketmod::SoftmaxHeadGrad", [prob, label, x, w], list(shapes.values()), graph.take_name(head),
              order, outputs=outputs, attributes=head.attributes)  # fmt: skip
    return True


def _role(graph: Graph, reader: Node, gradient: str) -> str | None:
    """What the reader makes of the gradient: "dx", "dw" or "db", None for anything else."""
    if reader.op == "ReduceSum":
        axes = graph.constant(reader.inputs[1]) if len(reader.inputs) > 1 and reader.inputs[1] else None
        summed = axes is not None and axes.tolist() == [0] and not reader.attributes.get("keepdims", 1)
        return "db" if summed else None
    if reader.op != "Gemm" or reader.inputs[0] != gradient or reader.inputs[1] == gradient:
        return None
    if len(reader.inputs) > 2 and reader.inputs[2]:
        return None
    return "dx" if _is_plain(reader, 0, 0) else "dw" if _is_plain(reader, 1, 0) else None
