"""Compiled optimizer kernels against MXNet's formulas in float64, at odd lengths and both vector widths."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

import bucketmod as mx
from bucketmod.binding import compiled_count, get_cache, update_kernels, update_request
from bucketmod.compiler.artifact_writer import write_artifact
from bucketmod.compiler.service import compile_requests
from bucketmod.compiler.update_formulas import OF_TWO, UPDATES
from bucketmod.compiler.updates import compile_updates
from bucketmod.runtime.artifact import Artifact
from bucketmod.runtime.cpu import host_flags
from bucketmod.runtime.memory import aligned_copy, aligned_zeros
from bucketmod.runtime.threads import available_cores
from bucketmod.runtime.tvm_runtime import set_pool_size
from bucketmod.runtime.update import UpdateKernels

LEVELS = {"x86-64-v3": "avx2", "x86-64-v4": "avx512f"}
SIZES = [1, 7, 16, 1000, 1_000_003]
CLIPS = [-1.0, 0.0, 0.4]


@pytest.fixture(scope="module", params=LEVELS)
def kernels(request, tmp_path_factory):
    if LEVELS[request.param] not in host_flags():
        pytest.skip(f"this machine has no {LEVELS[request.param]}")
    folder = tmp_path_factory.mktemp("updates")
    compiled = compile_updates(f"cpu:{request.param}")
    write_artifact(compiled.manifest, compiled.files, folder)
    return UpdateKernels(Artifact.load(folder))


def draw(size: int, count: int) -> list[np.ndarray]:
    random = np.random.RandomState(size)
    arrays = [random.randn(size).astype(np.float32) for _ in range(count)]
    return [*arrays[:3], *map(np.abs, arrays[3:])]


def run(kernels: UpdateKernels, name: str, arrays: list[np.ndarray], *scalars: float) -> list[np.ndarray]:
    """What the kernel makes of copies of the arrays."""
    copies = [aligned_copy(array) for array in arrays]
    kernels.bind(name, *copies)(*scalars)
    assert np.array_equal(copies[1], arrays[1], equal_nan=True)  # the gradient stays
    return [copies[0], *copies[2:]]


def wide(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [array.astype(np.float64) for array in arrays]


def clipped(gradient: np.ndarray, bound: float) -> np.ndarray:
    return gradient.clip(-bound, bound) if bound >= 0 else gradient


def close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clip", CLIPS)
def test_sgd(kernels, size, clip):
    arrays = draw(size, 2)
    lr, wd, rescale = 0.3, 0.07, 0.37
    weight, grad = wide(arrays)
    expected = (1 - lr * wd) * weight - lr * clipped(rescale * grad, clip)
    close(run(kernels, "sgd_update", arrays, lr, wd, rescale, clip), [expected])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clip", CLIPS)
def test_sgd_with_momentum(kernels, size, clip):
    arrays = draw(size, 3)
    lr, momentum, wd, rescale = 0.3, 0.9, 0.07, 0.37
    weight, grad, mom = wide(arrays)
    mom = momentum * mom - lr * wd * weight - lr * clipped(rescale * grad, clip)
    close(run(kernels, "sgd_mom_update", arrays, lr, momentum, wd, rescale, clip), [weight + mom, mom])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clip", CLIPS)
def test_adam(kernels, size, clip):
    arrays = draw(size, 4)
    # 1 - beta2 is taken of the float32 number, here and in MXNet
    lr, beta1, beta2, epsilon, wd, rescale = map(float, np.float32([0.3, 0.9, 0.999, 1e-8, 0.07, 0.37]))
    weight, grad, mean, var = wide(arrays)
    grad = clipped(rescale * grad + wd * weight, clip)
    mean = beta1 * mean + (1 - beta1) * grad
    var = beta2 * var + (1 - beta2) * grad * grad
    expected = [weight - lr * mean / (np.sqrt(var) + epsilon), mean, var]
    found = run(kernels, "adam_update", arrays, lr, beta1, beta2, epsilon, wd, rescale, clip)
    close(found, expected)


SGD = [0.8125, -2.375, 0.96875]
MOMENTUM = [[0.8875, -2.525, 1.19375], [-0.1125, -0.525, 0.69375]]
ADAM = [[0.48318452, -2.12468839, 0.52763122], [0.16875, 0.1, -0.025], [0.02632812, 0.16, 0.20375]]


def test_values_recorded_from_mxnet(kernels):
    """What MXNet 1.9.1's own operators make of these arrays and scalars."""
    arrays = [np.array(a, np.float32) for a in ([1, -2, 0.5], [0.5, 3, -4], [0.1, -0.2, 0.3], [0.01, 0.04, 0.09])]
    sgd = run(kernels, "sgd_update", arrays[:2], 0.5, 0.125, 0.5, 1.0)
    np.testing.assert_allclose(sgd[0], SGD, rtol=1e-6)
    close(run(kernels, "sgd_mom_update", arrays[:3], 0.5, 0.75, 0.125, 0.5, 1.0), MOMENTUM)
    close(run(kernels, "adam_update", arrays, 0.5, 0.75, 0.875, 1e-3, 0.125, 0.5, 1.0), ADAM)


