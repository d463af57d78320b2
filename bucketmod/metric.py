"""Evaluation metrics: totals over batches, local (since the last ``reset_local``) and global (since ``reset``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy

from bucketmod.ndarray import NDArray
from bucketmod.registry import Registry


def check_label_shapes(labels: Any, preds: Any, wrap: bool = False, shape: bool = False) -> tuple[Any, Any]:
    """Labels and predictions as given, bare NDArrays in a list with ``wrap``.

    ValueError when their counts (their shapes, with ``shape``) differ.
    """
    found = (labels.shape, preds.shape) if shape else (len(labels), len(preds))
    if found[0] != found[1]:
        raise ValueError(f"Shape of labels {found[0]} does not match shape of predictions {found[1]}")
    if wrap:
        labels = [labels] if isinstance(labels, NDArray) else labels
        preds = [preds] if isinstance(preds, NDArray) else preds
    return labels, preds


class EvalMetric:
    """Base of the metrics: subclasses write ``update`` and call ``_count``.

    ``output_names``, ``label_names``: what ``update_dict`` picks (default: everything). Only metrics made with
    ``has_global_stats=True`` keep global totals; the others report local ones as global.
    """

    def __init__(
        self,
        name: str,
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.name = str(name)
        self.output_names = output_names
        self.label_names = label_names
        self._has_global_stats = kwargs.pop("has_global_stats", False)
        self._kwargs = kwargs
        self.reset()

    def __str__(self) -> str:
        return f"EvalMetric: {dict(self.get_name_value())}"

    def get_config(self) -> dict[str, Any]:
        """Arguments with which ``metric.create(**config)`` makes the metric again."""
        return {
            **self._kwargs,
            "metric": type(self).__name__,
            "name": self.name,
            "output_names": self.output_names,
            "label_names": self.label_names,
        }

    def update_dict(self, label: Mapping[str, NDArray], pred: Mapping[str, NDArray]) -> None:
        """``update`` with arrays by name. KeyError when one of ``label_names`` or ``output_names`` is absent."""
        preds = list(pred.values()) if self.output_names is None else [pred[name] for name in self.output_names]
        labels = list(label.values()) if self.label_names is None else [label[name] for name in self.label_names]
        self.update(labels, preds)

    def update(self, labels: Sequence[NDArray], preds: Sequence[NDArray]) -> None:
        """Adds a batch: one label array for each prediction array."""
        raise NotImplementedError(f"{type(self).__name__}.update")

    def _count(self, total: Any, instances: Any) -> None:
        self.sum_metric += total
        self.global_sum_metric += total
        self.num_inst += instances
        self.global_num_inst += instances

    def reset(self) -> None:
        """Forgets everything."""
        self.num_inst: Any = 0
        self.sum_metric: Any = 0.0
        self.global_num_inst: Any = 0
        self.global_sum_metric: Any = 0.0

    def reset_local(self) -> None:
        """Forgets the local totals."""
        self.num_inst = 0
        self.sum_metric = 0.0

    def _value(self, total: Any, instances: Any) -> Any:
        """The metric's value from totals; nan when nothing was counted."""
        return total / instances if instances else math.nan

    def get(self) -> tuple[Any, Any]:
        """(name, local value), or two lists for a composite."""
        return self.name, self._value(self.sum_metric, self.num_inst)

    def get_global(self) -> tuple[Any, Any]:
        """(name, global value), or two lists for a composite."""
        if not self._has_global_stats:
            return self.get()
        return self.name, self._value(self.global_sum_metric, self.global_num_inst)

    def get_name_value(self) -> list[tuple[str, Any]]:
        """Local (name, value) pairs."""
        return _pairs(*self.get())

    def get_global_name_value(self) -> list[tuple[str, Any]]:
        """Global (name, value) pairs."""
        return _pairs(*self.get_global()) if self._has_global_stats else self.get_name_value()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _pairs(names: Any, values: Any) -> list[tuple[str, Any]]:
    return list(zip(_as_list(names), _as_list(values), strict=False))


_registry = Registry(EvalMetric, "metric")
register = _registry.register
alias = _registry.alias


def create(metric: Any, *args: Any, **kwargs: Any) -> EvalMetric:
    """A metric from a name, a function f(label, pred), a list of such things (a composite), or a metric (returned).

    AssertionError for unknown names.
    """
    if callable(metric):
        return CustomMetric(metric, *args, **kwargs)
    if isinstance(metric, list):
        return CompositeEvalMetric([create(item, *args, **kwargs) for item in metric])
    return _registry.create(metric, *args, **kwargs)


