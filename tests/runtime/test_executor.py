"""Executors: buffers bound once, results where the store and the workspace say, shared memory that grows."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from bucketmod.runtime.artifact import Artifact
from bucketmod.runtime.errors import ArtifactError
from bucketmod.runtime.executor import Executor
from bucketmod.runtime.parameter_store import ParameterStore
from bucketmod.runtime.workspace import InputBuffers, Workspace


class Shared:
    """What all buckets of one model share."""

    def __init__(self, make):
        self.make = make
        self.store, self.workspace, self.inputs = ParameterStore(), Workspace(), InputBuffers()

    def bind(self, mode="train", n=20, accumulate=(), library="module.o", store=None):
        artifact = Artifact.load(self.make(mode, n, library))
        return Executor(artifact, store or self.store, self.workspace, self.inputs, frozenset(accumulate))


@pytest.fixture
def shared(tiny_artifacts):
    return Shared(tiny_artifacts)


def run(executor, x, w):
    executor.input("x")[:] = x
    executor.store.parameters["w"][:] = w
    executor.forward()


@pytest.mark.parametrize("library", ["module.o", "module.so"])
def test_forward_and_backward_of_either_kind_of_library(shared, library):
    executor = shared.bind(library=library)
    x, w, head = np.arange(20, dtype="f4"), np.full(20, 3, "f4"), np.linspace(1, 2, 20, dtype="f4")
    run(executor, x, w)
    np.testing.assert_allclose(executor.outputs()[0], 2 * x * w)
    executor.backward({"out": head})
    np.testing.assert_allclose(shared.store.gradients["w"], 2 * head * x, rtol=1e-6)
    np.testing.assert_allclose(executor.gradient("x"), 2 * head * w, rtol=1e-6)
    assert executor.gradient("w") is shared.store.gradients["w"]
    assert executor.output_shapes == [("out", (20,))]


def test_outputs_survive_backward_and_are_views_of_the_workspace(shared):
    executor = shared.bind()
    run(executor, 1, 2)
    out = executor.outputs()[0]
    executor.backward({"out": np.ones(20, "f4")})
    assert (out == 4).all()
    assert np.shares_memory(out, executor.outputs()[0])


def test_a_second_backward_gives_the_same_gradient(shared):
    executor = shared.bind()
    run(executor, 5, 2)
    for _ in range(2):  # the first one destroys what forward had kept
        executor.backward({"out": np.ones(20, "f4")})
        assert (shared.store.gradients["w"] == 10).all()


def test_gradients_add_up_when_asked_to(shared):
    executor = shared.bind(accumulate=("w", "x"))
    run(executor, 5, 2)
    for times in (1, 2, 3):
        executor.backward({"out": np.ones(20, "f4")})
        assert (executor.gradient("w") == 10 * times).all()
        assert (executor.gradient("x") == 4 * times).all()


def test_seed_reaches_the_kernels(shared):
    executor = shared.bind()
    run(executor, 0, 1)
    executor.forward(seed=(7, 41))
    assert (executor.outputs()[0] == 41).all()


def test_missing_and_misshaped_head_gradients_name_the_output(shared):
    executor = shared.bind()
    run(executor, 1, 1)
    with pytest.raises(ValueError, match="'out' is not a loss"):
        executor.backward()
    with pytest.raises(ValueError, match=r"'out' has shape \(3,\), expected \(20,\)"):
        executor.backward({"out": np.ones(3, "f4")})


def test_results_of_another_program_are_refused_not_garbled(shared):
    train, infer = shared.bind(), shared.bind("infer")
    with pytest.raises(RuntimeError, match="no forward ran yet"):
        train.outputs()
    run(train, 1, 1)
    run(infer, 1, 1)
    for call in (train.outputs, train.backward, lambda: train.gradient("x")):
        with pytest.raises(RuntimeError, match="wrote over"):
            call()
    with pytest.raises(RuntimeError, match="compiled for inference"):
        infer.backward()


def test_a_larger_bucket_grows_the_workspace_and_gives_the_old_memory_back(shared):
    small = shared.bind(n=20)
    run(small, 1, 2)
    # Another bucket of another length; parameters differ in this toy, so it has its own store.
    large = shared.bind(n=5000, store=ParameterStore())
    old = weakref.ref(small.outputs()[0].base)
    run(large, 3, 2)
    gc.collect()
    assert old() is None
    assert shared.workspace.nbytes == large.artifact.manifest.workspace_bytes
    run(small, 1, 5)
    assert (small.outputs()[0] == 10).all()
    assert shared.workspace.nbytes == large.artifact.manifest.workspace_bytes


def test_an_output_that_the_user_holds_outlives_growth(shared):
    small = shared.bind(n=20)
    run(small, 1, 2)
    out = small.outputs()[0]
    run(shared.bind(n=5000, store=ParameterStore()), 3, 2)
    assert (out == 4).all()


def test_inputs_keep_their_last_value_over_buckets_and_modes(shared):
    train, infer = shared.bind(), shared.bind("infer")
    run(train, 6, 1)
    infer.forward()
    assert (infer.outputs()[0] == 12).all()
    assert infer.input("no such input") is None


def test_a_parameter_whose_shape_depends_on_the_bucket_is_an_error(shared):
    shared.bind(n=20).forward()
    with pytest.raises(ValueError, match=r"parameter 'w' would be float32\(5000,\) .* but was bound as float32\(20,\)"):
        shared.bind(n=5000).forward()


def test_unexpected_entries_are_refused(shared, tiny_artifacts, rewrite_manifest, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_artifacts("infer"), tmp_path / "copy")
    rewrite_manifest(folder, entries={"main": ("x",)})
    with pytest.raises(ArtifactError, match="entries"):
        Executor(Artifact.load(folder), shared.store, shared.workspace, shared.inputs)
    rewrite_manifest(folder, entries={"infer": ("x",)}, target="cuda:sm_90")
    with pytest.raises(NotImplementedError, match="CUDA execution"):
        Executor(Artifact.load(folder), shared.store, shared.workspace, shared.inputs)
