"""Takes in an ONNX model that another tool exported (PyTorch, say) as a program.

Weights become inputs of the program with their values beside it, data and labels keep their names, every shape is made
static, and what makes the model a training program for us (which output is the loss) is written into the graph.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bucketmod.compiler.errors import CompileError, UnsupportedOperatorError
from bucketmod.compiler.foreign_operators import constant_tensors, standard_form
from bucketmod.compiler.graph.constants import fold_constants
from bucketmod.compiler.graph.graph import Graph
from bucketmod.compiler.graph.losses import decompose_losses
from bucketmod.compiler.program import DOMAIN, Port, Program

logger = logging.getLogger(__name__)

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# (operator, input): what an initializer read there is, if it is no weight
_STATES = {(kind, place) for kind in ("LSTM", "GRU", "RNN") for place in (5, 6)}
_CLASS_WEIGHTS = {("SoftmaxCrossEntropyLoss", 2), ("NegativeLogLikelihoodLoss", 2)}
_STATISTICS = {("BatchNormalization", 3), ("BatchNormalization", 4)}


class Adopted(NamedTuple):
    """``parameters``: first value of each input with the role parameter or auxiliary, by name."""

    program: Program
    parameters: dict[str, np.ndarray]


def adopt(
    model: onnx.ModelProto,
    data_names: Sequence[str] | None = None,
    label_names: Collection[str] = (),
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    loss_names: Collection[str] | None = None,
    constants: Collection[str] = (),
    is_train: bool = True,
) -> Adopted:
    """The forward program of a foreign model, and its parameters' values. ``model`` is not changed.

    Initializers of floating point and at least one axis are parameters, unless they are named in ``constants``, or are
    initial states of a recurrence or class weights of a loss; all others stay constants. ``data_names``: inputs that
    are data, default: every input that is neither initializer nor label. ``shapes`` gives open axes of inputs their
    sizes. ``loss_names``: outputs whose sum is to be trained, default: outputs of one floating-point number. Where
    there is a loss, the other outputs take no part in training. ``is_train``: whether Dropout is active.

    PyTorch: export with ``dynamo=False, do_constant_folding=False, training=TrainingMode.TRAINING`` or with
    ``dynamo=True, optimize=False``, so that weights keep their names; folded ones are trained too, with a warning.

    Raises UnsupportedOperatorError, naming the node, for control flow, sequences and operators of other domains;
    CompileError for open or contradicting shapes and names that the model does not have.
    """
    model = standard_form(model)
    graph = model.graph
    _drop_repeated_inputs(graph)
    _plain_dropout(graph, is_train)
    roles, values = _split_initializers(graph, constants)
    _warn_of_folded(model, values)
    _fix_shapes(graph, shapes or {})
    roles |= _input_roles(graph, data_names, label_names, set(values))
    _add_parameters(graph, values)
    program = _with_static_outputs(model, roles)
    program = decompose_losses(program)
    return Adopted(_mark_losses(program, loss_names), values)


def _drop_repeated_inputs(graph: onnx.GraphProto) -> None:
    """Inputs that repeat an initializer (as before IR 4) go, and shapes that hold for open axes."""
    initializers = {t.name for t in graph.initializer}
    inputs = [v for v in graph.input if v.name not in initializers]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)


def _plain_dropout(graph: onnx.GraphProto, is_train: bool) -> None:
    """Active Dropout gets the number of its random stream; the others become Identity."""
    constants = constant_tensors(graph)
    for index, node in enumerate(graph.node):
        if node.op_type != "Dropout":
            continue
        switch = constants.get(node.input[2]) if len(node.input) > 2 else None
        if is_train and len(node.input) > 2 and switch is None:
            raise UnsupportedOperatorError(
                f"node {node.name!r} (Dropout): training_mode is computed by the model; make it a constant", node.name
            )
        active = is_train and switch is not None and bool(switch.all())
        del node.attribute[:]
        if active:
            node.attribute.append(helper.make_attribute("seed", index))
        else:
            if len(node.output) > 1 and node.output[1]:
                raise UnsupportedOperatorError(
                    f"node {node.name!r} (Dropout): its mask is used, but it is not active", node.name
                )
            node.CopyFrom(helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name))


def _split_initializers(
    graph: onnx.GraphProto, constants: Collection[str]
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Takes the weights out of the initializers: roles and values by name."""
    known = {t.name for t in graph.initializer}
    unknown = sorted(set(constants) - known)
    if unknown:
        raise CompileError(f"constants {unknown}: the model has no such initializers; it has {sorted(known)}")
    readers: dict[str, set[tuple[str, int]]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, set()).add((node.op_type, place))
    roles, values, kept = {}, {}, []
    for tensor in graph.initializer:
        places = readers.get(tensor.name, set())
        fixed = tensor.name in constants or places <= _STATES | _CLASS_WEIGHTS
        if fixed or not tensor.dims or tensor.data_type not in _FLOATS:
            kept.append(tensor)
            continue
        roles[tensor.name] = "auxiliary" if places & _STATISTICS else "parameter"
        values[tensor.name] = numpy_helper.to_array(tensor)
    rest = [numpy_helper.from_array(numpy_helper.to_array(t), t.name) for t in kept]
    del graph.initializer[:]
    graph.initializer.extend(rest)
    return roles, values


