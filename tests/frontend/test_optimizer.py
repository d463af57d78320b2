"""Optimizers: MXNet 1.9.1's parameters after the same updates, and the rules around an update."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from recorded_cases import recorded, recorder

import bucketmod as mx
from bucketmod.optimizer import CompiledKernels, ReferenceKernels

RECORDED = recorded("training_parts")["optimizers"]


@pytest.mark.parametrize("case", RECORDED)
def test_parameters_follow_mxnet(case: str) -> None:
    found = recorder("training_parts").run_optimizer(mx, case)
    for ours, theirs in zip(found, RECORDED[case], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=1e-6)


class Recording:
    """Kernels as the runtime offers them: bound to arrays first, then called with scalars."""

    def __init__(self) -> None:
        self.bound: list[str] = []
        self.calls: list[tuple[Any, ...]] = []

    def bind(self, name: str, *arrays: np.ndarray, rows: np.ndarray | None = None) -> Any:
        if arrays[0].dtype != np.float32:
            raise ValueError("float32 only")
        self.bound.append(name)

        def call(*scalars: float) -> tuple[float, ...]:
            self.calls.append((name, *scalars))
            return ReferenceKernels().run(name, arrays, *scalars)

        return call


def test_attached_kernels_run_in_place_and_stay_bound() -> None:
    update = Recording()
    optimizer = mx.optimizer.create("sgd", learning_rate=0.5, momentum=0.25, wd=0.125, rescale_grad=2.0)
    optimizer.kernels = CompiledKernels(update)
    updater = mx.optimizer.get_updater(optimizer)
    weight, grad = mx.nd.array([1.0, 2.0]), mx.nd.array([1.0, 1.0])
    memory = weight.numpy_view()
    for _ in range(3):
        updater(0, grad, weight)
    assert weight.numpy_view() is memory
    assert update.bound == ["sgd_mom_update"] * 2  # seen, then kept
    assert update.calls == [("sgd_mom_update", 0.5, 0.25, 0.125, 2.0, -1.0)] * 3


def test_adam_passes_scalars_in_the_order_of_the_kernels() -> None:
    update = Recording()
    optimizer = mx.optimizer.Adam(clip_gradient=3.0, wd=0.5, rescale_grad=0.25)
    optimizer.kernels = CompiledKernels(update)
    mx.optimizer.get_updater(optimizer)(0, mx.nd.ones((2,)), mx.nd.ones((2,)))
    name, lr, *rest = update.calls[0]
    assert name == "adam_update"
    assert lr == pytest.approx(0.001 * np.sqrt(1 - 0.999) / (1 - 0.9))
    assert rest == [0.9, 0.999, 1e-8, 0.5, 0.25, 3.0]


def test_arrays_that_compiled_kernels_refuse_go_through_numpy() -> None:
    update = Recording()
    optimizer = mx.optimizer.SGD(learning_rate=1.0)
    optimizer.kernels = CompiledKernels(update)
    weight = mx.nd.array([1.0], dtype="float64")
    mx.optimizer.get_updater(optimizer)(0, mx.nd.array([0.25], dtype="float64"), weight)
    assert weight.asscalar() == 0.75
    assert not update.calls


def test_lists_update_several_parameters_by_one_call() -> None:
    updater = mx.optimizer.get_updater(mx.optimizer.SGD(learning_rate=1.0))
    weights = [mx.nd.array([float(i)], dtype="float32" if i % 2 else "float64") for i in range(7)]
    grads = [mx.nd.ones((1,), dtype=weight.dtype) for weight in weights]
    updater(list(range(7)), grads, weights)
    assert [weight.asscalar() for weight in weights] == [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_multi_precision_keeps_float32_copies() -> None:
    for name in ("sgd", "adam"):
        optimizer = mx.optimizer.create(name, learning_rate=1e-4, multi_precision=True)
        updater = mx.optimizer.get_updater(optimizer)
        weight = mx.nd.ones((3,), dtype="float16")
        for _ in range(20):
            updater(0, mx.nd.ones((3,), dtype="float16"), weight)
        assert weight.dtype == np.float16
        np.testing.assert_allclose(weight.asnumpy(), 1 - 20 * 1e-4, rtol=1e-3)
        assert weight.asnumpy()[0] < 1


def test_float16_without_copies_warns() -> None:
    with pytest.warns(UserWarning, match="multi_precision"):
        mx.optimizer.get_updater(mx.optimizer.SGD())(
            0, mx.nd.ones((1,), dtype="float16"), mx.nd.ones((1,), dtype="float16")
        )


def test_multipliers_come_from_names_attributes_and_calls() -> None:
    a = mx.sym.Variable("a_weight", lr_mult=3.0)
    b = mx.sym.Variable("b_bias", wd_mult=2.0)
    names = {0: "a_weight", 1: "b_bias", 2: "c_bias", 3: "d_gamma"}
    optimizer = mx.optimizer.SGD(learning_rate=1.0, wd=1.0, sym=a + b, param_idx2name=names)
    assert [optimizer._get_lr(i) for i in range(4)] == [3.0, 1.0, 1.0, 1.0]
    assert [optimizer._get_wd(i) for i in range(4)] == [1.0, 2.0, 0.0, 1.0]
    optimizer.set_lr_mult({"a_weight": 5.0, 2: 7.0})
    optimizer.set_wd_mult({"c_bias": 4.0})
    assert [optimizer._get_lr(i) for i in range(4)] == [5.0, 1.0, 7.0, 1.0]
    assert [optimizer._get_wd(i) for i in range(4)] == [1.0, 2.0, 4.0, 1.0]


def test_param_dict_wins_over_names() -> None:
    class Parameter:
        lr_mult, wd_mult = 2.0, 3.0

    optimizer = mx.optimizer.SGD(learning_rate=1.0, wd=1.0, param_dict={0: Parameter()})
    assert (optimizer._get_lr(0), optimizer._get_wd(0)) == (2.0, 3.0)


def test_num_update_is_the_largest_count_and_contexts_count_alone() -> None:
    optimizer = mx.optimizer.SGD(begin_num_update=10)
    updater = mx.optimizer.get_updater(optimizer)
    for index, ctx in ((0, mx.cpu(0)), (0, mx.cpu(0)), (1, mx.cpu(0)), (0, mx.cpu(1))):
        updater(index, mx.nd.ones((1,), ctx), mx.nd.ones((1,), ctx))
    assert optimizer.num_update == 12
    assert optimizer._all_index_update_counts == {0: {0: 12, 1: 11}, 1: {0: 11}}


def test_learning_rate_of_scheduler_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    schedule = mx.lr_scheduler.FactorScheduler(1, 0.5)
    optimizer = mx.optimizer.SGD(learning_rate=0.5, lr_scheduler=schedule)
    assert schedule.base_lr == 0.5
    assert "replaces" in capsys.readouterr().out
    with pytest.raises(UserWarning):
        optimizer.set_learning_rate(1.0)
    with pytest.raises(DeprecationWarning):
        optimizer.set_lr_scale({})
    plain = mx.optimizer.SGD()
    assert plain.learning_rate == 0.01
    plain.set_learning_rate(1.0)
    assert plain.learning_rate == 1.0


def test_registry_creates_by_any_case_and_warns_when_replaced() -> None:
    @mx.optimizer.register
    class ForRegistryTest(mx.optimizer.Optimizer):
        def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
            self._update_count(index)
            weight[:] = weight - self._get_lr(index) * grad

    mine = mx.optimizer.create("FORregistrytest", learning_rate=0.5)
    assert isinstance(mine, ForRegistryTest)
    weight = mx.nd.ones((2,))
    mx.optimizer.get_updater(mine)("w", mx.nd.ones((2,)), weight)
    assert weight.asnumpy().tolist() == [0.5, 0.5]
    with pytest.warns(UserWarning, match="forregistrytest"):
        mx.optimizer.register(type("ForRegistryTest", (ForRegistryTest,), {}))
    with pytest.raises(ValueError, match="Cannot find optimizer nonsense"):
        mx.optimizer.create("nonsense")
    with pytest.raises(AssertionError):
        mx.optimizer.SGD(param_idx2name=["a"])  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError):
        mx.optimizer.Optimizer().update(0, None, None, None)


def test_copies_of_an_optimizer_leave_kernels_and_parameters_behind() -> None:
    optimizer = mx.optimizer.Adam(param_dict={0: object()})
    optimizer.kernels = CompiledKernels(Recording())
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert isinstance(again.kernels, ReferenceKernels)
        assert again.param_dict == {}
        assert again.beta2 == optimizer.beta2
