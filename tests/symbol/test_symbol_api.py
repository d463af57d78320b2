"""What a Symbol does beyond the recorded cases: copies, files, messages, large graphs."""

import copy
import json
import pickle
import time
import warnings

import numpy as np
import pytest

import bucketmod as mx
from bucketmod.symbol.inference import infer_shapes

S = mx.sym


def two_layers():
    net = S.FullyConnected(S.Variable("data"), num_hidden=4, name="fc1")
    return S.SoftmaxOutput(S.FullyConnected(net, num_hidden=3, name="fc2"), name="softmax")


def test_copies_share_nothing_with_the_original():
    net = two_layers()
    for other in (net.copy(), copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.tojson() == net.tojson()
        other._set_attr(ctx_group="dev1")
        assert net.attr("ctx_group") is None and other.attr("ctx_group") == "dev1"


def test_composition_leaves_the_original_alone():
    net = two_layers()
    composed = net(data=S.Variable("x") * 2)
    assert net.list_arguments()[0] == "data"
    assert composed.list_arguments()[0] == "x"
    assert net(data=S.Variable("x"), name="head").list_outputs() == ["head_output"]


def test_composition_keeps_shared_nodes_shared():
    weight = S.Variable("w")
    net = S.FullyConnected(
        S.FullyConnected(S.Variable("data"), weight, num_hidden=3, no_bias=True), weight, num_hidden=3
    )
    assert net(w=S.Variable("u")).list_arguments().count("u") == 1


def test_numbers_of_numpy_stand_on_either_side():
    data = S.Variable("data")
    for node in (np.float32(2) * data, data * np.float64(2.0), 2.0 * data):
        assert isinstance(node, S.Symbol) and node.attr("scalar") == "2.0"
    assert S.Reshape(data, shape=(np.int64(2), -1)).attr("shape") == "(2, -1)"


def test_truth_value_and_numbers_are_refused_by_name():
    with pytest.raises(mx.base.NotImplementedForSymbol, match="__bool__"):
        bool(S.Variable("data"))
    with pytest.raises(mx.base.NotImplementedForSymbol, match="asnumpy"):
        S.Variable("data").asnumpy()


def test_a_contradiction_names_the_node_and_its_inputs():
    net = S.elemwise_add(
        S.FullyConnected(S.Variable("data"), num_hidden=4, name="fc1"), S.Variable("other"), name="sum1"
    )
    with pytest.raises(mx.MXNetError, match=r"elemwise_add.*'sum1'.*fc1_output \(2, 4\), other \(2, 5\)"):
        net.infer_shape(data=(2, 3), other=(2, 5))


def test_an_open_shape_warns_and_lists_it():
    with pytest.warns(UserWarning, match="data"):
        assert two_layers().infer_shape() == (None, None, None)


def shapes_of(net, **given):
    """Shape of every output of every node, by name."""
    found = infer_shapes(net.topological_nodes(), given)
    return {node.output_name(i): shape for node, shapes in found.items() for i, shape in enumerate(shapes)}


def test_shapes_are_known_for_every_output_of_every_node():
    shapes = shapes_of(S.Dropout(S.LayerNorm(S.Variable("data"), name="ln"), name="drop"), data=(2, 3))
    assert shapes["ln_mean"] == (2, 1) and shapes["drop_mask"] == (2, 3) and shapes["ln_gamma"] == (3,)


def test_a_given_shape_wins_over_a_declared_one():
    data = S.Variable("data", shape=(8, 3))
    assert S.relu(data).infer_shape()[1] == [(8, 3)]
    assert S.relu(data).infer_shape(data=(4, 3))[1] == [(4, 3)]


def test_begin_states_are_completed_from_the_data():
    h = S.FullyConnected(S.Variable("data"), num_hidden=4) + S.FullyConnected(
        S.zeros((0, 5), name="begin"), num_hidden=4
    )
    assert shapes_of(h, data=(7, 3))["begin_output"] == (7, 5)


def test_knowledge_travels_back_through_a_chain_of_reshaping():
    data = S.Variable("data")
    out = S.expand_dims(S.SwapAxis(S.transpose(data, axes=(1, 0)), dim1=0, dim2=1), axis=0) + S.Variable("known")
    assert out.infer_shape(known=(1, 2, 3))[0][0] == (2, 3)


def test_an_unknown_operator_is_named():
    with pytest.raises(AttributeError, match="NoSuchLayer"):
        S.NoSuchLayer  # noqa: B018
    text = two_layers().tojson().replace('"FullyConnected"', '"NoSuchLayer"', 1)
    with pytest.raises(mx.MXNetError, match=r"node 3 'fc1' \(NoSuchLayer\)"):
        S.load_json(text)


def test_files_round_trip(tmp_path):
    path = str(tmp_path / "net-symbol.json")
    two_layers().save(path)
    assert S.load(path).tojson() == two_layers().tojson()
    with pytest.raises(TypeError):
        two_layers().save(3)
    (tmp_path / "cut.json").write_text(two_layers().tojson()[:300])
    with pytest.raises(mx.MXNetError, match="cut.json"):
        S.load(str(tmp_path / "cut.json"))


def test_old_files_are_read():
    """Attributes under param and attr, hidden keys without underscores, arguments left out."""
    old = {
        "nodes": [
            {
                "op": "null",
                "param": {},
                "name": "data",
                "inputs": [],
                "backward_source_id": -1,
                "attr": {"lr_mult": "2"},
            },
            {
                "op": "FullyConnected",
                "param": {"num_hidden": "3", "no_bias": "False"},
                "name": "fc",
                "inputs": [[0, 0]],
                "backward_source_id": -1,
                "attr": {"ctx_group": "dev1", "owner": "me"},
            },
        ],
        "arg_nodes": [0],
        "heads": [[1, 0]],
    }
    net = S.load_json(json.dumps(old))
    assert net.list_arguments() == ["data", "fc_weight", "fc_bias"]
    assert net.attr("num_hidden") == "3" and net.attr("ctx_group") == "dev1" and net.attr("__owner__") == "me"
    assert net.attr_dict()["data"]["lr_mult"] == "2"


NODE = {"op": "relu", "name": "r", "inputs": [[0, 0, 0]]}
VARIABLE = {"op": "null", "name": "x", "inputs": []}


@pytest.mark.parametrize(
    "graph",
    [
        [],
        3,
        {"nodes": 3, "heads": []},
        {"nodes": [VARIABLE], "heads": []},
        {"nodes": [VARIABLE], "heads": [[1, 0, 0]]},
        {"nodes": [VARIABLE], "heads": [[0, 1, 0]]},
        {"nodes": [VARIABLE], "heads": [[-1, 0, 0]]},
        {"nodes": [VARIABLE], "heads": [["0", 0, 0]]},
        {"nodes": [VARIABLE], "heads": [[0]]},
        {"nodes": [VARIABLE], "heads": [7]},
        {"nodes": [NODE, VARIABLE], "heads": [[0, 0, 0]]},
        {"nodes": [VARIABLE, {**NODE, "inputs": [[1, 0, 0]]}], "heads": [[1, 0, 0]]},
        {"nodes": [VARIABLE, {**NODE, "inputs": [[0, 0, 0]] * 3}], "heads": [[1, 0, 0]]},
        {"nodes": [VARIABLE, {**NODE, "inputs": "all"}], "heads": [[1, 0, 0]]},
        {"nodes": [VARIABLE, {**NODE, "attrs": {"a": 3}}], "heads": [[1, 0, 0]]},
        {"nodes": [VARIABLE, {**NODE, "attrs": ["a"]}], "heads": [[1, 0, 0]]},
        {"nodes": [VARIABLE, {**NODE, "op": "Activation"}], "heads": [[1, 0, 0]]},
        {"nodes": [{**VARIABLE, "name": None}], "heads": [[0, 0, 0]]},
        {"nodes": [{**VARIABLE, "inputs": [[0, 0, 0]]}], "heads": [[0, 0, 0]]},
        {"nodes": ["x"], "heads": [[0, 0, 0]]},
        {
            "nodes": [VARIABLE, {**NODE, "op": "split", "attrs": {"num_outputs": "1000000000000"}}],
            "heads": [[1, 0, 0]],
        },
        {"nodes": [{**NODE, "op": "Concat", "inputs": [], "attrs": {"num_args": "99999999999"}}], "heads": [[0, 0, 0]]},
    ],
    ids=lambda graph: json.dumps(graph)[:90],
)
def test_hostile_json_is_a_clear_error(graph):
    with pytest.raises(mx.MXNetError):
        S.load_json(json.dumps(graph))


def test_deeply_nested_json_is_a_clear_error():
    with pytest.raises(mx.MXNetError):
        S.load_json("[" * 200_000)


def test_a_very_deep_graph_needs_no_recursion():
    net = data = S.Variable("data")
    for _ in range(20_000):
        net = net + 1
    assert net.infer_shape(data=(2,))[1] == [(2,)]
    assert S.load_json(net.tojson()).list_arguments() == ["data"]
    assert copy.deepcopy(net)(data=data).list_arguments() == ["data"]


def unrolled(steps, layers=2, hidden=8):
    inputs = list(
        S.split(
            S.Embedding(S.Variable("data"), input_dim=9, output_dim=8), num_outputs=steps, axis=1, squeeze_axis=True
        )
    )
    for layer in range(layers):
        weights = [S.Variable(f"l{layer}_{n}") for n in ("wi", "bi", "wh", "bh")]
        h, c, outputs = S.zeros((0, hidden)), S.zeros((0, hidden)), []
        for x in inputs:
            gates = S.FullyConnected(x, *weights[:2], num_hidden=4 * hidden)
            gates = gates + S.FullyConnected(h, *weights[2:], num_hidden=4 * hidden)
            parts = S.SliceChannel(gates, num_outputs=4)
            i, f, o = (S.Activation(parts[k], act_type="sigmoid") for k in (0, 1, 3))
            c = f * c + i * S.Activation(parts[2], act_type="tanh")
            h = o * S.Activation(c, act_type="tanh")
            outputs.append(h)
        inputs = outputs
    return S.Concat(*inputs, dim=1)


def test_an_unrolled_graph_is_handled_in_milliseconds():
    """Guards against quadratic walks: these take about 20 ms each, and one such walk would take seconds."""

    def seconds(action):
        start = time.process_time()
        action()
        return time.process_time() - start

    net = unrolled(120)
    assert len(net.topological_nodes()) > 2900
    actions = [
        lambda: unrolled(120),
        lambda: net.infer_shape(data=(4, 120)),
        lambda: net.infer_type(data="float32"),
        net.tojson,
        lambda: S.load_json(net.tojson()),
        net.list_arguments,
        net.get_internals,
    ]
    for action in actions:
        assert min(seconds(action) for _ in range(3)) < 1.0


def test_two_variables_of_one_name_stay_two_arguments():
    assert (S.Variable("x") + S.Variable("x")).list_arguments() == ["x", "x"]


def test_symbols_are_dictionary_keys_by_identity():
    a, b = S.Variable("a"), S.Variable("a")
    assert len({a: 1, b: 2}) == 2


def test_fluent_methods_exist_for_the_operators_at_hand():
    data = S.Variable("data")
    methods = [m for m in dir(S.Symbol) if not m.startswith("_")]
    for method in ("sum", "reshape", "softmax", "slice_axis", "transpose", "astype", "one_hot", "take", "split"):
        assert method in methods
    assert data.reshape((2, -1)).sum(axis=1).infer_shape(data=(4, 3))[1] == [(2,)]


def test_warnings_are_not_raised_when_all_is_known():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two_layers().infer_shape(data=(2, 3))
