"""Metrics of distance, and of losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy

from bucketmod.metric.base import EvalMetric, check_label_shapes, register
from bucketmod.ndarray import NDArray


class _ErrorMetric(EvalMetric):
    """The mean over arrays of a distance between labels and predictions; vectors are taken as columns."""

    distance: Callable[[numpy.ndarray], Any]

    def update(self, labels: Sequence[NDArray], preds: Sequence[NDArray]) -> None:
        labels, preds = check_label_shapes(labels, preds, wrap=True)
        for label, pred in zip(labels, preds, strict=False):
            self._count(type(self).distance(_column(label) - _column(pred)), 1)


def _column(array: NDArray) -> numpy.ndarray:
    view = array.numpy_view()
    return view.reshape(-1, 1) if view.ndim == 1 else view


@register
class MAE(_ErrorMetric):
    """Mean absolute error, averaged over arrays."""

    distance = staticmethod(lambda error: numpy.abs(error).mean())

    def __init__(
        self,
        name: str = "mae",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, output_names, label_names, has_global_stats=True)


@register
class MSE(_ErrorMetric):
    """Mean squared error, averaged over arrays."""

    distance = staticmethod(lambda error: numpy.square(error).mean())

    def __init__(
        self,
        name: str = "mse",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, output_names, label_names, has_global_stats=True)


@register
class RMSE(_ErrorMetric):
    """Root of the mean squared error of each array, averaged over arrays."""

    distance = staticmethod(lambda error: numpy.sqrt(numpy.square(error).mean()))

    def __init__(
        self,
        name: str = "rmse",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, output_names, label_names, has_global_stats=True)


@register
class Loss(EvalMetric):
    """Mean of all elements of the outputs; labels are ignored."""

    def __init__(
        self,
        name: str = "loss",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, output_names, label_names, has_global_stats=True)

    def update(self, _: Any, preds: Any) -> None:
        for pred in [preds] if isinstance(preds, NDArray) else preds:
            self._count(pred.numpy_view().sum(), pred.size)


@register
class Torch(Loss):
    """Loss under another name."""

    def __init__(
        self,
        name: str = "torch",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, output_names, label_names)


@register
class Caffe(Loss):
    """Loss under another name."""

    def __init__(
        self,
        name: str = "caffe",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, output_names, label_names)
