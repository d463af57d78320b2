"""Models that PyTorch exported, compiled, train with PyTorch's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from compiled_programs import CompiledProgram

from bucketmod.compiler.foreign import adopt

RECORDED = Path(__file__).parent.parent / "recorded"


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "mlp"])
def test_outputs_and_gradients(name, tmp_path, target):
    with np.load(RECORDED / "foreign_models.npz") as arrays:
        numbers = {k.removeprefix(f"{name}/"): arrays[k] for k in arrays.files if k.startswith(f"{name}/")}
    program, parameters = adopt(onnx.load(RECORDED / f"foreign_{name}.onnx"), ["data"], ["label"])
    wrt = [port.name for port in program.by_role("parameter")]
    got = CompiledProgram(program, tmp_path, "train", wrt, target).run({**numbers, **parameters})
    for key, want in numbers.items():
        if key not in ("data", "label"):
            name = f"{key.removeprefix('gradient of ')}_gradient" if key.startswith("gradient of ") else key
            np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-6, err_msg=key)
