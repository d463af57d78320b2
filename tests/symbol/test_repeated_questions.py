"""A symbol remembers its walk over the graph, and inference what a rule made of equal nodes: neither may be stale."""

import pickle

import numpy as np

import bucketmod as mx


def test_a_changed_attribute_counts_at_the_next_inference():
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="fc")
    assert net.infer_shape(data=(2, 4))[1] == [(2, 3)]
    net._set_attr(num_hidden="5")
    assert net.infer_shape(data=(2, 4)) == ([(2, 4), (5, 4), (5,)], [(2, 5)], [])


def test_other_outputs_are_another_graph():
    a, b = mx.sym.Variable("a"), mx.sym.Variable("b")
    group = mx.sym.Group([a])
    assert group.list_arguments() == ["a"]
    group.outputs.append(b.outputs[0])
    assert group.list_arguments() == ["a", "b"] and len(group.topological_nodes()) == 2


def test_the_list_of_nodes_belongs_to_the_caller():
    net = mx.sym.BatchNorm(mx.sym.Variable("data"), name="bn")
    net.topological_nodes().clear()
    net.list_arguments().clear()
    assert net.list_arguments() == ["data", "bn_gamma", "bn_beta"]
    assert net.list_auxiliary_states() == ["bn_moving_mean", "bn_moving_var"]


def test_a_pickled_symbol_answers_as_before():
    net = mx.sym.Activation(mx.sym.Variable("data"), act_type="relu", name="act")
    assert net.list_inputs() == ["data"]
    copy = pickle.loads(pickle.dumps(net))
    assert copy.list_inputs() == ["data"] and copy.list_outputs() == ["act_output"]


def test_equal_operators_on_other_shapes_are_told_apart():
    first, second = mx.sym.Variable("first"), mx.sym.Variable("second")
    weight = mx.sym.Variable("weight")
    steps = [
        mx.sym.FullyConnected(x, weight=weight, num_hidden=4, no_bias=True, flatten=False) for x in (first, second)
    ]
    found = mx.sym.Group(steps).infer_shape(first=(2, 3), second=(5, 7, 3))
    assert found == ([(2, 3), (4, 3), (5, 7, 3)], [(2, 4), (5, 7, 4)], [])


def test_what_a_later_node_tells_reaches_earlier_ones():
    x, z = mx.sym.Variable("x"), mx.sym.Variable("z")
    net = mx.sym.Group([mx.sym.exp(mx.sym.relu(x)), x + z])
    assert net.infer_shape(z=(2, 3)) == ([(2, 3), (2, 3)], [(2, 3), (2, 3)], [])
    assert net.infer_type(z="float64")[1] == [np.float64, np.float64]
