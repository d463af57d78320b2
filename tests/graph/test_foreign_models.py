"""Models that PyTorch exported give PyTorch's numbers: outputs and gradients."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from reference_ops import run_program

from bucketmod.compiler.errors import CompileError, UnsupportedOperatorError
from bucketmod.compiler.foreign import Adopted, adopt
from bucketmod.compiler.gradient import differentiate
from bucketmod.compiler.graph.constants import fold_constants
from bucketmod.compiler.graph.recurrences import normalize_recurrences

RECORDED = Path(__file__).parent.parent / "recorded"
MODELS = ["lstm", "gru", "rnn", "mlp"]


def recorded_model(name: str) -> onnx.ModelProto:
    return onnx.load(RECORDED / f"foreign_{name}.onnx")


def recorded_numbers(name: str) -> dict[str, np.ndarray]:
    with np.load(RECORDED / "foreign_models.npz") as arrays:
        return {key.removeprefix(f"{name}/"): arrays[key] for key in arrays.files if key.startswith(f"{name}/")}


def check_training(adopted: Adopted, numbers: dict[str, np.ndarray]) -> None:
    """Loss, logits and the gradient of every parameter, as PyTorch has them."""
    program, parameters = adopted
    wrt = [port.name for port in program.by_role("parameter")]
    trained = differentiate(fold_constants(normalize_recurrences(program)), wrt)
    assert not trained.by_role("head_gradient")
    got = run_program(trained, {**numbers, **parameters})
    wanted = {key: value for key, value in numbers.items() if key not in ("data", "label")}
    assert len(wanted) == len(got)
    for key, want in wanted.items():
        name = f"{key.removeprefix('gradient of ')}_gradient" if key.startswith("gradient of ") else key
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_recorded_models_train_as_in_pytorch(name):
    check_training(adopt(recorded_model(name), ["data"], ["label"]), recorded_numbers(name))


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_parameters_under_their_names(name):
    program, values = adopt(recorded_model(name), label_names=["label"])
    wanted = {key.removeprefix("gradient of ") for key in recorded_numbers(name) if key.startswith("gradient of ")}
    assert {port.name for port in program.by_role("parameter")} == wanted
    assert set(values) == wanted
    assert [port.name for port in program.by_role("data")] == ["data"]
    assert [(port.name, port.dtype) for port in program.by_role("label")] == [("label", "int64")]


def test_reordering_of_pytorch_weights_is_undone():
    program = fold_constants(normalize_recurrences(adopt(recorded_model("lstm"), label_names=["label"]).program))
    nodes = [n for n in program.model.graph.node if n.op_type == "LSTM"]
    weights = [[f"recurrence.{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
               for layer in (0, 1)]  # fmt: skip
    assert [list(n.input[1:5]) for n in nodes] == weights
    assert "Slice" not in {n.op_type for n in program.model.graph.node}


def tiny(nodes, opset: int = 17, shape=(2, 3), outputs=("y",), domain: str = "", initializers=()) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets)


def test_open_axes_take_the_shapes_given():
    model = tiny([helper.make_node("Relu", ["x"], ["y"])], shape=("batch", 3))
    program = adopt(model, shapes={"x": (5, 3)}).program
    assert program.outputs[0].shape == (5, 3)
    with pytest.raises(CompileError, match="axis 0 is 'batch'.*without dynamic axes"):
        adopt(model)
    with pytest.raises(CompileError, match="axis 1 is 3 in the model, but bound to 4"):
        adopt(model, shapes={"x": (5, 4)})
    with pytest.raises(CompileError, match="no such inputs"):
        adopt(model, shapes={"z": (5, 4)})


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_other_opsets_are_converted(opset):
    if opset < 18:
        mean = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)
    else:
        mean = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
    program = adopt(tiny([mean], opset, initializers=[("axes", np.array([1]))])).program
    assert program.outputs[0].shape == (2,)
    assert [(o.domain, o.version) for o in program.model.opset_import] == [("", 17)]
    assert program.model.ir_version == 8


def test_what_cannot_be_converted_says_which_opset_can():
    with pytest.raises(UnsupportedOperatorError, match="opset_version=17"):
        adopt(tiny([helper.make_node("Gelu", ["x"], ["y"])], 20))


def test_a_split_of_a_later_opset_keeps_its_parts():
    node = helper.make_node("Split", ["x"], ["y", "z"], axis=0, num_outputs=2)
    assert [p.shape for p in adopt(tiny([node], 18, outputs=("y", "z"))).program.outputs] == [(1, 3), (1, 3)]


@pytest.mark.parametrize("sizes", [np.array(2), np.array([2, 1])])
def test_parts_taken_out_of_a_sequence_are_a_split(sizes):
    nodes = [
        helper.make_node("SplitToSequence", ["x", "sizes"], ["parts"], axis=1, keepdims=1),
        helper.make_node("SequenceAt", ["parts", "last"], ["y"]),
        helper.make_node("SequenceAt", ["parts", "first"], ["z"]),
    ]
    known = [("sizes", sizes.astype(np.int64)), ("last", np.int64(-1)), ("first", np.int64(0))]
    program = adopt(tiny(nodes, outputs=("y", "z"), initializers=known)).program
    assert [n.op_type for n in program.model.graph.node] == ["Split"]
    got = run_program(program, {"x": np.arange(6, dtype=np.float32).reshape(2, 3)})
    np.testing.assert_array_equal(got["y"], [[2], [5]])
    np.testing.assert_array_equal(got["z"], [[0, 1], [3, 4]])


def test_folded_weights_of_pytorch_are_named_in_a_warning(caplog):
    known = [("layer.weight", np.ones((2, 3), np.float32)), ("val_4", np.ones(3, np.float32))]
    nodes = [helper.make_node("Add", ["x", "layer.weight"], ["h"]), helper.make_node("Mul", ["h", "val_4"], ["y"])]
    model = tiny(nodes, initializers=known)
    model.producer_name = "pytorch"
    adopt(model)
    assert "val_4" in caplog.text and "layer.weight" not in caplog.text


def test_unknown_operators_and_control_flow_name_the_node():
    node = helper.make_node("Whirl", ["x"], ["y"], name="spin", domain="else.where")
    with pytest.raises(UnsupportedOperatorError, match="'spin': operator else.where::Whirl") as error:
        adopt(tiny([node], domain="else.where"))
    assert error.value.node == "spin"
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "b", [], [
        helper.make_tensor_value_info("z", TensorProto.FLOAT, (2, 3))])  # fmt: skip
    node = helper.make_node("If", ["c"], ["y"], name="choose", then_branch=branch, else_branch=branch)
    with pytest.raises(UnsupportedOperatorError, match="'choose' .If.: control flow"):
        adopt(tiny([node], initializers=[("c", np.array(True))]))


def test_roles_must_fit_the_inputs():
    model = tiny([helper.make_node("Relu", ["x"], ["y"])])
    with pytest.raises(CompileError, match=r"no inputs \['label'\]"):
        adopt(model, label_names=["label"])
    with pytest.raises(CompileError, match="neither among the data nor among the labels"):
        adopt(_two_inputs(), ["x"])


def _two_inputs() -> onnx.ModelProto:
    model = tiny([helper.make_node("Add", ["x", "other"], ["y"])])
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, (2, 3)))
    return model


def test_constants_stay_constants_when_named():
    model = tiny([helper.make_node("Add", ["x", "shift"], ["y"])], initializers=[("shift", np.ones(3, np.float32))])
    assert list(adopt(model).parameters) == ["shift"]
    assert adopt(model, constants=["shift"]).parameters == {}
    with pytest.raises(CompileError, match="no such initializers"):
        adopt(model, constants=["nothing"])


def test_scalars_integers_and_initial_states_are_no_parameters():
    zeros = np.zeros((1, 2, 4), np.float32)
    weights = [(n, np.ones(s, np.float32)) for n, s in (("w", (1, 16, 3)), ("r", (1, 16, 4)), ("b", (1, 32)))]
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("LSTM", ["scaled", "w", "r", "b", "", "h", "c"], ["y"], hidden_size=4),
    ]
    constants = [*weights, ("h", zeros), ("c", zeros), ("scale", np.float32(2))]
    model = tiny(nodes, shape=(5, 2, 3), initializers=constants)
    assert sorted(adopt(model).parameters) == ["b", "r", "w"]


def test_dropout_acts_in_training_only():
    nodes = [helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])]
    model = tiny(nodes, initializers=[("ratio", np.float32(0.5)), ("training", np.array(True))])
    assert [n.op_type for n in adopt(model).program.model.graph.node] == ["Dropout"]
    assert "Dropout" not in [n.op_type for n in adopt(model, is_train=False).program.model.graph.node]


def test_only_the_loss_is_trained_where_there_is_one():
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("ReduceSum", ["y"], ["loss"], keepdims=0)]
    heads = {n.output[0]: n.op_type for n in adopt(tiny(nodes, outputs=("y", "loss"))).program.model.graph.node}
    assert (heads["y"], heads["loss"]) == ("BlockGrad", "MakeLoss")
    plain = adopt(tiny(nodes, outputs=("y", "loss")), loss_names=[]).program
    assert [n.op_type for n in plain.model.graph.node] == ["Relu", "ReduceSum"]
    with pytest.raises(CompileError, match="no outputs"):
        adopt(tiny(nodes), loss_names=["cost"])


@pytest.mark.parametrize("as_node", [False, True])
def test_tensors_in_other_files_are_refused_and_not_read(as_node):
    elsewhere = numpy_helper.from_array(np.ones(3, np.float32), "secret")
    onnx.external_data_helper.set_external_data(elsewhere, "passwords")
    elsewhere.ClearField("raw_data")
    model = tiny([helper.make_node("Mul", ["x", "secret"], ["y"])])
    if as_node:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["secret"], value=elsewhere))
    else:
        model.graph.initializer.append(elsewhere)
    with pytest.raises(CompileError, match="'secret' lies in another file"):
        adopt(model)


def test_functions_of_the_model_are_inlined():
    model = tiny([helper.make_node("Twice", ["x"], ["y"], domain="mine")], domain="mine")
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    assert [n.op_type for n in adopt(model).program.model.graph.node] == ["Add"]


def exporting_script():
    path = RECORDED / "record_foreign_models.py"
    spec = importlib.util.spec_from_file_location("record_foreign_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_export_trains_as_in_pytorch(name, dynamo):
    torch = pytest.importorskip("torch", reason="exporting needs PyTorch, which is not installed")
    if dynamo:
        pytest.importorskip("onnxscript", reason="PyTorch's newer exporter needs onnxscript, which is not installed")
    script = exporting_script()
    torch.manual_seed(3)
    model, data, label = script.models()[name]
    adopted = adopt(script.export(model, data, label, dynamo), ["data"], ["label"])
    check_training(adopted, script.numbers(model, data, label))