def _warn_of_folded(model: onnx.ModelProto, values: Collection[str]) -> None:
    """PyTorch's weights have their path as name, but those that its exporter computed from others have not."""
    paths = [name for name in values if "." in name]
    folded = sorted(set(values) - set(paths))
    if model.producer_name == "pytorch" and paths and folded:
        logger.warning(
            "the exporter of PyTorch has folded weights into new ones, which are trained instead: %s; export with "
            "optimize=False (or, for dynamo=False, with do_constant_folding=False) to train the model's own",
            ", ".join(folded),
        )


def _fix_shapes(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Open axes of inputs take their size from ``shapes``."""
    names = [v.name for v in graph.input]
    unknown = sorted(set(shapes) - set(names))
    if unknown:
        raise CompileError(f"shapes are given for {unknown}: the model has no such inputs; it has {names}")
    for value in graph.input:
        _fix_shape(value, shapes.get(value.name))


def _fix_shape(value: onnx.ValueInfoProto, given: Sequence[int] | None) -> None:
    dims = value.type.tensor_type.shape.dim
    if given is not None and (not value.type.tensor_type.HasField("shape") or len(dims) != len(given)):
        raise CompileError(f"input {value.name!r} has {len(dims)} axes, but is bound to shape {tuple(given)}")
    for axis, dim in enumerate(dims):
        if given is None:
            if not dim.HasField("dim_value"):
                raise CompileError(
                    f"input {value.name!r}: axis {axis} is {dim.dim_param or 'unknown'!r}; give its shape, or export "
                    "the model without dynamic axes, once for each bucket"
                )
        elif dim.HasField("dim_value") and dim.dim_value != given[axis]:
            raise CompileError(
                f"input {value.name!r}: axis {axis} is {dim.dim_value} in the model, but bound to {given[axis]}; "
                "export the model for this bucket, or with that axis dynamic"
            )
        else:
            dim.dim_value = given[axis]


def _input_roles(
    graph: onnx.GraphProto, data_names: Sequence[str] | None, label_names: Collection[str], parameters: set[str]
) -> dict[str, str]:
    inputs = [v.name for v in graph.input if v.name not in parameters]
    missing = [name for name in (*(data_names or ()), *label_names) if name not in inputs]
    if missing:
        raise CompileError(f"the model has no inputs {missing}; its inputs are {inputs}")
    roles = {name: "label" if name in label_names else "data" for name in inputs}
    surplus = [name for name, role in roles.items() if role == "data" and name not in (data_names or inputs)]
    if surplus:
        raise CompileError(f"inputs {surplus} of the model are neither among the data nor among the labels")
    return roles


def _add_parameters(graph: onnx.GraphProto, values: Mapping[str, np.ndarray]) -> None:
    graph.input.extend(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
    )


def _with_static_outputs(model: onnx.ModelProto, roles: Mapping[str, str]) -> Program:
    """Folds what depends on shapes only, after which every shape is known."""
    outputs = [v.name for v in model.graph.output]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inputs = [Port(v.name, roles[v.name], (), "") for v in model.graph.input]
    folded = fold_constants(Program(model, inputs, [Port(name, "output", (), "") for name in outputs])).model
    inferred = onnx.shape_inference.infer_shapes(folded, data_prop=True)
    for value, found in zip(folded.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(found)
    try:
        return Program.of(folded, dict(roles))
    except ValueError as error:
        raise CompileError(str(error)) from error


def _mark_losses(program: Program, loss_names: Collection[str] | None) -> Program:
    """The losses are heads that start a gradient of ones; nothing comes back from the other outputs."""
    names = [p.name for p in program.outputs]
    if loss_names is None:
        floats = ("float16", "float32", "float64")
        loss_names = [p.name for p in program.outputs if np.prod(p.shape) == 1 and p.dtype in floats]
    missing = [name for name in loss_names if name not in names]
    if missing:
        raise CompileError(f"the model has no outputs {missing}; its outputs are {names}")
    if not loss_names:
        return program
    graph = Graph.of(program)
    losses = dict(grad_scale=1.0, valid_thresh=0.0, normalization="null")
    for port in program.outputs:
        is_loss = port.name in loss_names
        maker, index = graph.slot(port.name)
        assert maker is not None  # fold_constants leaves a node for each output
        inner = graph.fresh(f"{port.name}_value")
        graph.rename_output(maker, index, inner)
        graph.add(
            f"{DOMAIN}::{'MakeLoss' if is_loss else 'BlockGrad'}", [inner], [port.shape], f"{port.name}_head",
            len(graph.nodes), outputs=[port.name], attributes=losses if is_loss else {},
        )  # fmt: skip
    return graph.to_program()

