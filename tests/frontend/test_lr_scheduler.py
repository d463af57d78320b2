"""Learning-rate schedules: MXNet 1.9.1's rates, and refused arguments."""

import logging

import numpy as np
import pytest
from recorded_cases import recorded, recorder

import bucketmod as mx

RECORDED = recorded("training_parts")["schedules"]


@pytest.mark.parametrize("case", RECORDED)
def test_rates_are_those_of_mxnet(case: str) -> None:
    np.testing.assert_allclose(recorder("training_parts").run_schedule(mx, case), RECORDED[case], rtol=1e-12)


def test_changes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    mx.lr_scheduler.FactorScheduler(1, 0.1, stop_factor_lr=1e-3)(3)
    assert caplog.messages == [
        "Update[3]: Change learning rate to 1.00000e-03",
        "Update[3]: now learning rate arrived at 1.00000e-03, will not change in the future",
    ]


def test_bad_arguments_are_refused() -> None:
    schedules = mx.lr_scheduler
    for make in (
        lambda: schedules.FactorScheduler(0),
        lambda: schedules.FactorScheduler(1, factor=2),
        lambda: schedules.MultiFactorScheduler([3, 2]),
        lambda: schedules.MultiFactorScheduler([0, 2]),
        lambda: schedules.MultiFactorScheduler([1, 2], factor=1.5),
        lambda: schedules.PolyScheduler(0),
        lambda: schedules.LRScheduler(base_lr=0.1, warmup_begin_lr=0.2),
        lambda: schedules.LRScheduler(warmup_steps=-1),
        lambda: schedules.LRScheduler(warmup_mode="jump"),
    ):
        with pytest.raises(ValueError):
            make()
    for make in (lambda: schedules.MultiFactorScheduler(3), lambda: schedules.PolyScheduler(2.5)):  # type: ignore[arg-type]
        with pytest.raises(AssertionError):
            make()
    with pytest.raises(NotImplementedError):
        schedules.LRScheduler()(1)
