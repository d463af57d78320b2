"""Iterators: MXNet 1.9.1's batches for the same data, and the types that travel in them."""

import pickle
from typing import Any

import numpy as np
import pytest
from recorded_cases import recorded, recorder

import bucketmod as mx
from bucketmod.io import DataBatch, DataDesc, DataIter, NDArrayIter, ResizeIter

RECORDED = recorded("training_parts")["iterators"]


@pytest.mark.parametrize("case", RECORDED)
def test_batches_are_those_of_mxnet(case: str) -> None:
    assert recorder("training_parts").run_iterator(mx, case) == RECORDED[case]


def test_several_arrays_get_numbered_names_and_no_label_is_fine() -> None:
    iterator = NDArrayIter([np.zeros((4, 2)), np.ones((4,))], batch_size=2)
    assert [d.name for d in iterator.provide_data] == ["_0_data", "_1_data"]
    assert iterator.provide_label == []
    assert next(iterator).label == []


def test_dtype_of_ndarrays_is_kept_and_of_numpy_becomes_float32() -> None:
    iterator = NDArrayIter(mx.nd.array([1, 2], dtype="int32"), np.array([1.0, 2.0]), layout="N")
    assert iterator.provide_data[0].dtype == np.int32
    batch = iterator.next()
    assert batch.data[0].dtype == np.int32
    assert batch.label[0].dtype == np.float32


def test_batches_do_not_share_memory_with_the_source() -> None:
    source = mx.nd.zeros((4, 2))
    next(NDArrayIter(source, batch_size=2)).data[0][:] = 7
    assert source.asnumpy().max() == 0


def test_layout_places_the_batch_axis() -> None:
    iterator = NDArrayIter(np.arange(24).reshape(4, 6), batch_size=2, layout="TN", last_batch_handle="discard")
    assert iterator.provide_data[0].shape == (4, 2)


def test_hard_reset_forgets_left_rows() -> None:
    iterator = NDArrayIter(np.arange(5), batch_size=3, last_batch_handle="roll_over")
    assert len(list(iterator)) == 1
    iterator.hard_reset()
    assert next(iterator).data[0].asnumpy().tolist() == [0, 1, 2]


def test_bad_sources_are_refused() -> None:
    with pytest.raises(TypeError, match="must be an NDArray"):
        NDArrayIter("text")
    with pytest.raises(TypeError, match="words"):
        NDArrayIter({"words": ["a", "b"]})
    with pytest.raises(AssertionError):
        NDArrayIter(None)
    with pytest.raises(AssertionError):
        NDArrayIter([])


def test_description_is_a_pair_with_attributes() -> None:
    described = DataDesc("data", (2, 3), np.int32, "TN")
    assert described == ("data", (2, 3))
    assert described == DataDesc("data", (2, 3))
    name, shape = described
    assert (name, shape, len(described), described.dtype, described.layout) == ("data", (2, 3), 2, np.int32, "TN")
    again = pickle.loads(pickle.dumps(described))
    assert (again.dtype, again.layout) == (np.int32, "TN")
    assert "TN" in repr(described)
    assert [DataDesc.get_batch_axis(layout) for layout in ("TNC", "NT", "TC", None)] == [1, 0, -1, 0]
    assert DataDesc.get_list([("a", (1,))], [("a", np.int8)])[0].dtype == np.int8
    assert DataDesc.get_list([("a", (1,))], None)[0].dtype == np.float32


def test_batch_checks_its_lists() -> None:
    with pytest.raises(AssertionError):
        DataBatch(mx.nd.zeros((1,)))  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        DataBatch([], mx.nd.zeros((1,)))  # type: ignore[arg-type]
    batch = DataBatch([mx.nd.zeros((2, 3))], [mx.nd.zeros((2,))], bucket_key=7)
    assert str(batch) == "DataBatch: data shapes: [(2, 3)] label shapes: [(2,)]"
    assert batch.bucket_key == 7


def test_resize_iter_restarts_the_inner_iterator() -> None:
    inner = NDArrayIter(np.arange(4), np.arange(4), batch_size=2)
    resized = ResizeIter(inner, 5)
    assert [b.data[0].asnumpy()[0] for b in resized] == [0, 2, 0, 2, 0]
    resized.reset()
    assert resized.iter_next()
    assert resized.getdata()[0].asnumpy().tolist() == [0, 1]
    assert resized.getlabel()[0].asnumpy().tolist() == [0, 1]
    assert (resized.getpad(), resized.getindex()) == (0, None)
    continued = ResizeIter(inner, 1, reset_internal=False)
    continued.reset()
    assert next(continued).data[0].asnumpy().tolist() == [2, 3]


def test_own_iterators_need_the_small_methods_only() -> None:
    class Two(DataIter):
        def __init__(self) -> None:
            super().__init__(1)
            self.left = 2

        def iter_next(self) -> bool:
            self.left -= 1
            return self.left >= 0

        def getdata(self) -> Any:
            return [mx.nd.array([self.left])]

    assert [batch.data[0].asscalar() for batch in Two()] == [1, 0]
    assert iter(two := Two()) is two
    assert list(DataIter()) == []
