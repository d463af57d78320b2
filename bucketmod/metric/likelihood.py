"""Metrics of the probability given to labels: perplexity, cross entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy

from bucketmod.metric.base import EvalMetric, alias, check_label_shapes, register
from bucketmod.ndarray import NDArray


@register
class Perplexity(EvalMetric):
    """exp of the mean negative logarithm of the label's probability, along ``axis``; probabilities below 1e-10 count as
    1e-10. Positions whose label is ``ignore_label`` (unless None) count nowhere.
    """

    def __init__(
        self,
        ignore_label: int | None,
        axis: int = -1,
        name: str = "perplexity",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, output_names, label_names, ignore_label=ignore_label, has_global_stats=True)
        self.ignore_label = ignore_label
        self.axis = axis

    def update(self, labels: Sequence[NDArray], preds: Sequence[NDArray]) -> None:
        assert len(labels) == len(preds), f"{len(labels)} label arrays for {len(preds)} predictions"
        loss, count = 0.0, 0
        for label, pred in zip(labels, preds, strict=True):
            probabilities = pred.numpy_view()
            assert label.size == probabilities.size / probabilities.shape[-1], (
                f"shape mismatch: labels {label.shape}, predictions {pred.shape}"
            )
            wanted = label.numpy_view().reshape(-1)
            chosen = _label_probability(probabilities, wanted, self.axis)
            if self.ignore_label is not None:
                chosen = chosen[wanted != self.ignore_label]
            loss -= float(numpy.log(numpy.maximum(chosen, 1e-10, dtype=chosen.dtype)).sum())
            count += chosen.size
        self._count(loss, count)

    def _value(self, total: Any, instances: Any) -> Any:
        return math.exp(total / instances) if instances else math.nan


def _label_probability(probabilities: numpy.ndarray, labels: numpy.ndarray, axis: int) -> numpy.ndarray:
    """The element along ``axis`` that each label names (clipped to the axis), in the order of the labels.

    No copy of the whole array is made: it may be thousands of rows by a whole vocabulary.
    """
    moved = numpy.moveaxis(probabilities, axis, -1)
    index = numpy.clip(labels.astype(numpy.int64), 0, moved.shape[-1] - 1).reshape(*moved.shape[:-1], 1)
    return numpy.take_along_axis(moved, index, -1).reshape(-1)


class _LabelLikelihood(EvalMetric):
    """Mean of -log(p + eps) with p the label's entry of its row."""

    def __init__(
        self, eps: float, name: str, output_names: Sequence[str] | None, label_names: Sequence[str] | None
    ) -> None:
        super().__init__(name, output_names, label_names, eps=eps, has_global_stats=True)
        self.eps = eps

    def update(self, labels: Sequence[NDArray], preds: Sequence[NDArray]) -> None:
        labels, preds = check_label_shapes(labels, preds, wrap=True)
        for label, pred in zip(labels, preds, strict=False):
            wanted, probabilities = label.numpy_view().ravel(), pred.numpy_view()
            assert len(wanted) == len(probabilities), f"{len(wanted)} labels for {len(probabilities)} rows"
            chosen = probabilities[numpy.arange(len(wanted)), wanted.astype(numpy.int64)]
            self._count(-numpy.log(chosen + self.eps).sum(), len(wanted))


@register
@alias("ce")
class CrossEntropy(_LabelLikelihood):
    """Mean of -log(p + eps) over rows, p the probability of the row's label."""

    def __init__(
        self,
        eps: float = 1e-12,
        name: str = "cross-entropy",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(eps, name, output_names, label_names)


@register
@alias("nll_loss")
class NegativeLogLikelihood(_LabelLikelihood):
    """As CrossEntropy, under its own name."""

    def __init__(
        self,
        eps: float = 1e-12,
        name: str = "nll-loss",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(eps, name, output_names, label_names)
