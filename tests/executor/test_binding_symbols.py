"""Symbol.bind, simple_bind and eval: which arrays an executor works on, and what is refused. The classes of errors are
those of MXNet 1.9.1, asked case by case."""

from __future__ import annotations

import numpy as np
import pytest

import bucketmod as mx


def array(*numbers):
    return mx.nd.array(numbers)


def doubled_sum():
    """2 a + b, under the same names each time, so that it is compiled once."""
    with mx.name.NameManager():
        return 2 * mx.sym.Variable("a") + mx.sym.Variable("b")


def bound(grads=True, **options):
    a, b, head = array(1, 2), array(3, 4), {"a": mx.nd.zeros((2,)), "b": mx.nd.zeros((2,))}
    return doubled_sum().bind(mx.cpu(), {"a": a, "b": b}, head if grads else None, **options)


def classifier():
    scores = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="fc")
    return mx.sym.SoftmaxOutput(scores, name="softmax")


def test_arrays_are_used_in_place():
    a, b, gradient = array(1, 2), array(3, 4), mx.nd.zeros((2,))
    executor = doubled_sum().bind(mx.cpu(), [a, b], [None, gradient])
    assert executor.arg_arrays[0] is a and executor.grad_dict == {"a": None, "b": gradient}
    a[:] = array(10, 20)
    (output,) = executor.forward(is_train=True)
    np.testing.assert_array_equal(output.asnumpy(), [23, 44])
    executor.backward(array(5, 6))
    np.testing.assert_array_equal(gradient.asnumpy(), [5, 6])


def test_outputs_are_there_before_and_after_each_forward():
    executor = bound()
    assert [output.shape for output in executor.outputs] == [(2,)]
    executor.forward(a=np.array([7.0, 8.0]))
    held = executor.outputs[0]
    assert list(executor.output_dict) == executor._symbol.list_outputs()
    np.testing.assert_array_equal(held.asnumpy(), [17, 20])
    executor.forward(a=array(0, 0))
    np.testing.assert_array_equal(held.asnumpy(), [3, 4])
    assert executor.outputs[0].asnumpy().tolist() == [3, 4]


def test_gradient_requests():
    executor = bound(grad_req={"a": "add"})
    executor.forward(is_train=True)
    for _ in range(2):
        executor.backward(array(1, 10))
    np.testing.assert_array_equal(executor.grad_dict["a"].asnumpy(), [4, 40])
    np.testing.assert_array_equal(executor.grad_dict["b"].asnumpy(), [0, 0])
    for silent in (bound(grads=False), bound(grad_req="null")):
        silent.forward(is_train=True)
        silent.backward()
    assert bound(grads=False).grad_arrays is None


def test_backward_needs_no_forward_in_training_mode_before_it():
    for prepare in (lambda executor: None, lambda executor: executor.forward(is_train=False)):
        executor = bound()
        prepare(executor)
        executor.backward(array(2, 3))
        np.testing.assert_array_equal(executor.grad_dict["a"].asnumpy(), [4, 6])
    executor.backward(array(1, 1), is_train=False)
    np.testing.assert_array_equal(executor.grad_dict["a"].asnumpy(), [2, 2])


