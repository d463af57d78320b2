"""Correlations of predictions and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy

from bucketmod.metric.base import EvalMetric, alias, check_label_shapes, register
from bucketmod.ndarray import NDArray


@register
@alias("pearsonr")
class PearsonCorrelation(EvalMetric):
    """Pearson correlation of predictions and labels: mean over arrays (macro), or of all elements together (micro)."""

    def __init__(
        self,
        name: str = "pearsonr",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
        average: str = "macro",
    ) -> None:
        self.average = average
        super().__init__(name, output_names, label_names, has_global_stats=True)

    def reset(self) -> None:
        super().reset()
        self.reset_micro()

    def reset_micro(self) -> None:
        """Forgets the running moments of the micro average."""
        self._label_moments: tuple[int, float, float] = (0, 0.0, 0.0)  # count, mean, sum of squared deviations
        self._pred_moments: tuple[int, float, float] = (0, 0.0, 0.0)
        self._covariance = 0.0

    def update_variance(self, new_values: numpy.ndarray, *aggregate: Any) -> tuple[int, float, float]:
        """(count, mean, sum of squared deviations) after ``new_values``."""
        count, mean, squares = aggregate
        count += len(new_values)
        delta = new_values - mean
        mean += float(numpy.sum(delta / count))
        squares += float(numpy.sum(delta * (new_values - mean)))
        return count, mean, squares

    def update_cov(self, label: numpy.ndarray, pred: numpy.ndarray) -> None:
        """Adds to the sum of products; the labels' mean is the new one and the predictions' mean the old one."""
        self._covariance += float(numpy.sum((label - self._label_moments[1]) * (pred - self._pred_moments[1])))

    def update(self, labels: Sequence[NDArray], preds: Sequence[NDArray]) -> None:
        labels, preds = check_label_shapes(labels, preds, wrap=True)
        for label, pred in zip(labels, preds, strict=False):
            check_label_shapes(label, pred, shape=True)
            wanted = label.numpy_view().ravel().astype(numpy.float64)
            found = pred.numpy_view().ravel().astype(numpy.float64)
            if self.average == "macro":
                self._count(numpy.corrcoef(found, wanted)[0, 1], 1)
                continue
            self._count(0.0, 1)
            self._label_moments = self.update_variance(wanted, *self._label_moments)
            self.update_cov(wanted, found)
            self._pred_moments = self.update_variance(found, *self._pred_moments)

    def get(self) -> tuple[str, Any]:
        if self.num_inst == 0 or self.average == "macro":
            return super().get()
        return self.name, self._covariance / math.sqrt(self._pred_moments[2] * self._label_moments[2])


@register
class PCC(EvalMetric):
    """Correlation of predicted and true classes, any number of them, from a confusion matrix that grows as needed."""

    def __init__(
        self,
        name: str = "pcc",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
        has_global_stats: bool = True,
    ) -> None:
        self.k = 2
        super().__init__(name, output_names, label_names, has_global_stats=has_global_stats)

    def reset(self) -> None:
        self.global_num_inst = 0.0
        self.gcm = numpy.zeros((self.k, self.k))
        self.reset_local()

    def reset_local(self) -> None:
        self.num_inst = 0.0
        self.lcm = numpy.zeros((self.k, self.k))

    def update(self, labels: Sequence[NDArray], preds: Sequence[NDArray]) -> None:
        labels, preds = check_label_shapes(labels, preds, wrap=True)
        for label, pred in zip(labels, preds, strict=False):
            wanted, found = label.numpy_view().astype(numpy.int32), pred.numpy_view()
            found = found.argmax(axis=1) if found.shape != wanted.shape else found.astype(numpy.int32)
            self._grow(int(max(found.max(), wanted.max())) + 1)
            matrix = numpy.zeros((self.k, self.k))
            numpy.add.at(matrix, (found.ravel(), wanted.ravel()), 1)
            self.lcm += matrix
            self.gcm += matrix
        self.num_inst += 1
        self.global_num_inst += 1

    def _grow(self, classes: int) -> None:
        more = classes - self.k
        if more > 0:
            self.lcm, self.gcm = (numpy.pad(matrix, (0, more)) for matrix in (self.lcm, self.gcm))
            self.k = classes

    @staticmethod
    def _correlation(matrix: numpy.ndarray) -> float:
        total, rows, columns = matrix.sum(), matrix.sum(axis=1), matrix.sum(axis=0)
        spread = numpy.sum(rows * (total - rows)) * numpy.sum(columns * (total - columns))
        return float(numpy.sum(matrix.diagonal() * total - rows * columns) / spread**0.5) if spread else math.nan

    @property
    def sum_metric(self) -> float:  # type: ignore[override]
        """Local value times the number of updates."""
        return self._correlation(self.lcm) * self.num_inst

    @property
    def global_sum_metric(self) -> float:  # type: ignore[override]
        """Global value times the number of updates."""
        return self._correlation(self.gcm) * self.global_num_inst