@register
@alias("composite")
class CompositeEvalMetric(EvalMetric):
    """Several metrics in one; ``get`` gives lists of names and values."""

    def __init__(
        self,
        metrics: Sequence[Any] | None = None,
        name: str = "composite",
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        self.metrics = [create(metric) for metric in metrics or ()]
        super().__init__(name, output_names, label_names, has_global_stats=True)

    def add(self, metric: Any) -> None:
        """Adds whatever ``create`` takes."""
        self.metrics.append(create(metric))

    def get_metric(self, index: int) -> EvalMetric | ValueError:
        """The metric at ``index``. As in MXNet a ValueError is returned, not raised, when there is none."""
        try:
            return self.metrics[index]
        except IndexError:
            return ValueError(f"Metric index {index} is out of range 0 and {len(self.metrics)}")

    def update_dict(self, label: Mapping[str, NDArray], pred: Mapping[str, NDArray]) -> None:
        if self.label_names is not None:
            label = {name: value for name, value in label.items() if name in self.label_names}
        if self.output_names is not None:
            pred = {name: value for name, value in pred.items() if name in self.output_names}
        for metric in self.metrics:
            metric.update_dict(label, pred)

    def update(self, labels: Sequence[NDArray], preds: Sequence[NDArray]) -> None:
        for metric in self.metrics:
            metric.update(labels, preds)

    def reset(self) -> None:
        for metric in self.metrics:
            metric.reset()

    def reset_local(self) -> None:
        for metric in self.metrics:
            metric.reset_local()

    def get(self) -> tuple[list[str], list[Any]]:
        return _joined([metric.get() for metric in self.metrics])

    def get_global(self) -> tuple[list[str], list[Any]]:
        return _joined([metric.get_global() for metric in self.metrics])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "metrics": [metric.get_config() for metric in self.metrics]}


def _joined(results: Sequence[tuple[Any, Any]]) -> tuple[list[str], list[Any]]:
    names = [name for names, _ in results for name in _as_list(names)]
    return names, [value for _, values in results for value in _as_list(values)]


# ---- classification


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
    """Share of labels among the ``top_k`` (> 1, AssertionError) highest scores of their row."""

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
            best = min(self.top_k, scores.shape[1])
            found = numpy.argpartition(scores, -best, axis=1)[:, -best:]
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


# ---- likelihood


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


# ---- regression and losses


class _ErrorMetric(EvalMetric):
    """The mean over arrays of a distance between labels and predictions; vectors are taken as columns."""

    distance: Callable[[numpy.ndarray], Any]
    default_name = ""

    def __init__(
        self,
        name: str | None = None,
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name or self.default_name, output_names, label_names, has_global_stats=True)

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

    default_name = "mae"
    distance = staticmethod(lambda error: numpy.abs(error).mean())


@register
class MSE(_ErrorMetric):
    """Mean squared error, averaged over arrays."""

    default_name = "mse"
    distance = staticmethod(lambda error: numpy.square(error).mean())


@register
class RMSE(_ErrorMetric):
    """Root of the mean squared error of each array, averaged over arrays."""

    default_name = "rmse"
    distance = staticmethod(lambda error: numpy.sqrt(numpy.square(error).mean()))


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

    def update(self, labels: Any, preds: Any) -> None:
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


# ---- correlation


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


# ---- metrics from functions


@register
class CustomMetric(EvalMetric):
    """A metric from ``feval(label, pred)`` on numpy arrays, which returns a number (counts once) or (sum, count)."""

    def __init__(
        self,
        feval: Callable[[Any, Any], Any],
        name: str | None = None,
        allow_extra_outputs: bool = False,
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        if name is None:
            name = feval.__name__ if "<" not in feval.__name__ else f"custom({feval.__name__})"
        super().__init__(
            name, output_names, label_names, feval=feval, allow_extra_outputs=allow_extra_outputs, has_global_stats=True
        )
        self._feval = feval
        self._allow_extra_outputs = allow_extra_outputs

    def update(self, labels: Sequence[NDArray], preds: Sequence[NDArray]) -> None:
        if not self._allow_extra_outputs:
            labels, preds = check_label_shapes(labels, preds, wrap=True)
        for pred, label in zip(preds, labels, strict=False):
            result = self._feval(label.asnumpy(), pred.asnumpy())
            self._count(*(result if isinstance(result, tuple) else (result, 1)))

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("CustomMetric: a function has no configuration to write down")


def np(
    numpy_feval: Callable[[Any, Any], Any], name: str | None = None, allow_extra_outputs: bool = False
) -> CustomMetric:
    """A CustomMetric from a function on numpy arrays; its name is the function's unless given."""

    def feval(label: Any, pred: Any) -> Any:
        return numpy_feval(label, pred)

    feval.__name__ = numpy_feval.__name__
    return CustomMetric(feval, name, allow_extra_outputs)
