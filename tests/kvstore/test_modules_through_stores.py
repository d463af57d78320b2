"""Modules of two contexts: MXNet 1.9.1's parameters, by way of every kind of store and update."""

from __future__ import annotations

import numpy as np
import pytest
from frontend.recorded_cases import FOLDER, recorder

import bucketmod as mx

RECORDER = recorder("kvstore")
RECORDED = np.load(FOLDER / "kvstore.npz")


@pytest.mark.parametrize("case", RECORDER.MODULES)
def test_parameters_follow_mxnet(case):
    np.testing.assert_allclose(RECORDER.run_module(mx, case), RECORDED[f"module {case}"], rtol=2e-4, atol=2e-5)


@mx.kv.KVStoreBase.register
class Counting(mx.kv.TestStore):
    """A store as users write them: it has what the base class asks for, and no more."""

    keys: list[str] = []

    def pushpull(self, key, value, out=None, priority=0):
        self.keys.append(key)
        super().pushpull(key, value, out, priority)


def test_a_store_of_ones_own_adds_gradients_up(monkeypatch):
    monkeypatch.setitem(RECORDER.MODULES, "own", (mx.kv.create("counting"), "adam", {"learning_rate": 0.02}, None, "1"))
    found = RECORDER.run_module(mx, "own")
    np.testing.assert_allclose(found, RECORDED["module adam on the devices"], rtol=2e-4, atol=2e-5)
    assert Counting.keys == ["one_weight", "one_bias", "two_weight", "two_bias"] * 6
