"""A model that PyTorch exported for each bucket trains through BucketingModule as it does in PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bucketmod as mx

RECORDED = Path(__file__).parents[1] / "recorded"
LENGTHS = (3, 6)


def as_modules_want(value: np.ndarray) -> Any:
    return mx.nd.array(value.astype(np.float32))


def train(models: dict[int, onnx.ModelProto], arrays: dict[str, np.ndarray]) -> tuple[list[float], dict[str, Any]]:
    """Losses of all steps and the parameters afterwards."""
    largest = max(models)
    batch = arrays["data 0"].shape[0]

    def sym_gen(length: int) -> tuple[onnx.ModelProto, tuple[str], tuple[str]]:
        return models[length], ("data",), ("label",)

    module = mx.mod.BucketingModule(sym_gen, default_bucket_key=largest)
    module.bind([("data", (batch, largest))], [("label", (batch, largest))])
    module.init_params()  # the models bring their values
    settings = {"learning_rate": 0.3, "momentum": 0.9, "rescale_grad": 1.0}
    module.init_optimizer(optimizer="sgd", optimizer_params=settings)
    losses = []
    for step, key in enumerate(arrays["keys"]):
        data, label = arrays[f"data {step}"], arrays[f"label {step}"]
        module.forward_backward(
            mx.io.DataBatch(
                [as_modules_want(data)], [as_modules_want(label)], bucket_key=int(key),
                provide_data=[("data", data.shape)], provide_label=[("label", label.shape)],
            )
        )  # fmt: skip
        losses.append(float(module.get_outputs()[0].asnumpy().ravel()[0]))
        module.update()
    return losses, module.get_params()[0]


def check(models: dict[int, onnx.ModelProto], arrays: dict[str, np.ndarray]) -> None:
    losses, parameters = train(models, arrays)
    np.testing.assert_allclose(losses[0], arrays["losses"][0], rtol=1e-5)
    np.testing.assert_allclose(losses, arrays["losses"], rtol=1e-3)
    names = {key.removeprefix("parameter ") for key in arrays if key.startswith("parameter ")}
    assert set(parameters) == names
    for name, value in parameters.items():
        expected = arrays[f"parameter {name}"]
        np.testing.assert_allclose(value.asnumpy(), expected, rtol=0, atol=1e-3 * np.abs(expected).max(), err_msg=name)


def test_recorded_models_train_over_mixed_buckets() -> None:
    models = {length: onnx.load(RECORDED / f"foreign_training_{length}.onnx") for length in LENGTHS}
    with np.load(RECORDED / "foreign_training.npz") as archive:
        arrays = dict(archive)
    assert arrays["losses"][-1] < 0.7 * arrays["losses"][0]
    check(models, arrays)


def test_fresh_exports_train_over_mixed_buckets(monkeypatch) -> None:
    torch = pytest.importorskip("torch", reason="exporting needs PyTorch, which is not installed")
    monkeypatch.setattr(sys, "path", [str(RECORDED), *sys.path])
    import record_foreign_training as script

    torch.manual_seed(5)
    model = script.make_model()
    models = script.exported(model)
    check(models, script.train(model))
