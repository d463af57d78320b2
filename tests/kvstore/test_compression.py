"""Stores as recorded from MXNet 1.9.1, 2-bit compression among them, and its parameters."""

from __future__ import annotations

import numpy as np
import pytest
from frontend.recorded_cases import FOLDER, recorder

import bucketmod as mx

RECORDER = recorder("kvstore")
RECORDED = np.load(FOLDER / "kvstore.npz")


@pytest.mark.parametrize("case", RECORDER.CASES)
def test_values_follow_mxnet(case):
    np.testing.assert_allclose(RECORDER.run(mx, case), RECORDED[case], rtol=2e-6, atol=1e-6)


def compressed(threshold: float = 0.5) -> mx.kv.KVStore:
    store = mx.kv.create("device")
    store.set_gradient_compression({"type": "2bit", "threshold": threshold})
    store.init("w", mx.nd.zeros((3,)))
    return store


def pushed(store: mx.kv.KVStore, *gradients: list[float]) -> list[float]:
    out = mx.nd.zeros((3,))
    store.pushpull("w", [mx.nd.array(gradient, mx.cpu(i)) for i, gradient in enumerate(gradients)], out=out)
    return out.asnumpy().tolist()


def test_what_is_not_sent_waits_for_the_next_push():
    store = compressed()
    assert pushed(store, [0.5, -0.75, 0.25]) == [0.5, -0.5, 0.0]
    assert pushed(store, [0.0, -0.25, 0.25]) == [0.0, -0.5, 0.5]
    assert pushed(store, [0.0, 0.0, 0.0]) == [0.0, 0.0, 0.0]


def test_each_device_and_key_has_a_residual_of_its_own():
    store = compressed()
    assert pushed(store, [0.25] * 3, [0.375] * 3) == [0.0] * 3  # together they are above the threshold
    assert pushed(store, [0.25] * 3, [0.0] * 3) == [0.5] * 3
    store.init("v", mx.nd.zeros((3,)))
    store.push("v", mx.nd.array([0.125] * 3))
    assert pushed(store, [0.0] * 3, [0.125] * 3) == [0.5] * 3


def test_nan_is_never_sent_and_stays():
    store = compressed()
    assert pushed(store, [float("nan"), float("inf"), -float("inf")]) == [0.0, 0.5, -0.5]
    assert pushed(store, [1.0, 0.0, 0.0]) == [0.0, 0.5, -0.5]


def test_a_new_threshold_keeps_residuals():
    store = compressed()
    pushed(store, [0.375] * 3)
    store.set_gradient_compression({"type": "2bit", "threshold": "0.25"})
    assert pushed(store, [0.0] * 3) == [0.25] * 3


REFUSED = {
    "other type": ({"type": "1bit"}, mx.MXNetError, "1bit"),
    "no type": ({"threshold": 0.5}, mx.MXNetError, "type"),
    "zero": ({"type": "2bit", "threshold": 0}, mx.MXNetError, "greater than 0"),
    "NaN": ({"type": "2bit", "threshold": float("nan")}, mx.MXNetError, "greater than 0"),
    "words": ({"type": "2bit", "threshold": "much"}, mx.MXNetError, "much"),
    "none": ({"type": "2bit", "threshold": None}, mx.MXNetError, "None"),
    "no dict": ("2bit", AssertionError, "compression_params"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unfit_parameters_are_refused(case):
    params, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        mx.kv.create("device").set_gradient_compression(params)


def test_local_stores_do_not_compress():
    with pytest.raises(Exception, match="not supported for a 'local' kvstore"):
        mx.kv.create("local").set_gradient_compression({"type": "2bit"})


def test_only_float32_is_compressed():
    store = compressed()
    store.init("d", mx.nd.zeros((3,), dtype="float64"))
    with pytest.raises(mx.MXNetError, match="float64"):
        store.push("d", mx.nd.zeros((3,), dtype="float64"))
