"""ONNX program to Relax: one walk over the nodes, one converter each."""

from __future__ import annotations

import numpy as np
import onnx
from tvm import ir, relax

from bucketmod.compiler.errors import CompileError, UnsupportedOperatorError
from bucketmod.compiler.importer import (
    attention,
    elementwise,
    matmul,
    neural,
    recurrent,
    reduction,
    shaping,
    softmax_head,
    windows,
)
from bucketmod.compiler.importer.context import CONVERTERS, ImportContext, Node
from bucketmod.compiler.program import SEED, Port, Program
from bucketmod.compiler.target import Target
from bucketmod.compiler.tuning import Tuner
from bucketmod.runtime.gradient_rows import table_size

# Importing them fills CONVERTERS.
FAMILIES = (attention, elementwise, matmul, neural, recurrent, reduction, shaping, softmax_head, windows)


def import_program(program: Program, target: Target, tuner: Tuner | None = None) -> tuple[ir.IRModule, list[Port]]:
    """Returns the Relax module, whose ``main`` takes the program's inputs and returns its outputs, and what ``main``
    takes behind those inputs: ``__seed__`` (int64[2]: seed, step) where there are random operators, and the tables of
    gradients whose rows are listed (see ``runtime.gradient_rows``), which it writes too.

    ``tuner``: as in ``ImportContext``. Raises UnsupportedOperatorError, naming the node, for an operator without a
    converter.
    """
    graph = program.model.graph
    nodes = [Node(proto) for proto in graph.node]
    _refuse_unknown(nodes)
    trains = any(port.role == "gradient" for port in program.outputs)
    context = ImportContext(target, relax.BlockBuilder(), not trains, tuner)
    context.arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    parameters = []
    for index, port in enumerate(program.inputs):
        variable = relax.Var(f"i{index}", relax.TensorType(port.shape, port.dtype))
        context.values[port.name] = variable
        parameters.append(variable)
        if port.role in ("parameter", "auxiliary"):
            context.parameters.add(variable)
    added = []
    if any(node.op_type == "Dropout" for node in nodes):
        context.seed = relax.Var(SEED, relax.TensorType((2,), "int64"))
        parameters.append(context.seed)
        added.append(Port(SEED, "seed", (2,), "int64"))
    for port in _gradients_by_rows(program, nodes) if target.cpu is not None else ():
        table = Port(f"{port.name}.rows", "gradient_rows", (table_size(port.shape[0]),), "int32", port.of)
        context.row_tables[port.name] = relax.Var(f"rows{len(added)}", relax.TensorType(table.shape, table.dtype))
        parameters.append(context.row_tables[port.name])
        added.append(table)
    with context.bb.function("main", parameters):
        with context.bb.dataflow():
            for node in nodes:
                _convert(context, node)
            results = relax.Tuple([context.expr(port.name) for port in program.outputs])
            output = context.bb.emit_output(results)
        context.bb.emit_func_output(output)
    return context.bb.get(), added


def _gradients_by_rows(program: Program, nodes: list[Node]) -> list[Port]:
    """Gradients of parameters that are those of an embedding, and nothing else: written in the caller's memory, where
    they stay until the next backward pass."""
    read = {name for node in nodes for name in node.inputs}
    scattered = {node.outputs[0] for node in nodes if node.op_type == "GatherGrad"} - read
    parameters = {port.name for port in program.by_role("parameter")}
    wanted = [port for port in program.outputs if port.name in scattered]
    return [port for port in wanted if port.role == "gradient" and port.of in parameters]


def _refuse_unknown(nodes: list[Node]) -> None:
    for node in nodes:
        if (node.domain, node.op_type) not in CONVERTERS and node.op_type != "Constant":
            raise node.fail("this operator is not built yet")


def _convert(context: ImportContext, node: Node) -> None:
    if node.op_type == "Constant":
        context.arrays[node.outputs[0]] = _constant_value(node)
        return
    try:
        inputs = [context.expr(name) if name else None for name in node.inputs]
        results = CONVERTERS[node.domain, node.op_type](context, node, inputs)
    except CompileError:
        raise
    except Exception as error:  # TVM raises many kinds: the node's name is what helps
        raise UnsupportedOperatorError(
            f"node {node.name!r} ({node.op_type}): {type(error).__name__}: {error}", node=node.name
        ) from error
    if not isinstance(results, list):
        results = [results]
    for name, result in zip(node.outputs, results, strict=False):
        if name:
            if result is None:
                raise node.fail(f"output {name!r} is not built")
            context.values[name] = result


def _constant_value(node: Node) -> np.ndarray:
    value = node.attribute("value")
    if value is None:
        raise node.fail("only tensor constants are built")
    return onnx.numpy_helper.to_array(value)