def test_backward_without_training_mode_leaves_dropout_out():
    symbol = mx.sym.Dropout(mx.sym.Variable("x"), p=0.5, name="drop")
    x, gradient = mx.nd.ones((4, 50)), mx.nd.zeros((4, 50))
    executor = symbol.bind(mx.cpu(), [x], [gradient])
    executor.backward(mx.nd.ones((4, 50)), is_train=False)
    np.testing.assert_array_equal(gradient.asnumpy(), 1)
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones((4, 50)))
    np.testing.assert_array_equal(gradient.asnumpy(), executor.outputs[0].asnumpy())
    assert set(np.unique(gradient.asnumpy())) == {0, 2}


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda e: e.forward(z=array(1, 2)), TypeError, "Unknown argument z"),
        (lambda e: e.forward(a=array(1, 2, 3)), ValueError, "Argument a"),
        (lambda e: e.forward(a=[1, 2]), ValueError, "numpy"),
        (lambda e: e.backward(), mx.MXNetError, "not a loss"),
        (lambda e: e.backward([array(1, 2, 3)]), mx.MXNetError, r"\(3,\)"),
        (lambda e: e.backward(np.ones(2)), TypeError, "NDArray"),
        (lambda e: e.backward({"other": array(1, 2)}), KeyError, "_output"),
        (lambda e: e.copy_params_from({"z": array(1)}), ValueError, '"z" that is not in the arguments'),
        (lambda e: e.copy_params_from({}, {"z": array(1)}), ValueError, "auxiliary"),
        (lambda e: e.copy_params_from({"a": array(1, 2, 3)}), mx.MXNetError, "shape"),
    ],
)
def test_what_executors_refuse(call, error, text):
    executor = bound()
    executor.forward(is_train=True)
    with pytest.raises(error, match=text):
        call(executor)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((mx.cpu(), {"a": array(1, 2)}), ValueError, "`b` is missing in `args`"),
        ((mx.cpu(), [array(1, 2)]), ValueError, "Length of args"),
        ((mx.cpu(), (array(1, 2), array(1, 2))), TypeError, "list of NDArrays or a dict"),
        ((mx.cpu(), [np.ones(2), np.ones(2)]), TypeError, "for a"),
        (("cpu", [array(1, 2), array(1, 2)]), TypeError, "Context"),
        ((mx.gpu(), [array(1, 2), array(1, 2)]), NotImplementedError, "CUDA"),
        ((mx.cpu(1), [array(1, 2), array(1, 2)]), mx.MXNetError, r"in cpu\(0\) while binding with ctx=cpu\(1\)"),
        ((mx.cpu(), [array(1, 2), array(1, 2, 3)]), mx.MXNetError, "_plus"),
        ((mx.cpu(), [array(1, 2), array(1, 2)], [array(1), None]), mx.MXNetError, "args_grad of a"),
        ((mx.cpu(), [array(1, 2), array(1, 2)], None, "some"), ValueError, "null, write, add"),
        ((mx.cpu(), [array(1, 2), array(1, 2)], None, ["write", "some"]), KeyError, "some"),
        ((mx.cpu(), [array(1, 2), array(1, 2)], None, ["write"]), ValueError, "1 entries for 2"),
        ((mx.cpu(), [array(1, 2), array(1, 2)], None, ("write", "add")), TypeError, "grad_req"),
    ],
)
def test_what_bind_refuses(arguments, error, text):
    with pytest.raises(error, match=text):
        doubled_sum().bind(*arguments)


def test_eval_binds_and_runs():
    (found,) = doubled_sum().eval(a=array(1, 2), b=array(3, 4), unused=array(1))
    np.testing.assert_array_equal(found.asnumpy(), [5, 8])
    with pytest.raises(ValueError, match="`b` is missing"):
        doubled_sum().eval(a=array(1, 2))
    (found,) = doubled_sum().eval(mx.cpu(1), a=mx.nd.ones((2,), mx.cpu(1)), b=mx.nd.ones((2,), mx.cpu(1)))
    assert found.context == mx.cpu(1)


def test_two_variables_of_one_name():
    symbol = mx.sym.Variable("a") + mx.sym.Variable("a")
    with pytest.raises(mx.MXNetError, match="have the name a"):
        symbol.bind(mx.cpu(), [array(1), array(1)])
    with pytest.raises(RuntimeError, match="have the name a"):
        symbol.simple_bind(mx.cpu(), a=(1,))
    twice = doubled_sum()
    with pytest.raises(ValueError, match="Duplicate"):
        mx.sym.Group([twice, twice]).bind(mx.cpu(), [array(1), array(2)]).output_dict  # noqa: B018


def test_simple_bind_makes_arrays():
    executor = classifier().simple_bind(mx.cpu(), data=(4, 5), unknown=(3,), fc_bias=None)
    assert {name: a.shape for name, a in executor.arg_dict.items()} == {
        "data": (4, 5), "fc_weight": (3, 5), "fc_bias": (3,), "softmax_label": (4,)
    }  # fmt: skip
    assert [g.shape for g in executor.grad_arrays] == [(4, 5), (3, 5), (3,), (4,)]
    assert not any(a.asnumpy().any() for a in executor.arg_arrays) and executor.aux_dict == {}
    some = classifier().simple_bind(mx.cpu(), grad_req=["null", "write", "write", "null"], data=(4, 5))
    assert [g is None for g in some.grad_arrays] == [True, False, False, True]
    some = classifier().simple_bind(mx.cpu(), grad_req={"fc_weight": "write"}, data=(4, 5))
    assert [g is None for g in some.grad_arrays] == [True, False, True, True]
    assert "Total 0 MB allocated" in some.debug_str().split("\n")[-3]
    assert some.get_optimized_symbol().list_arguments() == list(some.arg_dict)