@pytest.mark.parametrize("size", [1, 37, 8192, 20_001])
@pytest.mark.parametrize("name", UPDATES)
def test_every_update_is_what_its_formula_says(kernels, name, size):
    """Vectors, the values beyond the last vector, chunks and sums, against the same formula on numpy arrays."""
    update = UPDATES[name]
    random = np.random.RandomState(size)
    arrays = [np.abs(random.randn(size)).astype(np.float32) + np.float32(0.1) for _ in update.arrays]
    arrays[0] *= np.sign(random.randn(size)).astype(np.float32)
    first_state = 2 + ("second_grad" in update.arrays)
    arrays[first_state if first_state < len(arrays) else -1] += np.float32(9)  # a mean of squares: above that of a mean
    scalars = [float(np.float32(value)) for value in random.uniform(0.2, 0.8, len(update.scalars))]
    found, expected = [aligned_copy(array) for array in arrays], [array.copy() for array in arrays]
    sums = kernels.bind(name, *found)(*scalars)
    np.testing.assert_allclose(sums, mx.optimizer.ReferenceKernels().run(name, expected, *scalars), rtol=1e-5)
    assert len(sums) == len(update.sums)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", OF_TWO)
def test_two_gradients_give_the_bits_of_their_sum(kernels, name):
    random = np.random.RandomState(7)
    weight, first, second, *states = [
        np.abs(random.randn(531)).astype(np.float32) for _ in UPDATES[OF_TWO[name]].arrays
    ]
    for state in states[:1]:
        state += np.float32(9)
    scalars = random.uniform(0.2, 0.8, len(UPDATES[name].scalars))
    apart = [aligned_copy(array) for array in (weight, first, second, *states)]
    joined = [aligned_copy(array) for array in (weight, first + second, *states)]
    assert kernels.bind(OF_TWO[name], *apart)(*scalars) == kernels.bind(name, *joined)(*scalars)
    for ours, theirs in zip([apart[0], *apart[3:]], [joined[0], *joined[2:]], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(apart[1:3], [first, second])


def test_an_update_that_changes_its_gradient_takes_one_only():
    assert "adadelta_update" not in OF_TWO and {"sgd_update", "adam_update", "sums_of_squares"} <= OF_TWO.keys()


def test_sums_do_not_depend_on_the_number_of_threads(kernels):
    arrays = [aligned_copy(np.random.RandomState(seed).randn(300_001).astype(np.float32)) for seed in (1, 2)]
    update = kernels.bind("sums_of_squares", *arrays)
    found = [update()]
    set_pool_size(1)
    try:
        found.append(update())
    finally:
        set_pool_size(available_cores())
    assert found[0] == found[1]
    np.testing.assert_allclose(found[0], [np.square(array, dtype=np.float64).sum() for array in arrays], rtol=1e-6)


def test_nan_and_infinite_gradients_are_not_hidden(kernels):
    weight, grad = np.ones(40, np.float32), np.zeros(40, np.float32)
    grad[[3, 17, 39]] = np.nan, np.inf, -np.inf
    (found,) = run(kernels, "sgd_update", [weight, grad], 1.0, 0.0, 1.0, -1.0)
    assert np.isnan(found[3]) and found[17] == -np.inf and found[39] == np.inf and np.isfinite(found).sum() == 37
    (found,) = run(kernels, "sgd_update", [weight, grad], 1.0, 0.0, 1.0, 2.0)
    assert np.isnan(found[3]) and found[17] == -1 and found[39] == 3


def test_memory_behind_an_array_stays(kernels):
    memory = aligned_zeros(64)
    kernels.bind("sgd_update", memory[:21], aligned_copy(np.ones(21, np.float32)))(1.0, 0.0, 1.0, -1.0)
    assert (memory[:21] == -1).all() and not memory[21:].any()


def test_empty_arrays_are_left_alone(kernels):
    kernels.bind("sgd_update", aligned_zeros(0), aligned_zeros(0))(1.0, 0.0, 1.0, -1.0)


def test_second_process_finds_the_artifact_in_the_cache():
    (first,) = compile_requests([update_request()], get_cache())
    (again,) = compile_requests([update_request()], get_cache())
    assert first.ok and again.hit and again.object_digest == first.object_digest
    assert update_kernels().names == UPDATES.keys()


def test_cuda_is_refused_by_name():
    with pytest.raises(NotImplementedError, match="cuda:sm_90"):
        compile_updates("cuda:sm_90")


@pytest.mark.parametrize("name, options", [("sgd", {}), ("sgd", {"momentum": 0.9}), ("adam", {"clip_gradient": 0.5}),
                                           ("lamb", {}), ("adadelta", {})])  # fmt: skip
def test_modules_update_their_parameters_by_compiled_kernels(name, options, monkeypatch):
    module, batch = small_module()
    module.init_optimizer(optimizer=name, optimizer_params={"learning_rate": 0.1, "wd": 0.01, **options})
    reference, _ = small_module()
    reference.init_optimizer(optimizer=name, optimizer_params={"learning_rate": 0.1, "wd": 0.01, **options})
    reference._optimizer.kernels = mx.optimizer.ReferenceKernels()
    reference.set_params(*module.get_params())
    for each in (module, reference):
        with monkeypatch.context() as patch:
            if each is module:  # numpy may not stand in for the kernels
                patch.setattr(mx.optimizer.ReferenceKernels, "run", refuse)
            for _ in range(3):
                each.forward_backward(batch)
                each.update()
    ours, theirs = module.get_params()[0], reference.get_params()[0]
    for parameter, value in ours.items():
        np.testing.assert_allclose(value.asnumpy(), theirs[parameter].asnumpy(), rtol=1e-5, atol=1e-6)


def refuse(*_):
    raise AssertionError("an update went through numpy")


def small_module():
    data = mx.sym.Variable("data")
    hidden = mx.sym.FullyConnected(data, num_hidden=5, name="hidden")
    module = mx.mod.Module(mx.sym.SoftmaxOutput(hidden, name="softmax"))
    module.bind([("data", (4, 7))], [("softmax_label", (4,))])
    module.init_params(mx.init.Uniform(0.5))
    random = np.random.RandomState(0)
    batch = mx.io.DataBatch([mx.nd.array(random.randn(4, 7))], [mx.nd.array([0, 1, 4, 2])])
    return module, batch


def test_a_module_that_finds_everything_compiles_nothing():
    small_module()[0].init_optimizer()
    count = compiled_count()
    small_module()[0].init_optimizer()
    assert compiled_count() == count


def test_arrays_that_come_and_go_do_not_pile_up(kernels):
    compiled = mx.optimizer.CompiledKernels(kernels)
    weight, last = aligned_zeros(1 << 18), None
    for _ in range(5):
        gradient = aligned_copy(np.ones(1 << 18, np.float32))
        assert last is None or last() is None, "the gradient of the step before is still there"
        compiled.run("sgd_update", (weight, gradient), 1.0, 0.0, 1.0, -1.0)
        last = weakref.ref(gradient)
        del gradient
    assert (weight == -5).all()


def test_arrays_that_come_again_are_bound_once():
    bound = []

    class Counting:
        def bind(self, name, *arrays, rows=None):
            bound.append(name)
            return lambda *scalars: scalars

    compiled = mx.optimizer.CompiledKernels(Counting())
    arrays = [aligned_zeros(8), aligned_zeros(8)]
    for rate in range(5):
        assert compiled.run("sgd_update", arrays, rate, 0, 1, -1) == (rate, 0.0, 1.0, -1.0)
    assert len(bound) == 2  # once to see them, once to keep them
    for _ in range(5000):
        compiled.run("sgd_update", [aligned_zeros(8), arrays[1]], 1.0, 0.0, 1.0, -1.0)
    assert len(compiled._met) <= 4096
