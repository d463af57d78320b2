"""Metrics of predicted classes: accuracies, F1, Matthews correlation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy

from bucketmod.metric.base import EvalMetric, alias, check_label_shapes, register
from bucketmod.ndarray import NDArray


@register
@alias("acc")
class Accuracy(EvalMetric):
    """Share of predictions that are right: classes as they are, or scores whose largest along ``axis`` is the class."""

    def __init__(
        self,
        axis: int = 1,
        name: str = "accuracy",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, output_names, label_names, axis=axis, has_global_stats=True)
        self.axis = axis

    def update(self, labels: Sequence[NDArray], preds: Sequence[NDArray]) -> None:
        labels, preds = check_label_shapes(labels, preds, wrap=True)
        for label, pred in zip(labels, preds, strict=False):
            wanted, found = label.numpy_view(), pred.numpy_view()
            if found.shape != wanted.shape:
                found = found.argmax(axis=self.axis)
            wanted, found = wanted.astype(numpy.int32).ravel(), found.astype(numpy.int32).ravel()
            check_label_shapes(wanted, found)
            self._count(int((found == wanted).sum()), len(found))


@register
@alias("top_k_accuracy", "top_k_acc")
class TopKAccuracy(EvalMetric):
    """Share of labels among the ``top_k`` (> 1, AssertionError) highest scores of their row.

    ValueError when rows have fewer scores.
    """

    def __init__(
        self,
        top_k: int = 1,
        name: str = "top_k_accuracy",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, output_names, label_names, top_k=top_k, has_global_stats=True)
        assert top_k > 1, f"top_k must be above 1, got {top_k}; for 1 use Accuracy"
        self.top_k = top_k
        self.name += f"_{top_k}"

    def update(self, labels: Sequence[NDArray], preds: Sequence[NDArray]) -> None:
        labels, preds = check_label_shapes(labels, preds, wrap=True)
        for label, pred in zip(labels, preds, strict=False):
            wanted, scores = label.numpy_view().astype(numpy.int32).ravel(), pred.numpy_view()
            assert scores.ndim == 2, f"top-k accuracy needs a row of scores an instance, got shape {scores.shape}"
            check_label_shapes(wanted, scores)
            if self.top_k > scores.shape[1]:
                raise ValueError(f"the best {self.top_k} of {scores.shape[1]} scores: give a smaller top_k")
            found = numpy.argpartition(scores, -self.top_k, axis=1)[:, -self.top_k :]
            self._count(int((found == wanted[:, None]).sum()), len(wanted))


def _matthews(tp: float, fp: float, fn: float, tn: float) -> float:
    """Matthews correlation coefficient; empty margins count as 1."""
    if not tp + fp + fn + tn:
        return 0.0
    margins = [margin for margin in (tp + fp, tp + fn, tn + fp, tn + fn) if margin != 0]
    return float((tp * tn - fp * fn) / math.sqrt(math.prod(margins)))


def _f1(tp: float, fp: float, fn: float, tn: float) -> float:
    precision = tp / (tp + fp) if tp + fp > 0 else 0.0
    recall = tp / (tp + fn) if tp + fn > 0 else 0.0
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


class _BinaryMetric(EvalMetric):
    """A score of the counts (true positive, false positive, false negative, true negative).

    macro: the mean of the scores of the update calls; micro: the score of all counts together.
    """

    score: Callable[[float, float, float, float], float]

    def __init__(
        self, name: str, output_names: Sequence[str] | None, label_names: Sequence[str] | None, average: str
    ) -> None:
        self.average = average
        super().__init__(name, output_names, label_names, has_global_stats=True)

    def reset(self) -> None:
        super().reset()
        self._counts, self._global_counts = numpy.zeros(4), numpy.zeros(4)

    def reset_local(self) -> None:
        super().reset_local()
        self._counts = numpy.zeros(4)

    def update(self, labels: Sequence[NDArray], preds: Sequence[NDArray]) -> None:
        labels, preds = check_label_shapes(labels, preds, wrap=True)
        counts = sum((self._confusion(label, pred) for label, pred in zip(labels, preds, strict=False)), numpy.zeros(4))
        score = type(self).score
        if self.average == "macro":
            self._count(score(*counts), 1)
            return
        self._counts, self._global_counts = self._counts + counts, self._global_counts + counts
        self.num_inst, self.global_num_inst = self._counts.sum(), self._global_counts.sum()
        self.sum_metric = score(*self._counts) * self.num_inst
        self.global_sum_metric = score(*self._global_counts) * self.global_num_inst

    def _confusion(self, label: NDArray, pred: NDArray) -> numpy.ndarray:
        wanted = label.numpy_view().astype(numpy.int32).ravel()
        scores = pred.numpy_view()
        check_label_shapes(wanted, scores)
        if len(numpy.unique(wanted)) > 2:
            raise ValueError(f"{type(self).__name__} needs two classes, got labels {numpy.unique(wanted)[:5]}...")
        found, right = scores.argmax(axis=1) == 1, wanted == 1
        return numpy.array(
            [(found & right).sum(), (found & ~right).sum(), (~found & right).sum(), (~found & ~right).sum()], float
        )


@register
class F1(_BinaryMetric):
    """2 precision recall / (precision + recall) of two classes; 0 when there is no positive. ValueError for more."""

    score = staticmethod(_f1)

    def __init__(
        self,
        name: str = "f1",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
        average: str = "macro",
    ) -> None:
        super().__init__(name, output_names, label_names, average)


@register
class MCC(_BinaryMetric):
    """Matthews correlation coefficient of two classes. ValueError for more."""

    score = staticmethod(_matthews)

    def __init__(
        self,
        name: str = "mcc",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
        average: str = "macro",
    ) -> None:
        super().__init__(name, output_names, label_names, average)
