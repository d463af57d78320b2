"""Every operator: the exported program is valid ONNX, static, and onnxruntime gives MXNet 1.9.1's recorded numbers."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import bucketmod as mx
from bucketmod.export import export_symbol
from bucketmod.operators import get_op, op_names

RECORDED = Path(__file__).parent.parent / "recorded"
sys.path.insert(0, str(RECORDED))
from operator_cases import all_cases, read_arrays, read_graphs  # noqa: E402


@functools.cache
def recorded():
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for key, array in read_arrays(RECORDED, "forward").items():
        case, kind, name = key.split("/")
        found.setdefault(case, {"in": {}, "out": {}})[kind][name] = array
    return found


@functools.cache
def graphs():
    return read_graphs(RECORDED)


@functools.cache
def cases():
    return all_cases(mx)


def run(program, inputs):
    session = onnxruntime.InferenceSession(program.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([port.name for port in program.outputs], inputs)


def check_static(model):
    """Every value that a node makes is described once, with a shape of known sizes."""
    graph = model.graph
    described = [v.name for v in [*graph.input, *graph.output, *graph.value_info]]
    assert len(set(described)) == len(described)
    made = [name for node in graph.node for name in node.output if name]
    assert len(set(made)) == len(made)
    assert set(made) <= set(described)
    assert len({node.name for node in graph.node}) == len(graph.node)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim), value.name


@pytest.mark.filterwarnings("ignore:FusedRNNCell runs over TNC")
@pytest.mark.parametrize("name", sorted(recorded()))
def test_equals_mxnet(name):
    symbol, shapes, _ = cases()[name]
    program = export_symbol(symbol, shapes, data_names=["a"], label_names=[], is_train=False)
    onnx.checker.check_model(program.model, full_check=True)
    check_static(program.model)
    assert [port.name for port in program.inputs] == symbol.list_arguments() + symbol.list_auxiliary_states()
    assert [port.name.partition("/")[0] for port in program.outputs] == symbol.list_outputs()  # a second one: name/1
    expected = recorded()[name]
    outputs = run(program, expected["in"])
    for index, (port, output) in enumerate(zip(program.outputs, outputs, strict=True)):
        reference = expected["out"][str(index)]
        assert output.shape == reference.shape == port.shape
        np.testing.assert_allclose(output, reference, rtol=2e-5, atol=2e-6, err_msg=port.name)


@pytest.mark.filterwarnings("ignore:FusedRNNCell runs over TNC")
@pytest.mark.parametrize("name", sorted(recorded()))
def test_graphs_are_those_of_mxnet(name):
    expected = graphs()[name]
    symbol = cases()[name][0]
    assert symbol.list_arguments() == expected["arguments"]
    assert symbol.list_outputs() == expected["outputs"]
    nodes = json.loads(symbol.tojson())["nodes"]
    assert [[n["op"], n["name"], n.get("attrs", {}), [i[:2] for i in n["inputs"]]] for n in nodes] == expected["nodes"]


def test_every_operator_has_a_case():
    used = {node.op_name for symbol, _, _ in cases().values() for node in symbol.topological_nodes()}
    assert used >= {get_op(name).name for name in op_names()}
