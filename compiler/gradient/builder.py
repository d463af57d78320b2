"""The gradient builder of onnxruntime-training: backward nodes for a graph of standard operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from bucketmod.compiler.errors import UnsupportedGradientError

_MENDING = (
    "the installed onnxruntime has no gradient builder: the plain onnxruntime package was installed over "
    "onnxruntime-training-cpu, they share one directory. Mend it with: "
    "pip uninstall -y onnxruntime && pip install --force-reinstall --no-deps onnxruntime-training-cpu==1.19.2"
)


def _bindings() -> Any:
    """onnxruntime's compiled module. ``onnxruntime.training`` would need torch, this does not."""
    try:
        from onnxruntime.capi import _pybind_state
    except ImportError as error:
        raise ImportError(f"onnxruntime-training-cpu==1.19.2 is not installed ({error}); {_MENDING}") from error
    if not hasattr(_pybind_state, "GradientGraphBuilder"):
        raise ImportError(_MENDING)
    return _pybind_state


def build_gradient(model: onnx.ModelProto, outputs: Sequence[str], wrt: Sequence[str]) -> onnx.ModelProto:
    """``model`` with the backward nodes for ``wrt`` added.

    The gradient of a tensor ``t`` is called ``t_grad``; those of ``outputs`` are free names for the caller to bind.
    Every output must be made by an Identity, every name of ``wrt`` must reach an output, and no node may read a tensor
    twice. The order of nodes and some names vary from process to process. Raises UnsupportedGradientError with the
    builder's words, ImportError where the installed onnxruntime cannot build gradients.
    """
    bindings = _bindings()
    options = bindings.SessionOptions()
    options.log_severity_level = 4
    try:
        builder = bindings.GradientGraphBuilder(model.SerializeToString(), set(outputs), set(wrt), "", options)
        builder.build()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedGradientError(f"the gradient builder of onnxruntime-training refused: {reason}") from error
    return onnx.load_model_from_string(builder.get_model())
