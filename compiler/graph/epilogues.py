"""Joins matrix products with what follows them: biases, residuals, activations, and on the way back sums of gradients,
slopes of activations, gradients of biases. Each of these would otherwise read and write the whole result once more.

Runs last, after differentiation, so that what the gradient needs of a forward value is seen as one more reader of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bucketmod.compiler.graph.graph import Graph, Node
from bucketmod.compiler.program import Program

PRODUCT = "bucketmod::FusedGemm"

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Gelu": "gelu", "com.microsoft::Gelu": "gelu",
                "com.microsoft::FastGelu": "gelu_tanh"}  # fmt: skip
_SLOPES = {"com.microsoft::ReluGrad": "relu", "com.microsoft::SigmoidGrad": "sigmoid",
           "com.microsoft::TanhGrad": "tanh"}  # fmt: skip
_MATRIX_PRODUCTS = ("Gemm", "MatMul")


@dataclass
class _Product:
    """A product on its way to a fused node. ``result`` is the last tensor that it makes so far; ``absorbed`` are the
    nodes that made it; ``passed`` are views behind it, which count once something behind them is absorbed."""

    a: str
    b: str
    trans_a: int
    trans_b: int
    columns: int
    result: str
    absorbed: list[Node]
    bias: str = ""
    addend: str = ""
    activation: str = ""
    slope_of: str = ""
    saved: str = ""
    sums: str = ""
    passed: list[Node] = field(default_factory=list)

    @property
    def is_plain(self) -> bool:
        """Whether nothing was found that the product as it stood did not say."""
        return len(self.absorbed) == 1 and not self.addend


def fuse_epilogues(program: Program) -> Program:
    """The same program with ``bucketmod::FusedGemm`` (a, b, bias, addend, saved) -> (c, sums) for products that
    something is joined with; itself when there is none.

    Absent operands are "". c = op(a) op(b) + bias + addend, then the ``activation``, then times the slope of the
    activation ``slope_of`` where that gave ``saved``; its shape is the attribute ``shape``, a is read as a matrix with
    as many columns as b has rows. ``sums`` are those of the columns of a.
    """
    if not any(node.op_type in _MATRIX_PRODUCTS for node in program.model.graph.node):
        return program
    graph = Graph.of(program)
    changed = False
    for node in list(graph.nodes):
        product = None if node.removed else _read(graph, node)
        if product is not None:
            _extend(graph, product)
            _find_sums(graph, product)
            if not product.is_plain:
                _replace(graph, product)
                changed = True
    return graph.to_program() if changed else program


def _read(graph: Graph, node: Node) -> _Product | None:
    """The product that the node is, None where it is none or scales something."""
    if node.op == "MatMul":
        a, b = node.inputs
        if len(graph.shape(b)) != 2 or len(graph.shape(a)) < 2:
            return None
        return _Product(a, b, 0, 0, graph.shape(b)[1], node.outputs[0], [node])
    get = node.attributes.get
    if node.op != "Gemm" or get("alpha", 1.0) != 1.0:
        return None
    a, b = node.inputs[:2]
    shape = graph.shape(node.outputs[0])
    product = _Product(a, b, get("transA", 0), get("transB", 0), shape[1], node.outputs[0], [node])
    if len(node.inputs) > 2 and node.inputs[2]:
        if get("beta", 1.0) != 1.0 or not _take_addend(graph, product, node.inputs[2], shape):
            return None
    return product


def _take_addend(graph: Graph, product: _Product, other: str, shape: tuple[int, ...]) -> bool:
    """Adds the tensor to the product of this shape where that has room for one more: a row, or its like."""
    if product.addend or product.activation or product.slope_of:
        return False
    given = graph.shape(other)
    if given == shape and len(given) > 1:
        product.addend = other
    elif not product.bias and given[-1:] == (product.columns,) == shape[-1:] and int(np.prod(given)) == given[-1]:
        product.bias = other
    else:
        return False
    return True


def _extend(graph: Graph, product: _Product) -> None:
    """Absorbs readers one after the other, as long as nobody else needs what the product would no longer make."""
    current = product.result
    while True:
        if current in graph.outputs:
            return
        readers = graph.readers(current)
        if _absorb_spelled_gelu(graph, product, current, readers):
            current = product.result
            continue
        if len(readers) != 1 or readers[0].inputs.count(current) != 1:
            return
        (reader,) = readers
        if reader.op in _VIEWS and reader.inputs[0] == current:
            product.passed.append(reader)
        elif _absorb(graph, product, reader, current):
            _keep(product, [reader], reader.outputs[0])
        else:
            return
        current = reader.outputs[0]


def _keep(product: _Product, nodes: list[Node], result: str) -> None:
    product.absorbed += [*product.passed, *nodes]
    product.passed = []
    product.result = result


def _absorb(graph: Graph, product: _Product, reader: Node, current: str) -> bool:
    shape = graph.shape(current)
    if reader.op == "Add":
        other = reader.inputs[1 - reader.inputs.index(current)]
        return graph.shape(reader.outputs[0]) == shape and _take_addend(graph, product, other, shape)
    if reader.op == "Sum" and len(reader.inputs) > 1 and all(graph.shape(name) == shape for name in reader.inputs):
        return len(shape) > 1 and _absorb_sum(graph, product, reader, current)
    if product.slope_of:
        return False
    if reader.op in _ACTIVATIONS and len(reader.inputs) == 1 and not product.activation:
        if reader.attributes.get("approximate", b"none") != b"none":  # of ONNX's Gelu: by tanh
            return False
        product.activation = _ACTIVATIONS[reader.op]
        return True
    if reader.op in _SLOPES and reader.inputs[0] == current:
        product.slope_of, product.saved = _SLOPES[reader.op], reader.inputs[1]
        return True
    return False


def _absorb_sum(graph: Graph, product: _Product, reader: Node, current: str) -> bool:
    """Of a longer sum the other summands are added up apart; products among them absorb that sum in their turn."""
    if product.addend or product.activation or product.slope_of:
        return False
    others = [name for name in reader.inputs if name != current]
    if len(others) > 1:
        op = "Add" if len(others) == 2 else "Sum"
        rest = graph.add(op, others, [graph.shape(current)], f"{reader.name}_rest", reader.order)
        others = rest.outputs
    product.addend = others[0]
    return True


def _absorb_spelled_gelu(graph: Graph, product: _Product, current: str, readers: list[Node]) -> bool:
    """x / 2 (erf(x sqrt(1/2)) + 1), in the nodes that MXNet's activation is exported as."""
    if product.activation or product.slope_of or len(readers) != 2 or any(node.op != "Mul" for node in readers):
        return False
    chains = {_scalar_factor(graph, node, current): node for node in readers}
    inner, half = chains.get(np.float32(0.5**0.5)), chains.get(np.float32(0.5))
    error = _only_reader(graph, inner, "Erf")
    shifted = _only_reader(graph, error, "Add")
    last = _only_reader(graph, shifted, "Mul")
    if half is None or last is None or last is not _only_reader(graph, half, "Mul"):
        return False
    assert inner is not None and error is not None and shifted is not None
    if _scalar_factor(graph, shifted, error.outputs[0]) != 1 or graph.shape(last.outputs[0]) != graph.shape(current):
        return False
    product.activation = "gelu"
    _keep(product, [inner, half, error, shifted, last], last.outputs[0])
    return True


