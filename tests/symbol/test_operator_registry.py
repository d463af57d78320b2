"""Attribute texts, registration and robustness of the rules."""

import inspect
import json
import random

import pytest

import bucketmod as mx
from bucketmod.base import OperatorError
from bucketmod.operators import get_op, op_names, register, registry, shapes
from bucketmod.operators.parameters import read_dims

OPERATORS = sorted({get_op(name) for name in op_names()}, key=lambda op: op.name)


@pytest.mark.parametrize(
    ("text", "value"),
    [("(1, 2)", (1, 2)), ("[1,2]", (1, 2)), ("(1,)", (1,)), ("()", ()), ("[]", ()), ("3", (3,)), ("(1L, 2L)", (1, 2))],
)
def test_tuples_are_read_in_all_their_spellings(text, value):
    assert read_dims(text) == value


@pytest.mark.parametrize("text", ["(1, 2", "1, x", "(1.5,)", "((1,), 2)", "", "(,)"])
def test_what_is_no_tuple_is_refused(text):
    if text == "":
        assert read_dims(text) == ()
        return
    with pytest.raises(ValueError):
        read_dims(text)


def test_attributes_come_typed_with_defaults():
    parsed = get_op("SoftmaxOutput").parse({"grad_scale": "1e-5", "use_ignore": "1", "__mine__": "x"})
    assert (parsed["grad_scale"], parsed["use_ignore"], parsed["multi_output"]) == (1e-5, True, False)
    assert "__mine__" not in parsed
    assert get_op("sum").parse({"axis": "None"})["axis"] is None
    assert get_op("slice").parse({"begin": "(None, 1)", "end": "(2, None)"})["begin"] == (None, 1)


@pytest.mark.parametrize(
    ("name", "attrs", "words"),
    [
        ("FullyConnected", {}, "needs the attribute num_hidden"),
        ("FullyConnected", {"num_hidden": "0"}, "num_hidden='0'"),
        ("Activation", {"act_type": "swish"}, "relu, sigmoid"),
        ("Dropout", {"p": "half"}, "not a float"),
        ("Dropout", {"rate": "0.5"}, "no attribute 'rate'; it has: p"),
        ("NoSuchLayer", {}, "'NoSuchLayer' is not available"),
    ],
)
def test_wrong_attributes_say_what_was_expected(name, attrs, words):
    with pytest.raises(OperatorError, match=words):
        get_op(name).parse(attrs)


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_every_operator_is_documented_and_has_a_function(op):
    function = mx.sym.functions.OPERATOR_FUNCTIONS[op.name]
    assert op.doc and op.doc in function.__doc__
    assert list(inspect.signature(function).parameters)[-1] == "kwargs"


def test_auxiliary_states_are_kept_apart_from_arguments(monkeypatch):
    """As batch normalisation will need it: a state after the arguments, with an initial value of its own."""

    monkeypatch.setattr(registry, "_BY_NAME", dict(registry._BY_NAME))  # other tests list all operators

    def rule(attrs, ins, outs):
        shapes.outputs_like_first(attrs, ins[:1], outs)
        outs[0] = ins[0]
        if ins[0] is not None:
            ins[1] = ins[2] = (ins[0][1],)

    name = "_test_operator_with_a_state"
    initial = {"moving": {"__init__": '["zero", {}]'}}
    register(name, ["data", "gamma"], aux=["moving"], shape=rule, variable_attrs=initial, doc="For this test.")
    net = mx.sym.functions.operator_function(name)(mx.sym.Variable("data"), name="bn")
    assert net.list_arguments() == ["data", "bn_gamma"] and net.list_auxiliary_states() == ["bn_moving"]
    assert net.list_inputs() == ["data", "bn_gamma", "bn_moving"]
    assert net.infer_shape(data=(2, 3)) == ([(2, 3), (3,)], [(2, 3)], [(3,)])
    assert net.attr_dict()["bn_moving"] == initial["moving"]
    record = json.loads(net.tojson())
    assert record["nodes"][-1]["inputs"] == [[0, 0, 0], [1, 0, 0], [2, 0, 1]]
    assert mx.sym.load_json(net.tojson()).list_auxiliary_states() == ["bn_moving"]
    given = mx.sym.functions.operator_function(name)(*map(mx.sym.Variable, "xyz"))
    assert (given.list_arguments(), given.list_auxiliary_states()) == (["x", "y"], ["z"])


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="twice"):
        register("Activation", shape=shapes.same)


def _value(param, chance):
    if param.kind.startswith("one of"):
        return chance.choice(param.kind[len("one of ") :].split(", "))
    if "boolean" in param.kind:
        return chance.choice(["True", "False"])
    if param.kind.startswith("tuple"):
        return str(tuple(chance.choice([-4, -3, -2, -1, 0, 1, 2, 3, 5]) for _ in range(chance.randint(0, 4))))
    return str(chance.randint(-3, 6)) if param.kind.startswith("int") else "0.5"


def _shape(chance):
    return None if chance.random() < 0.3 else tuple(chance.choice([0, 1, 2, 3, 4]) for _ in range(chance.randint(1, 4)))


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_shape_rules_meet_any_shapes_with_an_answer_or_a_value_error(op):
    chance = random.Random(op.name)
    for _ in range(100):
        attrs = {p.name: _value(p, chance) for p in op.params if p.required or chance.random() < 0.6}
        try:
            parsed = op.parse(attrs)
        except OperatorError:
            continue
        ins = [_shape(chance) for _ in [*op.inputs(parsed), *op.aux(parsed)]]
        outs = [None] * op.num_outputs(parsed)
        try:
            ins, outs, aux = op.infer_shape(parsed, ins, outs)
        except ValueError:
            continue
        found = (len(ins), len(outs), len(aux))
        assert found == (len(op.inputs(parsed)), op.num_outputs(parsed), len(op.aux(parsed)))
        assert all(d >= 0 for shape in [*ins, *outs] if shape is not None for d in shape)


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_a_second_look_learns_nothing_new_and_contradicts_nothing(op):
    chance = random.Random(op.name)
    for _ in range(50):
        attrs = {p.name: _value(p, chance) for p in op.params if p.required or chance.random() < 0.3}
        try:
            parsed = op.parse(attrs)
            given = [_shape(chance) for _ in [*op.inputs(parsed), *op.aux(parsed)]]
            once = op.infer_shape(parsed, given, [None] * op.num_outputs(parsed))
        except ValueError:
            continue
        except OperatorError:
            continue
        twice = op.infer_shape(parsed, [*once[0], *once[2]], once[1])
        for before, after in zip([*once[0], *once[1]], [*twice[0], *twice[1]], strict=True):
            assert shapes.unify(before, after) == after or not after
