"""What gets a gradient, from which heads, and through which inputs of the training program it comes in."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_cases import check_gradients, float_input, forward_program
from reference_ops import run_program

from bucketmod.compiler.gradient import differentiate, is_backward
from bucketmod.compiler.program import DOMAIN, Program

SOFTMAX = f"{DOMAIN}::SoftmaxOutput"
BLOCK = f"{DOMAIN}::BlockGrad"
LOSS = f"{DOMAIN}::MakeLoss"
RNG = np.random.default_rng(3)
X = RNG.normal(size=(3, 4)).astype(np.float32)
W = RNG.normal(size=(5, 4)).astype(np.float32)
LABEL = np.array([1, 4, 0], np.float32)
VALUES = {"x": X, "w": W, "label": LABEL}
INPUTS = [float_input("x", (3, 4), "data"), float_input("w", (5, 4)), float_input("label", (3,), "label")]
FC = ("Gemm", ["x", "w"], ["z"], {"transB": 1})


def program(*steps, **outputs) -> Program:
    return forward_program([FC, *steps], INPUTS, outputs)


def head_gradient_names(training: Program) -> list[str]:
    return [port.name for port in training.by_role("head_gradient")]


def softmax_gradient(scale: float = 1.0) -> np.ndarray:
    """Gradient of w under one SoftmaxOutput over z."""
    z = X @ W.T
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    p[np.arange(3), LABEL.astype(int)] -= 1
    return scale * p.T @ X


def test_head_gradient_of_a_tensor_that_is_read_inside():
    case = program(("Tanh", ["z"], ["t"], {}), ("Mul", ["t", "z"], ["y"], {}), t=(3, 5), y=(3, 5))
    training = check_gradients(case, ["x", "w"], VALUES)
    assert head_gradient_names(training) == ["t_head_gradient", "y_head_gradient"]
    assert [port.of for port in training.by_role("head_gradient")] == ["t", "y"]


def test_an_output_that_is_an_output_twice_over():
    case = program(("Identity", ["z"], ["a"], {}), ("Identity", ["z"], ["b"], {}), a=(3, 5), b=(3, 5))
    check_gradients(case, ["x", "w"], VALUES)


def test_an_input_that_is_an_output():
    case = program(("Identity", ["w"], ["same"], {}), ("Exp", ["z"], ["y"], {}), same=(5, 4), y=(3, 5))
    check_gradients(case, ["x", "w"], VALUES)


def test_unreachable_inputs_get_zeros_of_their_shape():
    training = differentiate(program((SOFTMAX, ["z", "label"], ["p"], {}), p=(3, 5)), ["w", "label"])
    found = run_program(training, VALUES)
    np.testing.assert_allclose(found["w_gradient"], softmax_gradient(), rtol=1e-5)
    assert found["label_gradient"].shape == (3,) and not found["label_gradient"].any()
    ports = {port.name: (port.role, port.of) for port in training.outputs}
    assert ports == {"p": ("output", ""), "w_gradient": ("gradient", "w"), "label_gradient": ("gradient", "label")}


def test_heads_of_a_group_add_up():
    case = program(
        (SOFTMAX, ["z", "label"], ["p"], {}),
        (SOFTMAX, ["z", "label"], ["q"], {"grad_scale": 0.5}),
        p=(3, 5),
        q=(3, 5),
    )
    found = run_program(differentiate(case, ["w"]), VALUES)
    np.testing.assert_allclose(found["w_gradient"], softmax_gradient(1.5), rtol=1e-5)


def test_a_loss_head_and_a_plain_output_add_up():
    case = program((SOFTMAX, ["z", "label"], ["p"], {}), ("Neg", ["z"], ["y"], {}), p=(3, 5), y=(3, 5))
    training = differentiate(case, ["w"])
    assert head_gradient_names(training) == ["y_head_gradient"]
    head = RNG.normal(size=(3, 5)).astype(np.float32)
    found = run_program(training, {**VALUES, "y_head_gradient": head})
    np.testing.assert_allclose(found["w_gradient"], softmax_gradient() - head.T @ X, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "behind",
    [
        (("Mul", ["p", "p"], ["y"], {}),),
        ((BLOCK, ["p"], ["y"], {}),),
        (("Floor", ["p"], ["y"], {}),),
        ((LOSS, ["p"], ["y"], {"grad_scale": 3.0}),),
    ],
    ids=["product", "blocked", "floor", "loss"],
)
def test_a_loss_head_ignores_what_comes_from_behind_it_as_in_mxnet(behind):
    training = differentiate(program((SOFTMAX, ["z", "label"], ["p"], {}), *behind, y=(3, 5)), ["w"])
    assert not head_gradient_names(training)
    np.testing.assert_allclose(run_program(training, VALUES)["w_gradient"], softmax_gradient(), rtol=1e-5)


def test_softmax_output_with_out_grad_multiplies_by_its_head_gradient():
    training = differentiate(program((SOFTMAX, ["z", "label"], ["p"], {"out_grad": 1}), p=(3, 5)), ["w"])
    assert head_gradient_names(training) == ["p_head_gradient"]
    head = np.full((3, 5), 2, np.float32)
    found = run_program(training, {**VALUES, "p_head_gradient": head})
    np.testing.assert_allclose(found["w_gradient"], softmax_gradient(2), rtol=1e-5)


def test_softmax_output_with_out_grad_takes_the_gradient_from_behind():
    three = {"three": np.float32(3)}
    case = forward_program(
        [FC, (SOFTMAX, ["z", "label"], ["p"], {"out_grad": 1}), ("Mul", ["p", "three"], ["y"], {})],
        INPUTS, {"y": (3, 5)}, three,
    )  # fmt: skip
    found = run_program(differentiate(case, ["w"]), {**VALUES, "y_head_gradient": np.ones((3, 5), np.float32)})
    np.testing.assert_allclose(found["w_gradient"], softmax_gradient(3), rtol=1e-5)


def test_block_grad_stops_the_gradient_and_nothing_else():
    case = program(
        (BLOCK, ["z"], ["blocked"], {}),
        ("Mul", ["blocked", "z"], ["y"], {}),
        ("Exp", ["blocked"], ["e"], {}),
        y=(3, 5),
        e=(3, 5),
    )
    training = differentiate(case, ["w"])
    assert head_gradient_names(training) == ["y_head_gradient"]
    head = RNG.normal(size=(3, 5)).astype(np.float32)
    found = run_program(training, {**VALUES, "y_head_gradient": head})
    np.testing.assert_allclose(found["w_gradient"], (head * (X @ W.T)).T @ X, rtol=1e-4, atol=1e-5)


def test_an_operator_without_a_gradient_may_stand_behind_block_grad():
    case = program((BLOCK, ["z"], ["b"], {}), ("Sinh", ["b"], ["s"], {}), ("Mul", ["s", "z"], ["y"], {}), y=(3, 5))
    assert head_gradient_names(differentiate(case, ["w"])) == ["y_head_gradient"]


def test_nothing_to_differentiate():
    training = differentiate(program((BLOCK, ["z"], ["y"], {}), y=(3, 5)), ["w"])
    assert not head_gradient_names(training)
    assert not run_program(training, VALUES)["w_gradient"].any()
    assert len(differentiate(program(("Exp", ["z"], ["y"], {}), y=(3, 5)), []).outputs) == 1


def test_two_recurrent_layers_with_inner_states_fed_on():
    def layer(n: int, x: str, h: str, c: str):
        weights = [f"{name}{n}" for name in ("wi", "wh", "bi", "bh")]
        options = {"hidden_size": 4, "reverse": n % 2}
        return (f"{DOMAIN}::LSTM", [x, *weights, h, c], [f"y{n}", f"h{n}", f"c{n}"], options)

    inputs = [float_input("x", (3, 2, 4)), float_input("h", (2, 4)), float_input("c", (2, 4))]
    for n in (0, 1):
        shapes = {"wi": (16, 4), "wh": (16, 4), "bi": (16,), "bh": (16,)}
        inputs += [float_input(f"{name}{n}", shape) for name, shape in shapes.items()]
    case = forward_program(
        [layer(0, "x", "h", "c"), layer(1, "y0", "h0", "c0")], inputs, {"y1": (3, 2, 4), "c1": (2, 4), "y0": (3, 2, 4)}
    )
    values = {port.name: RNG.normal(size=port.shape).astype(np.float32) for port in inputs}
    training = check_gradients(case, [port.name for port in inputs], values)
    kinds = [node.op_type for node in training.model.graph.node]
    assert kinds.count("LSTMTraining") == kinds.count("LSTMGrad") == 2 and "LSTM" not in kinds


def test_a_recurrence_that_needs_no_gradient_stays_as_it_is():
    inputs = [float_input(n, s) for n, s in {"x": (3, 2, 4), "wi": (4, 4), "wh": (4, 4), "bi": (4,), "bh": (4,),
                                             "h": (2, 4), "v": (2, 4)}.items()]  # fmt: skip
    options = {"hidden_size": 4, "activation": "tanh"}
    step = (f"{DOMAIN}::RNN", ["x", "wi", "wh", "bi", "bh", "h"], ["", "last"], options)
    case = forward_program([step, ("Mul", ["last", "v"], ["y"], {})], inputs, {"y": (2, 4)})
    assert [n.op_type for n in differentiate(case, ["v"]).model.graph.node] == ["RNN", "Mul", "Mul"]


def test_forward_nodes_come_first_and_keep_their_names():
    training = differentiate(program(("Tanh", ["z"], ["t"], {}), (SOFTMAX, ["t", "label"], ["p"], {}), p=(3, 5)), ["w"])
    nodes = training.model.graph.node
    assert [node.name for node in nodes if not is_backward(node)] == ["gemm0", "tanh1", "softmaxoutput2"]
    assert [is_backward(node) for node in nodes] == sorted(is_backward(node) for node in nodes)
    assert len({node.name for node in nodes}) == len(nodes)


def test_every_tensor_has_a_static_type_and_gradients_have_their_tensors_shapes():
    case = program(("Tanh", ["z"], ["t"], {}), (SOFTMAX, ["t", "label"], ["p"], {}), p=(3, 5))
    graph = differentiate(case, ["x", "w"]).model.graph
    declared = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.output)}
    assert {name for node in graph.node for name in node.output if name} == set(declared)
    assert declared["t_gradient"] == [3, 5] and declared["w_gradient"] == [5, 4]


def test_a_training_program_survives_the_way_through_bytes():
    training = differentiate(program((SOFTMAX, ["z", "label"], ["p"], {}), p=(3, 5)), ["w"])
    again = Program.from_bytes(training.to_bytes())
    assert again.outputs == training.outputs and again.inputs == training.inputs
    assert again.digest() == training.digest()