def _scalar_factor(graph: Graph, node: Node, tensor: str) -> np.float32 | None:
    """The other operand of a node of two where it is a constant of one element."""
    if len(node.inputs) != 2 or node.inputs.count(tensor) != 1:
        return None
    value = graph.constant(node.inputs[1 - node.inputs.index(tensor)])
    return np.float32(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _only_reader(graph: Graph, node: Node | None, op: str) -> Node | None:
    if node is None or node.outputs[0] in graph.outputs:
        return None
    readers = graph.readers(node.outputs[0])
    return readers[0] if len(readers) == 1 and readers[0].op == op else None


def _find_sums(graph: Graph, product: _Product) -> None:
    """The sums over the rows of a transposed left operand: the gradient of a bias beside that of its weight."""
    if not product.trans_a:
        return
    joined = product.bias or product.addend or product.saved
    for reader in graph.readers(product.a):
        if joined and graph.readers(reader.outputs[0]):  # what is joined might be made of the sums
            continue
        axes = graph.constant(reader.inputs[1]) if reader.op == "ReduceSum" and len(reader.inputs) > 1 else None
        if axes is not None and axes.tolist() == [0] and not reader.attributes.get("keepdims", 1):
            product.sums = reader.outputs[0]
            product.absorbed.append(reader)
            return


def _replace(graph: Graph, product: _Product) -> None:
    first, last = product.absorbed[0], max(product.absorbed, key=lambda node: node.order)
    for node in product.absorbed:
        graph.remove(node)
    shape = graph.shape(product.result)
    attributes = {"transA": product.trans_a, "transB": product.trans_b, "activation": product.activation,
                  "slope_of": product.slope_of, "shape": list(shape)}  # fmt: skip
    outputs, shapes = [product.result], [shape]
    if product.sums:
        outputs.append(product.sums)
        shapes.append(graph.shape(product.sums))
    inputs = [product.a, product.b, product.bias, product.addend, product.saved]
    graph.add(PRODUCT, inputs, shapes, graph.take_name(first), last.order, outputs=outputs, attributes=attributes)
