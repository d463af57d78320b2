"""Gradient compression: what stores send of a gradient, and what they keep for the next time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.optimizer import UpdateKernels
from bucketmod.runtime.memory import aligned_zeros


class TwoBitCompression:
    """Of every element only +``threshold``, -``threshold`` or nothing is sent; the rest waits in a residual.

    Each device has a residual for each key, added to its next gradient. Strom, Scalable Distributed DNN Training Using
    Commodity GPU Cloud Computing, 2015. Inside one process nothing is packed into bits: the values are what they would
    be on the other side.
    """

    def __init__(self, threshold: float, kernels: UpdateKernels) -> None:
        self.threshold = threshold
        self.kernels = kernels
        self.residuals: dict[tuple[Hashable, int], np.ndarray] = {}

    def add_up(self, key: Hashable, gradients: Sequence[np.ndarray], total: np.ndarray) -> None:
        """The sum of what the devices send of their gradients. MXNetError unless they are float32."""
        for device, gradient in enumerate(gradients):
            if gradient.dtype != np.float32:
                raise MXNetError(f"2bit compression of key {key!r}: gradients must be float32, got {gradient.dtype}")
            residual = self.residuals.get((key, device))
            if residual is None or residual.shape != gradient.shape:
                residual = self.residuals[key, device] = aligned_zeros(gradient.shape)
            self.kernels.run("compress_2bit", (total, gradient, residual), self.threshold, float(device > 0))


def parse_threshold(params: Any) -> float:
    """The threshold of ``{"type": "2bit", "threshold": t}`` (0.5 unless given).

    AssertionError unless a dict; MXNetError for another type, or a threshold that is no positive number.
    """
    assert isinstance(params, Mapping), f"unexpected type for compression_params: {type(params)}; give a dict"
    if "type" not in params:
        raise MXNetError(f"compression_params {dict(params)}: the required parameter 'type' is missing; give '2bit'")
    if params["type"] != "2bit":
        raise MXNetError(f"Unknown type for gradient compression {params['type']}; there is '2bit'")
    try:
        threshold = float(params.get("threshold", 0.5))
    except (TypeError, ValueError):
        raise MXNetError(f"the threshold of gradient compression must be a number: {params['threshold']!r}") from None
    if not threshold > 0:
        raise MXNetError(f"the threshold of gradient compression must be greater than 0, got {threshold}")
    return threshold
