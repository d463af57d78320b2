"""Shape arithmetic becomes data; nodes that do nothing go; outputs keep their names and values."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper
from reference_ops import run_program

from bucketmod.compiler.errors import CompileError, UnsupportedOperatorError
from bucketmod.compiler.graph.constants import fold_constants
from bucketmod.compiler.graph.parts import BACKWARD
from bucketmod.compiler.program import IR_VERSION, OPSET, Program

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def program(steps, outputs, constants=None, inputs=None, described=None) -> Program:
    """``steps``: (operator, inputs, outputs, attributes)."""
    nodes = [
        helper.make_node(
            operator.rpartition("::")[2], given, made, name=f"n{i}", domain=operator.rpartition("::")[0], **options
        )
        for i, (operator, given, made, options) in enumerate(steps)
    ]
    value = helper.make_tensor_value_info
    shapes = inputs or {"x": (2, 3, 4)}
    graph = helper.make_graph(
        nodes,
        "fold",
        [value(name, 1, shape) for name, shape in shapes.items()],
        [value(name, 1, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in (constants or {}).items()],
        value_info=[value(name, 1, shape) for name, shape in (described or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return Program.of(model, dict.fromkeys(shapes, "data"))


def operators(folded: Program) -> list[str]:
    return [node.op_type for node in folded.model.graph.node]


def constants(folded: Program) -> dict[str, list]:
    return {i.name: numpy_helper.to_array(i).tolist() for i in folded.model.graph.initializer}


def same_values(before: Program, after: Program, **inputs) -> None:
    given = inputs or {"x": X}
    expected, found = run_program(before, given), run_program(after, given)
    assert list(expected) == list(found)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


def test_shape_arithmetic_of_an_exported_model_becomes_one_constant():
    case = program(
        [
            ("Shape", ["x"], ["s"], {}),
            ("Gather", ["s", "zero"], ["n"], {"axis": 0}),
            ("Unsqueeze", ["n", "axis0"], ["n1"], {}),
            ("Concat", ["n1", "rest"], ["target"], {"axis": 0}),
            ("Reshape", ["x", "target"], ["y"], {}),
        ],
        {"y": (2, 12)},
        {"zero": np.array(0), "axis0": np.array([0]), "rest": np.array([-1])},
    )
    folded = fold_constants(case)
    assert operators(folded) == ["Reshape"] and list(constants(folded).values()) == [[2, 12]]
    same_values(case, folded)


@pytest.mark.parametrize(
    ("operator", "constant", "options"),
    [
        ("Reshape", np.array([0, 3, -1]), {}),
        ("Expand", np.array([1, 3, 1]), {}),
        ("Mul", np.float32(1), {}),
        ("Div", np.ones((3, 1), np.float32), {}),
        ("Add", np.float32(0), {}),
        ("Sub", np.zeros(4, np.float32), {}),
        ("Pow", np.float32(1), {}),
        ("Slice", np.array([0]), "whole"),
        ("Identity", None, {}),
        ("Cast", None, {"to": 1}),
        ("Transpose", None, {"perm": [0, 1, 2]}),
        ("Concat", None, {"axis": 1}),
        ("Sum", None, {}),
        ("Split", None, {"axis": 0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_node_that_does_nothing_goes(operator, constant, options):
    given = ["x"] + (["c"] if constant is not None else []) + (["end"] if options == "whole" else [])
    known = {"end": np.array([2**62])} | ({} if constant is None else {"c": constant})
    options = {} if options == "whole" else options
    case = program([(operator, given, ["same"], options), ("Exp", ["same"], ["y"], {})], {"y": (2, 3, 4)}, known)
    folded = fold_constants(case)
    assert operators(folded) == ["Exp"] and not folded.model.graph.initializer
    same_values(case, folded)


def test_a_constant_that_widens_the_result_does_something():
    case = program([("Mul", ["x", "c"], ["y"], {})], {"y": (5, 2, 3, 4)}, {"c": np.ones((5, 1, 1, 1), np.float32)})
    assert operators(fold_constants(case)) == ["Mul"]


def test_a_reversing_slice_is_no_whole_slice():
    case = program(
        [("Slice", ["x", "s", "e", "a", "t"], ["y"], {})],
        {"y": (2, 3, 4)},
        {"s": np.array([-1]), "e": np.array([-(2**62)]), "a": np.array([1]), "t": np.array([-1])},
    )
    folded = fold_constants(case)
    assert operators(folded) == ["Slice"]
    same_values(case, folded)


def test_views_of_views_and_transposes_of_transposes_become_one_or_none():
    case = program(
        [
            ("Reshape", ["x", "flat"], ["a"], {}),
            ("Unsqueeze", ["a", "zero"], ["b"], {}),
            ("Squeeze", ["b", "zero"], ["c"], {}),
            ("Reshape", ["c", "three"], ["d"], {}),
            ("Exp", ["d"], ["y"], {}),
            ("Transpose", ["x"], ["e"], {"perm": [2, 0, 1]}),
            ("Transpose", ["e"], ["f"], {"perm": [2, 1, 0]}),
            ("Transpose", ["f"], ["g"], {"perm": [1, 0, 2]}),
            ("Transpose", ["g"], ["h"], {"perm": [0, 2, 1]}),
            ("Log", ["h"], ["z"], {}),
        ],
        {"y": (4, 6), "z": (2, 4, 3)},
        {"flat": np.array([24]), "zero": np.array([0]), "three": np.array([4, 6])},
    )
    folded = fold_constants(case)
    assert operators(folded) == ["Reshape", "Exp", "Transpose", "Log"]
    same_values(case, folded, x=X + 1)


def test_reductions_get_explicit_ascending_axes():
    case = program(
        [
            ("ReduceSum", ["x", "last"], ["a"], {"keepdims": 0}),
            ("ReduceSum", ["a"], ["y"], {"keepdims": 1}),
            ("ReduceSum", ["x", "none"], ["z"], {"noop_with_empty_axes": 1}),
        ],
        {"y": (1, 1), "z": (2, 3, 4)},
        {"last": np.array([-1]), "none": np.zeros(0, np.int64)},
    )
    folded = fold_constants(case)
    assert operators(folded) == ["ReduceSum", "ReduceSum", "Identity"]
    assert sorted(constants(folded).values()) == [[0, 1], [2]]
    same_values(case, folded)


def test_outputs_that_are_inputs_constants_or_twice_the_same_are_copied():
    case = program(
        [
            ("Identity", ["x"], ["a"], {}),
            ("Identity", ["c"], ["b"], {}),
            ("Exp", ["x"], ["t"], {}),
            ("Identity", ["t"], ["d"], {}),
            ("Identity", ["t"], ["e"], {}),
        ],
        {"a": (2, 3, 4), "b": (2,), "d": (2, 3, 4), "e": (2, 3, 4)},
        {"c": np.ones(2, np.float32)},
    )
    folded = fold_constants(case)
    assert sorted(operators(folded)) == ["Exp", "Identity", "Identity", "Identity"]
    same_values(case, folded)


def test_copies_stay_in_their_part_of_a_training_program():
    case = program(
        [
            ("Exp", ["x"], ["t"], {}),
            ("Identity", ["t"], ["y"], {}),
            ("Identity", ["t"], ["z"], {}),
            ("Neg", ["t"], ["w"], {}),
        ],
        {"y": (2, 3, 4), "z": (2, 3, 4), "w": (2, 3, 4)},
    )
    case.model.graph.node[3].doc_string = BACKWARD
    assert operators(fold_constants(case)) == ["Exp", "Identity", "Neg"]


def test_dead_nodes_and_absent_optional_outputs():
    case = program(
        [
            ("LayerNormalization", ["x", "w"], ["y", "m", "s"], {}),
            ("Exp", ["x"], ["dead"], {}),
            ("Shape", ["dead"], ["d"], {}),
        ],
        {"y": (2, 3, 4)},
        {"w": np.ones(4, np.float32)},
    )
    folded = fold_constants(case)
    assert operators(folded) == ["LayerNormalization"] and list(folded.model.graph.node[0].output) == ["y"]


def test_a_large_constant_is_not_written_out():
    case = program(
        [("ConstantOfShape", ["s"], ["zeros"], {}), ("Add", ["x", "zeros"], ["y"], {})],
        {"y": (300, 300)},
        {"s": np.array([300, 300])},
        {"x": (300, 300)},
    )
    folded = fold_constants(case)
    assert operators(folded) == ["ConstantOfShape", "Add"] and len(folded.to_bytes()) < 2000


def test_equal_constants_are_kept_once():
    case = program(
        [("Mul", ["x", "p"], ["a"], {}), ("Add", ["a", "q"], ["y"], {})],
        {"y": (2, 3, 4)},
        {"p": np.float32(2), "q": np.float32(2)},
    )
    assert constants(fold_constants(case)) == {"p": 2.0}


def test_folding_twice_changes_nothing():
    case = program(
        [
            ("Shape", ["x"], ["s"], {}),
            ("ConstantOfShape", ["s"], ["z"], {}),
            ("Sub", ["z", "x"], ["a"], {}),
            ("ReduceSum", ["a"], ["y"], {"keepdims": 0}),
        ],
        {"y": ()},
    )
    once = fold_constants(case)
    assert fold_constants(once).to_bytes() == once.to_bytes()
    same_values(case, once)


def test_every_tensor_gets_a_type():
    case = program([("Exp", ["x"], ["a"], {}), ("Log", ["a"], ["b"], {}), ("Neg", ["b"], ["y"], {})], {"y": (2, 3, 4)})
    found = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in fold_constants(case).model.graph.value_info
    }
    assert found == {"a": [2, 3, 4], "b": [2, 3, 4]}


def test_a_wrong_declaration_is_found_and_named():
    case = program([("Exp", ["x"], ["a"], {}), ("Neg", ["a"], ["y"], {})], {"y": (2, 3, 4)}, described={"a": (2, 3)})
    with pytest.raises(CompileError, match=r"'n0' \(Exp\).*\[2, 3\].*\[2, 3, 4\]"):
        fold_constants(case)


def test_unknown_operators_and_control_flow_are_named():
    with pytest.raises(UnsupportedOperatorError, match="'n0'.*elsewhere::Thing"):
        fold_constants(program([("elsewhere::Thing", ["x"], ["a"], {}), ("Neg", ["a"], ["y"], {})], {"y": (2, 3, 4)}))
    body = helper.make_graph([], "body", [], [])
    loop = program([("If", ["x"], ["y"], {"then_branch": body, "else_branch": body})], {"y": (2, 3, 4)})
    with pytest.raises(UnsupportedOperatorError, match="'n0'.*control flow"):
        fold_constants(loop)
