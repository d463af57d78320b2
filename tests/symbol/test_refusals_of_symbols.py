"""What symbols refuse, and how they say it; and what they show of themselves."""

from __future__ import annotations

import operator

import numpy as np
import pytest

import bucketmod as mx
from bucketmod.base import NotImplementedForSymbol


def two():
    return mx.sym.Group([mx.sym.Variable("a"), mx.sym.Variable("b") * 2])


def test_a_group_has_no_name_and_no_attributes():
    group = two()
    assert group.name is None and group.attr("x") is None and group.list_attr() == {}
    assert repr(group).startswith("<Symbol group [a, _mulscalar")
    with pytest.raises(mx.MXNetError, match="group"):
        group._set_attr(x="1")
    assert repr(mx.sym.Variable("a")) == "<Symbol a>"


@pytest.mark.parametrize(
    "index, error", [("nothing", ValueError), (2.0, TypeError), (True, TypeError), (9, IndexError)]
)
def test_indices_that_are_none(index, error):
    with pytest.raises(error):
        two()[index]
    assert len(two()[0:1]) == 1


def test_composition_takes_symbols_by_keyword():
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="fc")
    other = mx.sym.Variable("other")
    for args, kwargs, error in (
        ((other,), {"data": other}, TypeError),
        ((3,), {}, TypeError),
        ((other,), {}, mx.MXNetError),
        ((), {"nothing": other}, mx.MXNetError),
    ):
        with pytest.raises(error):
            net(*args, **kwargs)
    assert "other" in net(data=other).list_arguments()


def test_attributes_are_text():
    variable = mx.sym.Variable("a", lr_mult=2, profiler_scope="there", stype="default")
    assert variable.attr("name") == "a" and variable.attr("__profiler_scope__") == "there"
    assert variable.attr("lr_mult") == "2" and mx.sym.relu(variable).attr("op_name") == "relu"
    with pytest.raises(ValueError, match="text"):
        variable._set_attr(x=1)
    with pytest.raises(DeprecationWarning):
        variable.list_attr(recursive=True)
    for wrong, error in (
        ({"stype": "diagonal"}, ValueError),
        ({"dtype": "complex64"}, TypeError),
        ({"colour": 3}, ValueError),
    ):
        with pytest.raises(error):
            mx.sym.Variable("a", **wrong)
    with pytest.raises(ValueError, match="text"):
        mx.sym.relu(variable, attr={"x": 1})


def test_shapes_are_given_by_position_or_by_keyword():
    net = mx.sym.Variable("a") + mx.sym.Variable("b")
    assert net.infer_shape((2, 3))[1] == [(2, 3)]
    with pytest.raises(ValueError, match="both"):
        net.infer_shape((2, 3), b=(2, 3))
    with pytest.raises(mx.MXNetError, match="3 given for 2"):
        net.infer_shape((2,), (2,), (2,))


@pytest.mark.parametrize("name", ["iadd", "isub", "imul", "itruediv", "imod"])
def test_symbols_do_not_change_in_place(name):
    with pytest.raises(NotImplementedForSymbol):
        getattr(operator, name)(mx.sym.Variable("a"), mx.sym.Variable("b"))


@pytest.mark.parametrize("name", ["asnumpy", "asscalar", "wait_to_read", "as_in_context", "detach", "backward"])
def test_a_symbol_holds_no_numbers(name):
    with pytest.raises(NotImplementedForSymbol, match=name):
        getattr(mx.sym.Variable("a"), name)()


def test_other_interfaces():
    variable = mx.sym.Variable("a")
    assert variable.as_nd_ndarray() is variable
    with pytest.raises(NotImplementedError, match="numpy"):
        variable.as_np_ndarray()
    with pytest.raises(mx.MXNetError, match="gradient"):
        variable.gradient(["a"])
    with pytest.raises(NotImplementedForSymbol):
        bool(variable)


def test_there_is_one_backend():
    for call in (mx.sym.Variable("a").get_backend_symbol, mx.sym.Variable("a").optimize_for):
        with pytest.raises(NotImplementedError, match="other"):
            call("other")


def test_functions_check_what_they_get():
    data = mx.sym.Variable("data")
    for call, error in (
        (lambda: mx.sym.relu(data, data, 3, 4, 5), TypeError),
        (lambda: mx.sym.relu(data, data=data), TypeError),
        (lambda: mx.sym.relu(np.ones(3)), TypeError),
        (lambda: mx.sym.Concat(data, 3), TypeError),
        (lambda: mx.sym.Concat(data, other=data), TypeError),
        (lambda: mx.sym.Concat(), mx.MXNetError),
    ):
        with pytest.raises(error):
            call()
    assert mx.sym.maximum(2, 5) == 5 and mx.sym.maximum(data, 2).name.startswith("_maximum")


def test_activations_of_arrays():
    data = mx.nd.array([-1.0, 0.5])
    with pytest.raises(mx.MXNetError, match="act_type"):
        mx.nd.Activation(data, act_type="steep")
    np.testing.assert_allclose(mx.nd.Activation(data, act_type="softsign").asnumpy(), [-0.5, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(mx.nd.Activation(data, act_type="softrelu").asnumpy(), np.log1p(np.exp([-1, 0.5])), 1e-6)
