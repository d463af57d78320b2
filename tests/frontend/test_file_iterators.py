"""Iterators over files and around other iterators: MXNet 1.9.1's batches, and what only we do."""

from __future__ import annotations

import pathlib
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
from recorded_cases import recorded, recorder

import bucketmod as mx

RECORDED = recorded("file_iterators")
RECORDER = recorder("file_iterators")


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    RECORDER.write_files()
    return tmp_path


@pytest.mark.parametrize("case", RECORDER.CSV)
def test_csv_batches_are_those_of_mxnet(case: str) -> None:
    assert RECORDER.run_csv(mx, case) == RECORDED["csv"][case]


@pytest.mark.parametrize("case", RECORDER.MNIST)
def test_mnist_batches_are_those_of_mxnet(case: str) -> None:
    assert RECORDER.run_mnist(mx, case) == RECORDED["mnist"][case]


@pytest.mark.parametrize("case", RECORDER.PREFETCHING)
def test_prefetched_and_resized_batches_are_those_of_mxnet(case: str) -> None:
    assert RECORDER.run_prefetching(mx, case) == RECORDED["prefetching"][case]


def test_csv_files_are_read_as_needed(folder: pathlib.Path) -> None:
    line = ",".join(["0.25"] * 50) + "\n"
    (folder / "large.csv").write_text(line * 20_000)  # 5 MB of text
    iterator = mx.io.CSVIter(data_csv="large.csv", data_shape=(50,), batch_size=10)
    next(iterator)
    tracemalloc.start()
    for _ in range(1500):
        next(iterator)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000


def test_csv_iterators_take_keywords_only_and_tell_of_unknown_ones() -> None:
    with pytest.raises(TypeError, match="keyword"):
        mx.io.CSVIter("data.csv", data_csv="data.csv", data_shape=(4,), batch_size=2)
    with pytest.warns(UserWarning, match="colour"):
        mx.io.CSVIter(data_csv="data.csv", data_shape=(4,), batch_size=2, colour=3)
    for wrong in ({"batch_size": 0}, {"batch_size": "many"}, {"data_shape": 4}, {"data_shape": (0,)}):
        with pytest.raises(mx.MXNetError):
            mx.io.CSVIter(**{"data_csv": "data.csv", "data_shape": (4,), "batch_size": 2, **wrong})


def test_csv_goes_back_to_the_first_row_from_within_an_epoch() -> None:
    iterator = mx.io.CSVIter(data_csv="data.csv", data_shape=(4,), batch_size=3)
    assert iterator.iter_next() and iterator.iter_next()
    iterator.reset()
    assert next(iterator).data[0].asnumpy()[:, 0].tolist() == [0, 10, 20]


def test_mnist_shuffles_by_its_seed_once(folder: pathlib.Path) -> None:
    def order(seed: int) -> list[float]:
        iterator = mx.io.MNISTIter(image="images", label="labels", batch_size=5, seed=seed)
        first = [float(v) for batch in iterator for v in batch.label[0].asnumpy()]
        iterator.reset()
        assert first == [float(v) for batch in iterator for v in batch.label[0].asnumpy()]
        return first

    assert order(1) == order(1) != order(2)
    assert len(set(order(3))) == 10
    for wrong in ({"label": "images"}, {"part_index": 1}, {"batch_size": 12}, {"label": "short"}):
        (folder / "short").write_bytes((folder / "labels").read_bytes()[:7] + b"\x03abc")
        with pytest.raises(mx.MXNetError):
            mx.io.MNISTIter(**{"image": "images", "label": "labels", "batch_size": 2, **wrong})


class Counting(mx.io.DataIter):
    """Batches of one number; tells which thread made each."""

    provide_data = [mx.io.DataDesc("data", (1,))]
    provide_label: list[Any] = []
    default_bucket_key = 9

    def __init__(self, fail_at: int = -1) -> None:
        super().__init__(1)
        self.place, self.fail_at, self.threads = 0, fail_at, set()

    def reset(self) -> None:
        self.place = 0

    def next(self) -> mx.io.DataBatch:
        self.threads.add(threading.current_thread().name)
        self.place += 1
        if self.place == self.fail_at:
            raise OSError("the disk is gone")
        if self.place > 3:
            raise StopIteration
        shapes = [mx.io.DataDesc("data", (self.place,))]
        return mx.io.DataBatch([mx.nd.full((self.place,), 1)], [], bucket_key=self.place, provide_data=shapes)


