"""Evaluation metrics: totals over batches, local (since the last ``reset_local``) and global (since ``reset``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _pairs(names: Any, values: Any) -> list[tuple[str, Any]]:
    return list(zip(as_list(names), as_list(values), strict=False))


registry = Registry(EvalMetric, "metric")
register = registry.register
alias = registry.alias
