"""NDArray beyond the recorded expressions: memory, contexts, samplers, refusals."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import bucketmod as mx
from bucketmod.ndarray import NDArray


def address(array: NDArray) -> int:
    return array.numpy_view().ctypes.data


def test_made_arrays_are_aligned() -> None:
    a = mx.nd.ones((3, 5))
    made = [
        a, a + 1, a.T, a * a, a.sum(axis=0), a.copy(), a.astype("int32"), mx.nd.concat(a, a), mx.nd.softmax(a), a[:, 1],
        mx.nd.array([1, 2]), mx.nd.random.uniform(shape=(3,)), mx.nd.arange(3), mx.nd.empty(7), -a,
        a.slice_axis(1, 1, 3),
    ]  # fmt: skip
    assert [address(array) % 64 for array in made] == [0] * len(made)
    assert all(array.numpy_view().flags.c_contiguous for array in made)


def test_numpy_view_is_the_memory_and_asnumpy_a_copy() -> None:
    a = mx.nd.zeros((2, 3))
    a.numpy_view()[0, 0] = 5
    assert a[0, 0].asscalar() == 5
    a.asnumpy()[0, 0] = 7
    assert a[0, 0].asscalar() == 5
    wrapped = mx.nd.from_numpy(array := np.zeros(3, np.float32))
    wrapped[:] = 2
    assert array.tolist() == [2, 2, 2]
    assert not np.shares_memory(mx.nd.from_numpy(array, zero_copy=False).numpy_view(), array)


def test_numpy_reads_arrays() -> None:
    a = mx.nd.array([1.5, 2.5])
    assert np.asarray(a).tolist() == [1.5, 2.5]
    assert np.asarray(a, dtype=np.int32).dtype == np.int32
    np.testing.assert_allclose(a, [1.5, 2.5])


def test_numpy_scalars_work_on_both_sides() -> None:
    a = mx.nd.array([1.0, 2.0])
    for result in (np.float32(2) * a, a * np.float64(2), np.int64(2) * a):
        assert isinstance(result, NDArray)
        assert result.asnumpy().tolist() == [2, 4]
    with pytest.raises(TypeError):
        np.ones(2) + a


def test_out_receives_results() -> None:
    a, out = mx.nd.array([1.0, 4.0]), mx.nd.zeros((2,))
    assert mx.nd.sqrt(a, out=out) is out
    assert out.asnumpy().tolist() == [1, 2]
    mx.nd.add(out, out, out=out)
    assert out.asnumpy().tolist() == [2, 4]
    parts = [mx.nd.zeros((1,)), mx.nd.zeros((1,))]
    mx.nd.split(a, 2, axis=0, out=parts)
    assert [part.asscalar() for part in parts] == [1, 4]
    with pytest.raises(mx.MXNetError, match="out has shape"):
        mx.nd.sqrt(a, out=mx.nd.zeros((3,)))


def test_results_do_not_share_memory_with_operands() -> None:
    a = mx.nd.ones((2, 3))
    for result in (
        mx.nd.reshape(a, shape=(6,)),
        mx.nd.identity(a),
        a.transpose(),
        mx.nd.broadcast_to(a, (2, 3)),
        a.slice(0, 1),
    ):
        result[:] = 9
    assert a.asnumpy().max() == 1


def test_contexts_stay_with_results() -> None:
    a = mx.nd.ones((2,), ctx=mx.cpu(3))
    for result in (a + 1, a.copy(), a[0], a.sum(), a.reshape((1, 2)), mx.nd.concat(a, a, dim=0)):
        assert result.context == mx.cpu(3)
    assert a.as_in_context(mx.cpu(3)) is a
    moved = a.as_in_context(mx.cpu(0))
    assert moved.context == mx.cpu(0) and moved is not a
    with mx.cpu(2):
        assert mx.nd.zeros((1,)).context == mx.cpu(2)


def test_devices_without_arrays_are_refused() -> None:
    for make in (lambda: mx.nd.zeros((1,), ctx=mx.gpu(0)), lambda: mx.nd.zeros((1,)).copyto(mx.gpu(0))):
        with pytest.raises(mx.MXNetError, match=r"gpu\(0\)"):
            make()


def test_pickles_and_copies_keep_everything() -> None:
    a = mx.nd.array([[1, 2]], ctx=mx.cpu(1), dtype="int32")
    for again in (pickle.loads(pickle.dumps(a)), copy.deepcopy(a)):
        assert (again.dtype, again.shape, again.context) == (np.int32, (1, 2), mx.cpu(1))
        assert again.asnumpy().tolist() == [[1, 2]]
        assert not np.shares_memory(again.numpy_view(), a.numpy_view())


def test_views_and_copies_of_shape_methods() -> None:
    a = mx.nd.zeros((1, 4))
    assert address(a.expand_dims(0, inplace=True)) == address(a)
    assert address(a.flatten(inplace=True)) == address(a)
    assert address(a.squeeze(inplace=True)) == address(a)
    assert mx.nd.ones((1, 1)).squeeze().shape == (1,)
    a.wait_to_read()
    mx.nd.waitall()


def test_wrapped_memory_is_checked() -> None:
    with pytest.raises(TypeError):
        NDArray([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="contiguous"):
        NDArray(np.zeros((4, 4), np.float32).T[1:])
    with pytest.raises(mx.MXNetError, match="int16"):
        NDArray(np.zeros(3, np.int16))


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda a: a.reshape((0, 0, 0)), mx.MXNetError, "reshape"),
        (lambda a: a.reshape((-1, -1)), mx.MXNetError, "reshape"),
        (lambda a: a.reshape((-4, 5, 5, 0)), mx.MXNetError, "split"),
        (lambda a: a.reshape((-7,)), mx.MXNetError, "reshape"),
        (lambda a: a.reshape((2,), sideways=True), TypeError, "sideways"),
        (lambda a: a["x"], IndexError, "index"),
        (lambda a: a[1.5], IndexError, "index"),
        (lambda a: a[np.array([True, False])], ValueError, "boolean"),
        (lambda a: a.copyto(3), TypeError, "copyto"),
        (lambda a: a.tostype("csr"), NotImplementedError, "csr"),
        (lambda a: a.attach_grad(), NotImplementedError, "attach_grad"),
        (lambda a: mx.nd.zeros((2,), stype="row_sparse"), NotImplementedError, "row_sparse"),
        (lambda a: mx.nd.arange(1, infer_range=True), NotImplementedError, "infer_range"),
        (lambda a: mx.nd.concatenate([]), mx.MXNetError, "no arrays"),
        (lambda a: mx.nd.concatenate([a, a.astype("int32")]), mx.MXNetError, "dtypes"),
        (lambda a: mx.nd.concatenate([a, mx.nd.zeros((3, 3, 3))]), mx.MXNetError, "concatenate"),
        (lambda a: mx.nd.concat(a, a.astype("int32")), mx.MXNetError, "dtypes"),
        (lambda a: mx.nd.add_n(a, a.T), mx.MXNetError, "add_n"),
        (lambda a: mx.nd.take(a, mx.nd.array([5]), mode="raise"), mx.MXNetError, "range"),
        (lambda a: mx.nd.take(a, mx.nd.array([5]), mode="other"), mx.MXNetError, "mode"),
        (lambda a: mx.nd.topk(a, ret_typ="nothing"), mx.MXNetError, "ret_typ"),
        (lambda a: mx.nd.Activation(a, act_type="gelu"), mx.MXNetError, "act_type"),
        (lambda a: mx.nd.pad(a, mode="wrap", pad_width=(0,) * 4), mx.MXNetError, "mode"),
        (lambda a: mx.nd.norm(a, ord=3), mx.MXNetError, "ord"),
        (lambda a: mx.nd.L2Normalization(a, mode="row"), mx.MXNetError, "mode"),
        (lambda a: mx.nd.dot(a, a), mx.MXNetError, "dot"),
        (lambda a: mx.nd.split(a, 2, axis=1), mx.MXNetError, "split"),
        (lambda a: mx.nd.no_such_function, AttributeError, "no_such_function"),
        (lambda a: mx.nd.random.multinomial(a, get_prob=True), NotImplementedError, "get_prob"),
        (lambda a: mx.nd.random.uniform(shape=(3,), out=a), mx.MXNetError, "shape"),
    ],
)
def test_refusals_name_the_problem(make: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        make(mx.nd.ones((2, 3)))


def test_seed_restarts_samplers_and_the_dropout_counter() -> None:
    mx.random.seed(5)
    first = mx.nd.random.normal(shape=(4,)).asnumpy()
    assert [mx.random.next_step() for _ in range(2)] == [(5, 0), (5, 1)]
    mx.random.seed(5)
    assert mx.random.current_seed() == 5
    assert mx.random.next_step() == (5, 0)
    np.testing.assert_array_equal(mx.nd.random.normal(shape=(4,)).asnumpy(), first)
    mx.random.seed(-3)
    assert mx.random.uniform().shape == (1,)


def test_samplers_draw_what_they_say() -> None:
    mx.random.seed(1)
    low, high = mx.nd.array([0.0, 10.0]), mx.nd.array([1.0, 11.0])
    rows = mx.nd.random.uniform(low, high, shape=1000).asnumpy()
    assert 0 <= rows[0].min() and rows[0].max() <= 1 and 10 <= rows[1].min() and rows[1].max() <= 11
    numbers = mx.nd.random.randint(2, 5, shape=(1000,)).asnumpy()
    assert set(numbers.tolist()) == {2, 3, 4}
    drawn = mx.nd.random.multinomial(mx.nd.array([[0, 1, 0], [0.5, 0, 0.5]]), shape=200).asnumpy()
    assert set(drawn[0]) == {1} and set(drawn[1]) == {0, 2}
    shuffled = mx.nd.random.shuffle(mx.nd.arange(50)).asnumpy()
    assert sorted(shuffled) == list(range(50)) and shuffled.tolist() != list(range(50))
    target = mx.nd.zeros((1000,), dtype="float64")
    assert mx.random.normal(3, 0.5, out=target) is target
    assert abs(target.asnumpy().mean() - 3) < 0.1
    assert "softmax" in dir(mx.nd) and "NDArray" in dir(mx.nd)
