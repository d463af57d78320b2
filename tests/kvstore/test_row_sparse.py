"""Row_sparse arrays, in stores as recorded from MXNet 1.9.1, and alone."""

from __future__ import annotations

import numpy as np
import pytest
from frontend.recorded_cases import FOLDER, recorder

import bucketmod as mx

RECORDER = recorder("kvstore")
RECORDED = np.load(FOLDER / "kvstore.npz")


@pytest.mark.parametrize("case", RECORDER.SPARSE)
def test_rows_follow_mxnet(case):
    np.testing.assert_allclose(RECORDER.run_sparse(mx, case), RECORDED[f"sparse {case}"], rtol=5e-6, atol=1e-6)


def sparse(rows: list[int], value: float = 1.0, shape: tuple[int, ...] = (5, 2)) -> mx.nd.sparse.RowSparseNDArray:
    return mx.nd.sparse.row_sparse_array((np.full((len(rows), *shape[1:]), value, np.float32), rows), shape=shape)


@pytest.fixture
def store() -> mx.kv.KVStore:
    made = mx.kv.create("local")
    made.init("w", mx.nd.array(np.arange(10).reshape(5, 2)).tostype("row_sparse"))
    made.init("dense", mx.nd.zeros((5, 2)))
    return made


def test_one_array_of_rows_serves_all_outs_or_each_has_its_own(store):
    outs = [mx.nd.sparse.zeros("row_sparse", (5, 2)) for _ in range(2)]
    store.row_sparse_pull("w", out=outs, row_ids=mx.nd.array([2, 4, 2]))
    assert [out.indices.asnumpy().tolist() for out in outs] == [[2, 4]] * 2
    store.row_sparse_pull("w", out=outs, row_ids=[mx.nd.array([1]), mx.nd.array([3, 0])])
    assert [out.data.asnumpy().tolist() for out in outs] == [[[2, 3]], [[0, 1], [6, 7]]]
    store.init("v", sparse([0], 9.0))
    store.row_sparse_pull(["w", "v"], out=outs, row_ids=[mx.nd.array([1]), mx.nd.array([0, 1])])
    assert [out.data.asnumpy().tolist() for out in outs] == [[[2, 3]], [[9, 9], [0, 0]]]


def test_pull_leaves_row_sparse_arrays_alone_unless_told(store):
    dense, rows = mx.nd.zeros((5, 2)), mx.nd.sparse.zeros("row_sparse", (5, 2))
    store.pull("w", out=[dense, rows])
    assert (dense.asnumpy().sum(), rows.asnumpy().sum()) == (45, 0)
    store.pull("w", out=rows, ignore_sparse=False)
    assert rows.asnumpy().sum() == 45 and rows.indices.asnumpy().tolist() == [0, 1, 2, 3, 4]


def test_a_dense_push_makes_the_value_dense(store):
    store.push("w", mx.nd.ones((5, 2)))
    with pytest.raises(mx.MXNetError, match="row_sparse storage"):
        store.row_sparse_pull("w", out=sparse([0]), row_ids=mx.nd.array([0]))


def test_row_sparse_gradients_train_dense_parameters(store):
    store.set_optimizer(mx.optimizer.SGD(learning_rate=1.0, wd=0.5))
    store.push("dense", [sparse([1]), sparse([1, 4])])
    out = mx.nd.zeros((5, 2))
    store.pull("dense", out=out)
    assert out.asnumpy()[:, 0].tolist() == [0, -2, 0, 0, -1]


def rows(*numbers: int) -> mx.nd.NDArray:
    return mx.nd.array(numbers)


REFUSED = {
    "dense value": (lambda s: s.row_sparse_pull("dense", sparse([0]), row_ids=rows(0)), mx.MXNetError, "dense"),
    "dense out": (lambda s: s.row_sparse_pull("w", mx.nd.ones((5, 2)), row_ids=rows(0)), mx.MXNetError, "out"),
    "row beyond": (lambda s: s.row_sparse_pull("w", sparse([0]), row_ids=rows(5)), mx.MXNetError, "5 rows"),
    "numbers": (lambda s: s.row_sparse_pull("w", [sparse([0])] * 3, row_ids=[rows(0)] * 2), AssertionError, "3 outs"),
    "mixed": (lambda s: s.push("w", [sparse([0]), mx.nd.ones((5, 2))]), mx.MXNetError, "dense"),
    "shapes": (lambda s: s.push("w", [sparse([0]), sparse([0], shape=(6, 2))]), mx.MXNetError, "cannot add"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(store, case):
    action, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        action(store)


def test_arrays_are_made_from_parts_or_from_dense_ones():
    array = sparse([3, 1])
    assert array.indices.asnumpy().tolist() == [1, 3]
    assert (array.shape, array.stype, array.dtype, array.size, array.ndim, len(array)) == (
        (5, 2), "row_sparse", np.float32, 10, 2, 5)  # fmt: skip
    assert array.asnumpy().sum(axis=1).tolist() == [0, 2, 0, 2, 0]
    assert np.array_equal(array.tostype("default").asnumpy(), array.asnumpy())
    assert array.tostype("row_sparse") is array
    dense = mx.nd.array([[0, 0], [0, 3]])
    assert mx.nd.sparse.row_sparse_array(dense).indices.asnumpy().tolist() == [1]
    assert mx.nd.sparse.row_sparse_array((np.ones((2, 3)), [0, 6])).shape == (7, 3)
    assert mx.nd.sparse.row_sparse_array((np.ones((2, 3)), [0, 6]), dtype="float64").dtype == np.float64
    assert mx.nd.sparse.row_sparse_array(array).asnumpy().sum() == 4
    assert mx.nd.sparse.zeros("default", (2,)).stype == "default"
    assert "RowSparseNDArray 5x2 @cpu(0)" in repr(array)


def test_arrays_are_copied_whole():
    array, other, dense = sparse([1]), mx.nd.sparse.zeros("row_sparse", (5, 2), dtype="float64"), mx.nd.ones((5, 2))
    assert array.copyto(other) is other and other.dtype == np.float64
    assert array.copyto(dense) is dense and dense.asnumpy().sum() == 2
    moved = array.as_in_context(mx.cpu(1))
    assert moved.context == mx.cpu(1) and array.as_in_context(mx.cpu(0)) is array
    copy = array.copy()
    copy[:] = sparse([2, 3])
    copy.wait_to_read()
    assert (copy.indices.asnumpy().tolist(), array.indices.asnumpy().tolist()) == ([2, 3], [1])
    copy[:] = mx.nd.array([[0, 1]] + [[0, 0]] * 4)
    assert copy.indices.asnumpy().tolist() == [0]
    assert sparse([1, 3, 4]).retain(mx.nd.array([4, 0, 1])).indices.asnumpy().tolist() == [1, 4]


def test_arrays_that_cannot_be():
    for rows in ([5], [-1]):
        with pytest.raises(mx.MXNetError, match="row numbers"):
            sparse(rows)
    with pytest.raises(mx.MXNetError, match="do not fit"):
        mx.nd.sparse.row_sparse_array((np.ones((2, 3)), [0]), shape=(4, 3))
    with pytest.raises(mx.MXNetError, match="cannot copy"):
        sparse([1]).copyto(mx.nd.sparse.zeros("row_sparse", (4, 2)))
    with pytest.raises(NotImplementedError, match="csr"):
        mx.nd.sparse.zeros("csr", (2, 2))
    with pytest.raises(ValueError, match="csr"):
        sparse([1]).tostype("csr")
    with pytest.raises(NotImplementedError, match="whole"):
        sparse([1])[0] = mx.nd.ones((2,))
