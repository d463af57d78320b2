"""The memory that all buckets share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bucketmod.runtime.gradient_rows import ALL_ROWS, COUNT, TRUSTED
from bucketmod.runtime.memory import aligned_copy, aligned_empty, aligned_zeros, is_aligned
from bucketmod.runtime.optimizer_state import OptimizerState
from bucketmod.runtime.parameter_store import ParameterStore
from bucketmod.runtime.threads import available_cores
from bucketmod.runtime.workspace import InputBuffers, Workspace


class Borrower:
    def __init__(self):
        self.released = 0

    def release(self):
        self.released += 1


@pytest.mark.parametrize("shape", [0, 1, 7, (), (3, 0), (1000, 300), (5, 4, 3, 2), (3, 1 << 20)])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool"])
def test_arrays_are_aligned(shape, dtype):
    for array in (aligned_empty(shape, dtype), aligned_zeros(shape, dtype)):
        assert array.shape == (shape if isinstance(shape, tuple) else (shape,))
        assert array.dtype == dtype
        assert is_aligned(array)
    assert not aligned_zeros(shape, dtype).any()


def test_copies_are_aligned_and_contiguous():
    source = np.arange(24).reshape(4, 6).T
    copy = aligned_copy(source)
    assert is_aligned(copy) and not is_aligned(source)
    np.testing.assert_array_equal(copy, source)


def test_workspace_is_as_large_as_the_largest_needs():
    workspace, first, second = Workspace(), Borrower(), Borrower()
    a = workspace.borrow(first, 1000)
    b = workspace.borrow(second, 500)
    assert np.shares_memory(a, b) and (a.nbytes, b.nbytes, workspace.nbytes) == (1000, 500, 1000)
    assert is_aligned(a) and a.ctypes.data == b.ctypes.data
    workspace.owner = first
    workspace.borrow(second, 2000)
    assert (first.released, second.released, workspace.nbytes) == (1, 1, 2000)
    assert workspace.owner is None


def test_input_buffers_keep_values_and_start_with_zeros():
    inputs, first, second = InputBuffers(), Borrower(), Borrower()
    label = inputs.borrow(first, "label", (4, 5), "float32")
    assert not label.any()
    label[:] = 3
    assert (inputs.borrow(second, "label", (10,), "float32") == 3).all()
    assert first.released == 0
    assert not inputs.borrow(second, "label", (40,), "float32").any()
    assert first.released == 1
    other = inputs.borrow(first, "data", (4, 5), "float32")
    assert not np.shares_memory(label, other)


def test_parameter_store_makes_each_array_once():
    store = ParameterStore()
    weight = store.parameter("w", (3, 4))
    assert store.parameter("w", [3, 4]) is weight
    assert store.gradient("w", (3, 4)) is not weight
    assert not np.shares_memory(store.gradient("w", (3, 4)), store.partial_gradient("w", (3, 4)))
    store.auxiliary_state("mean", (7,))
    assert store.nbytes() == 3 * 48 + 28
    with pytest.raises(ValueError, match=r"gradient of 'w' would be float32\(3, 5\)"):
        store.gradient("w", (3, 5))
    with pytest.raises(ValueError, match="must not depend on the bucket key"):
        store.parameter("w", (3, 4), "int32")


def test_optimizer_state_counts_its_bytes():
    state = OptimizerState()
    assert state.nbytes() == 0
    state[0] = None
    state[1] = np.zeros(5, "f4")
    state["w"] = (np.zeros(3, "f4"), (np.zeros(2, "f8"), None))
    assert state.nbytes() == 20 + 12 + 16


def test_importing_and_using_the_runtime_library_needs_no_compiler_and_leaves_the_environment():
    script = """
import os, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "onnxruntime", "torch"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import bucketmod.runtime.artifact, bucketmod.runtime.cache, bucketmod.runtime.executor, bucketmod.runtime.update
assert "tvm" not in sys.modules
from bucketmod.runtime.tvm_runtime import tvm_runtime
tvm_runtime()
assert "tvm" not in sys.modules  # its Python side costs a quarter of a second
maps = open("/proc/self/maps").read()
assert "libtvm_runtime" in maps and "libtvm_compiler" not in maps
assert "TVM_USE_RUNTIME_LIB" not in os.environ and os.environ["TVM_NUM_THREADS"] == sys.argv[1]
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("TVM_NUM_THREADS", "OMP_NUM_THREADS")}
    subprocess.run([sys.executable, "-c", script, str(available_cores())], check=True, env=environment)


def test_tables_of_rows_are_trusted_only_where_gradients_are_private():
    assert ParameterStore().row_table("w", 5)[TRUSTED] == 0
    store = ParameterStore(private=True)
    store.open_gradient("later")
    table = store.row_table("w", 5)
    assert table is store.row_table("w", 5)
    assert (table[TRUSTED], table[COUNT], table.shape) == (1, ALL_ROWS, (12,))
    assert store.row_table("later", 5)[TRUSTED] == 0
    table[COUNT] = 3
    store.open_gradient("w")
    assert (table[TRUSTED], table[COUNT]) == (0, ALL_ROWS)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what memory it is")
def test_large_arrays_lie_in_private_memory_which_can_have_huge_pages():
    array = aligned_empty(8 << 20, np.uint8)
    array[:] = 1
    start = array.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access = line.split()[:2]
        first, end = (int(each, 16) for each in addresses.split("-"))
        if first <= start < end:
            assert access == "rw-p", "Linux gives no huge pages to shared memory"
            return
    raise AssertionError("the array is nowhere")


def test_what_is_prepared_of_parameters_is_as_old_as_they_are():
    store = ParameterStore(private=True)
    place = store.prepared("a" * 64, (3, 5), "float32")
    assert place is store.prepared("a" * 64, (3, 5), "float32"), "programs share it"
    with pytest.raises(ValueError, match="prepared"):
        store.prepared("a" * 64, (5, 3), "float32")
    assert store.lacks(["a" * 64])
    store.has_prepared(["a" * 64])
    assert not store.lacks(["a" * 64]) and store.lacks(["a" * 64, "b" * 64])
    store.parameters_changed()
    assert store.lacks(["a" * 64])
    store.has_prepared(["a" * 64])
    store.open_parameters()
    assert store.lacks(["a" * 64]) and store.parameters_version is None
    assert ParameterStore().parameters_version is None, "nobody says when values change"