def test_prefetching_keeps_buckets_and_works_in_threads_of_its_own() -> None:
    inner = Counting()
    iterator = mx.io.PrefetchingIter(inner, rename_data=[{"data": "x"}])
    assert iterator.default_bucket_key == 9
    for _ in range(2):
        found = [(batch.bucket_key, batch.provide_data[0].name, batch.provide_data[0].shape) for batch in iterator]
        assert found == [(1, "x", (1,)), (2, "x", (2,)), (3, "x", (3,))]
        with pytest.raises(StopIteration):
            iterator.next()
        iterator.reset()
    assert threading.current_thread().name not in inner.threads


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_wanted() -> None:
    iterator = mx.io.PrefetchingIter(Counting(fail_at=2))
    next(iterator)
    with pytest.raises(OSError, match="disk"):
        next(iterator)
    iterator.reset()
    assert next(iterator).bucket_key == 1


def test_access_to_the_current_batch() -> None:
    iterator = mx.io.PrefetchingIter(mx.io.NDArrayIter(np.arange(4), np.arange(4), 3))
    with pytest.raises(AssertionError, match="no batch"):
        iterator.getdata()
    assert iterator.iter_next() and iterator.iter_next()
    assert iterator.getdata()[0].asnumpy().tolist() == [3, 0, 1] and iterator.getpad() == 2
    assert iterator.getlabel()[0].asnumpy().tolist() == [3, 0, 1] and iterator.getindex() is None
    plain = mx.io.PrefetchingIter(Described(), rename_data=[{"data": "x"}])
    assert [type(desc) for desc in plain.provide_data] == [mx.io.DataDesc]
    with pytest.raises(AssertionError, match="no batch"):
        mx.io.CSVIter(data_csv="data.csv", data_shape=(4,), batch_size=2).getdata()


class Described(Counting):
    provide_data = [("data", (1,))]
    default_bucket_key = 1

    def next(self) -> mx.io.DataBatch:
        raise StopIteration


@pytest.mark.parametrize("name", ["ImageRecordIter", "ImageDetRecordIter", "LibSVMIter", "MXDataIter"])
def test_iterators_that_are_not_built_say_so(name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        getattr(mx.io, name)(path_imgrec="x.rec", data_shape=(3, 8, 8), batch_size=1)


def test_sources_that_are_not_arrays_are_refused_by_name() -> None:
    for module, words in (("h5py._hl.dataset", "h5py"), ("scipy.sparse._csr", "sparse")):
        source = type("Dataset", (), {"__module__": module, "shape": (3,)})()
        for given in (source, [source], {"a": source}):
            with pytest.raises(NotImplementedError, match=words):
                mx.io.NDArrayIter(given)


# ---- going on from a state


def make_iterators() -> dict[str, Any]:
    rows = np.arange(22).reshape(11, 2)
    sentences = [[number] * (2 + number % 3) for number in range(30)]
    return {
        "array": mx.io.NDArrayIter(rows, np.arange(11), 4, shuffle=True),
        "array rolling over": mx.io.NDArrayIter(rows, np.arange(11), 4, shuffle=True, last_batch_handle="roll_over"),
        "array in order": mx.io.NDArrayIter(rows, np.arange(11), 4),
        "resized": mx.io.ResizeIter(mx.io.NDArrayIter(rows, batch_size=4), 2, reset_internal=False),
        "prefetched": mx.io.PrefetchingIter(mx.io.NDArrayIter(rows, np.arange(11), 4, shuffle=True)),
        "csv": mx.io.CSVIter(data_csv="data.csv", data_shape=(4,), batch_size=3),
        "sentences": mx.rnn.BucketSentenceIter(sentences, 3),
        "sentences by tokens": mx.rnn.BucketSentenceIter(sentences, tokens=12),
    }


def batches(iterator: Any) -> list[Any]:
    return [[a.asnumpy().tolist() for a in [*b.data, *b.label]] + [b.pad, b.bucket_key] for b in iterator]


@pytest.mark.parametrize("name", ["array", "array rolling over", "array in order", "resized", "prefetched", "csv",
                                  "sentences", "sentences by tokens"])  # fmt: skip
def test_a_new_iterator_goes_on_where_the_old_one_was(name: str) -> None:
    old = make_iterators()[name]
    for _ in range(2):
        batches(old)
        old.reset()
    state, numbers = old.get_state(), np.random.get_state()
    expected = [batches(old)]
    old.reset()
    new = make_iterators()[name]
    new.set_state(state)
    found = [batches(new)]
    assert found == expected
    if name != "csv":  # all others may shuffle again
        np.random.set_state(numbers)
    new.reset()


@pytest.mark.parametrize("name", ["array", "resized", "prefetched", "csv", "sentences"])
@pytest.mark.parametrize("wrong", [None, {}, {"cursor": 0, "order": ([0], [0]), "left": (None, None)},
                                   {"place": 0, "batches": [[0, 0]], "sentences": []}])  # fmt: skip
def test_states_of_something_else_are_refused(name: str, wrong: Any) -> None:
    with pytest.raises(mx.MXNetError, match="no state"):
        make_iterators()[name].set_state(wrong)


def test_an_iterator_without_a_state() -> None:
    assert Counting().get_state() is None
    with pytest.raises(NotImplementedError, match="Counting"):
        Counting().set_state({})