def test_simple_bind_takes_types():
    executor = doubled_sum().simple_bind(mx.cpu(), type_dict={"a": "float64", "b": np.float64}, a=(2,), b=(2,))
    assert executor.arg_dict["a"].dtype == executor.grad_dict["b"].dtype == np.float64


@pytest.mark.parametrize(
    "options",
    [
        {"data": (4, 5), "fc_weight": (3, 6)},
        {},
        {"grad_req": [], "data": (4, 5)},
        {"grad_req": "some", "data": (4, 5)},
        {"grad_req": ["write"], "data": (4, 5)},
    ],
)
def test_what_simple_bind_refuses(options):
    with pytest.raises(RuntimeError, match="simple_bind"):
        classifier().simple_bind(mx.cpu(), **options)


def test_other_refusals_of_simple_bind():
    with pytest.raises(ValueError, match="shared_arg_names"):
        classifier().simple_bind(mx.cpu(), data=(4, 5), shared_arg_names=("fc_weight",))
    with pytest.raises(ValueError, match="shared_buffer"):
        classifier().simple_bind(mx.cpu(), data=(4, 5), shared_buffer=[])
    with pytest.raises(NotImplementedError, match="row_sparse"):
        classifier().simple_bind(mx.cpu(), data=(4, 5), stype_dict={"fc_weight": "row_sparse"})


def test_arrays_shared_between_executors():
    first, pool = classifier().simple_bind(mx.cpu(), data=(4, 5)), {}
    names = ["fc_weight", "fc_bias"]
    second = classifier().simple_bind(mx.cpu(), data=(2, 5), shared_exec=first, shared_arg_names=names,
                                      shared_buffer=pool)  # fmt: skip
    assert second.arg_dict["fc_weight"] is first.arg_dict["fc_weight"]
    assert second.grad_dict["fc_bias"] is first.grad_dict["fc_bias"]
    assert set(pool) == {"data", "grad of data", "softmax_label", "grad of softmax_label"}
    third = classifier().simple_bind(mx.cpu(), data=(1, 5), shared_buffer=pool)
    second.arg_dict["data"][:] = 5
    assert third.arg_dict["data"].asnumpy().tolist() == [[5] * 5]
    classifier().simple_bind(mx.cpu(), data=(8, 5), shared_buffer=pool)
    assert pool["data"].shape == (8, 5)
    with pytest.raises(mx.MXNetError, match="fc_weight is shared"):
        classifier().simple_bind(mx.cpu(), data=(2, 6), shared_exec=first, shared_arg_names=names)


def test_executors_that_share_working_memory_overwrite_each_other():
    first = bound()
    second = doubled_sum().bind(mx.cpu(), [array(1, 2), array(3, 4)], [array(0, 0), array(0, 0)], shared_exec=first)
    first.forward(is_train=True)
    second.forward(is_train=True)
    with pytest.raises(mx.MXNetError, match="another bucket"):
        first.backward(array(1, 1))
    second.backward(array(1, 1))


def test_reshape_shares_memory():
    executor = classifier().simple_bind(mx.cpu(), data=(4, 5))
    executor.arg_dict["data"][:] = 9
    small = executor.reshape(data=(2, 5), softmax_label=(2,))
    assert [a.shape for a in small.arg_arrays] == [g.shape for g in small.grad_arrays] == [(2, 5), (3, 5), (3,), (2,)]
    assert small.arg_dict["data"].asnumpy().tolist() == [[9] * 5] * 2
    assert small.arg_dict["fc_weight"] is executor.arg_dict["fc_weight"]
    large = executor.reshape(partial_shaping=True, allow_up_sizing=True, data=(8, 5))
    assert large.arg_dict["data"].shape == (8, 5) and large.grad_dict["fc_bias"] is executor.grad_dict["fc_bias"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"data": (2, 5)}, "softmax_label would change"),
        ({"data": (8, 5), "partial_shaping": True}, "allow_up_sizing"),
        ({"other": (2, 5), "partial_shaping": True}, "other"),
        ({"partial_shaping": True}, "stay open"),
        ({"data": (4, 6), "fc_weight": (3, 5), "partial_shaping": True}, "fc"),
    ],
)
@pytest.mark.filterwarnings("ignore:these shapes stay open")
def test_what_reshape_refuses(options, text):
    with pytest.raises(mx.MXNetError, match=text):
        classifier().simple_bind(mx.cpu(), data=(4, 5)).reshape(**options)
