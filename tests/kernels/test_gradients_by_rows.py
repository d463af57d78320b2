"""Gradients of embeddings that keep a table of their rows, and updates that read it, against whole arrays."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from kernel_runner import TARGETS, aligned, build, final_form, skip_without

from bucketmod.compiler.artifact_writer import write_artifact
from bucketmod.compiler.kernels.embedding import EmbeddingGrad
from bucketmod.compiler.update_formulas import UPDATES
from bucketmod.compiler.updates import compile_updates
from bucketmod.runtime.artifact import Artifact
from bucketmod.runtime.gradient_rows import ALL_ROWS, COUNT, LIST, TRUSTED, distrust, make_table
from bucketmod.runtime.update import UpdateKernels

BY_ROWS = [name for name, update in UPDATES.items() if update.by_rows]
RANDOM = np.random.RandomState(5)


class KeptGradient:
    """A gradient and its table, which one batch after another goes into."""

    def __init__(self, target, vocab: int, dim: int, count: int, trusted: bool):
        self.kernel = build([final_form(EmbeddingGrad(vocab, dim, count, by_rows=True), target)], target)[0]
        self.gradient = aligned(np.full((vocab, dim), np.nan, np.float32))
        self.table = make_table(vocab, trusted)

    def backward(self, ids: np.ndarray, dy: np.ndarray) -> np.ndarray:
        arrays = [aligned(ids.astype(np.float32)), aligned(dy), self.table, self.gradient]
        self.kernel(*map(tvm.runtime.from_dlpack, arrays))
        expected = np.zeros_like(self.gradient)
        np.add.at(expected, ids, dy)
        return expected

    @property
    def listed(self) -> list[int]:
        return self.table[LIST : LIST + self.table[COUNT]].tolist()

    @property
    def marked(self) -> list[int]:
        return np.flatnonzero(self.table[LIST + len(self.gradient) :]).tolist()


def batches(vocab: int, dim: int, count: int, number: int = 4):
    for _ in range(number):
        yield RANDOM.randint(0, vocab, count), RANDOM.randn(count, dim).astype(np.float32)


@pytest.mark.parametrize("vocab, dim, count", [(1009, 307, 13), (5, 3, 40), (300, 16, 300)])
def test_each_batch_replaces_the_rows_of_the_one_before(cpu_target, vocab, dim, count):
    kept = KeptGradient(cpu_target, vocab, dim, count, trusted=True)
    for ids, dy in batches(vocab, dim, count):
        expected = kept.backward(ids, dy)
        np.testing.assert_allclose(kept.gradient, expected, rtol=1e-5, atol=1e-6)
        assert kept.listed == list(dict.fromkeys(ids.tolist())), "rows are listed once, in order of first use"
        assert kept.marked == sorted(set(ids.tolist()))


def test_a_gradient_that_others_may_write_to_is_cleared_as_a_whole(cpu_target):
    kept = KeptGradient(cpu_target, 50, 20, 7, trusted=True)
    steps = list(batches(50, 20, 7))
    kept.backward(*steps[0])
    distrust(kept.table)
    for ids, dy in steps[1:]:
        kept.gradient[:] = np.inf
        expected = kept.backward(ids, dy)
        np.testing.assert_allclose(kept.gradient, expected, rtol=1e-5, atol=1e-6)
        assert kept.table[COUNT] == ALL_ROWS and kept.table[TRUSTED] == 0


@pytest.fixture(scope="module", params=TARGETS[:2], ids=lambda target: target.arch)
def kernels(request, tmp_path_factory):
    skip_without(request.param)
    folder = tmp_path_factory.mktemp("updates")
    compiled = compile_updates(request.param.name)
    write_artifact(compiled.manifest, compiled.files, folder)
    return UpdateKernels(Artifact.load(folder))


def scalars_of(name: str, wd: float) -> list[float]:
    known = {"lr": 0.3, "momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "rescale_grad": 0.37, "wd": wd,
             "clip_gradient": 0.5}  # fmt: skip
    return [known[scalar] for scalar in UPDATES[name].scalars]


@pytest.mark.parametrize("wd", [0.0, 0.07])
@pytest.mark.parametrize("dim", [1, 64, 67, 901])
@pytest.mark.parametrize("name", BY_ROWS)
def test_an_update_by_rows_is_the_update_bit_for_bit(kernels, name, dim, wd):
    vocab, rows = 1031, [3, 1030, 0, 31]  # with one value a row too small for rows to matter
    arrays = [np.abs(RANDOM.randn(vocab, dim)).astype(np.float32) for _ in UPDATES[name].arrays]
    arrays[1][np.setdiff1d(np.arange(vocab), rows)] = 0.0
    table = make_table(vocab, True)
    for known in (False, True):
        if known:
            table[COUNT] = len(rows)
            table[LIST : LIST + len(rows)] = rows
            table[LIST + vocab + np.array(rows)] = 1
        whole, by_rows = [aligned(a) for a in arrays], [aligned(a) for a in arrays]
        kernels.bind(name, *whole)(*scalars_of(name, wd))
        kernels.bind(name, *by_rows, rows=table)(*scalars_of(name, wd))
        for label, ours, theirs in zip(UPDATES[name].arrays, by_rows, whole, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{label}, rows known: {known}")


def test_rows_that_are_not_listed_are_not_read(kernels):
    """The table is believed: values in other rows of the gradient change nothing."""
    weight, gradient = (aligned(np.ones((900, 80), np.float32)) for _ in range(2))
    table = make_table(900, True)
    table[COUNT], table[LIST], table[LIST + 900 + 2] = 1, 2, 1
    kernels.bind("sgd_update", weight, gradient, rows=table)(0.5, 0.0, 1.0, -1.0)
    assert weight[2].tolist() == [0.5] * 80 and np.all(np.delete(weight, 2, axis=0) == 1.0)


def test_updates_without_a_form_by_rows_take_whole_arrays(kernels):
    weight, gradient = (aligned(np.ones((900, 80), np.float32)) for _ in range(2))
    kernels.bind("signsgd_update", weight, gradient, rows=make_table(900, True))(0.5, 0.0)
    assert np.all(weight == 0.5)
