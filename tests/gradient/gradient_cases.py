"""Small forward programs for gradient tests, and finite differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from reference_ops import as_float64, run_program

from bucketmod.compiler.gradient import differentiate
from bucketmod.compiler.graph.constants import fold_constants
from bucketmod.compiler.program import DOMAIN, IR_VERSION, OPSET, Port, Program

Step = tuple[str, Sequence[str], Sequence[str], Mapping[str, object]]


def float_input(name: str, shape: Sequence[int], role: str = "parameter", dtype: str = "float32") -> Port:
    return Port(name, role, tuple(shape), dtype)


def forward_program(
    steps: Sequence[Step],
    inputs: Sequence[Port],
    outputs: Mapping[str, Sequence[int]],
    constants: Mapping[str, np.ndarray] | None = None,
    types: Mapping[str, str] | None = None,
) -> Program:
    """``steps``: (operator, inputs, outputs, attributes), the operator with its domain in front unless it is ONNX's;
    ``types``: dtypes of outputs that are not float32. Intermediate types are inferred."""
    nodes = []
    for index, (operator, given, made, options) in enumerate(steps):
        domain, _, op_type = operator.rpartition("::")
        nodes.append(helper.make_node(op_type, given, made, name=f"{op_type.lower()}{index}", domain=domain, **options))

    def value(name: str, shape: Sequence[int], dtype: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    graph = helper.make_graph(
        nodes,
        "case",
        [value(port.name, port.shape, port.dtype) for port in inputs],
        [value(name, shape, (types or {}).get(name, "float32")) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    return Program.of(model, {port.name: port.role for port in inputs})


def check_gradients(
    program: Program, wrt: Sequence[str], values: Mapping[str, np.ndarray], tolerance: float = 1e-6
) -> Program:
    """Compares every gradient with central differences in float64 along random directions; the training program.

    The scalar that is differenced is the sum of all outputs times their head gradients.
    """
    training = differentiate(program, wrt)
    forward = as_float64(fold_constants(program))
    rng = np.random.default_rng(1)
    inputs = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in values.items()}
    heads = {port.of: rng.normal(size=port.shape) for port in training.by_role("head_gradient")}
    found = run_program(as_float64(training), {**inputs, **{f"{k}_head_gradient": v for k, v in heads.items()}})

    def scalar(changed: Mapping[str, np.ndarray]) -> float:
        outputs = run_program(forward, {**inputs, **changed})
        return sum(float((outputs[name] * head).sum()) for name, head in heads.items())

    step = 1e-5
    for name in wrt:
        gradient = found[f"{name}_gradient"]
        assert gradient.shape == inputs[name].shape, (name, gradient.shape)
        for _ in range(2):
            direction = rng.normal(size=inputs[name].shape)
            up, down = (scalar({name: inputs[name] + s * step * direction}) for s in (1, -1))
            expected, got = (up - down) / (2 * step), float((gradient * direction).sum())
            assert abs(expected - got) <= tolerance * max(1.0, abs(expected)), (name, expected, got)
    return training
