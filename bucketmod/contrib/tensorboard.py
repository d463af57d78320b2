"""Metric values for TensorBoard."""

from __future__ import annotations

import importlib
from typing import Any

from bucketmod.model import BatchEndParam

# Modules with a SummaryWriter(logdir) that has add_scalar(tag, value, global_step): the extra, then others' own.
_WRITERS = ("tensorboardX", "torch.utils.tensorboard", "mxboard")


class LogMetricsCallback:
    """A callback for the end of batches, evaluations or evaluation batches: writes the metric's local values, at step
    ``param.epoch``, to event files in ``logging_dir``.

    ``prefix``: before the names, as ``prefix-name``, so that curves of training and validation share a plot or do not.
    ImportError when nothing that writes event files is installed.
    """

    def __init__(self, logging_dir: str, prefix: str | None = None) -> None:
        self.prefix = prefix
        self.summary_writer = _make_writer(logging_dir)

    def __call__(self, param: BatchEndParam) -> None:
        if param.eval_metric is None:
            return
        for name, value in param.eval_metric.get_name_value():
            tag = name if self.prefix is None else f"{self.prefix}-{name}"
            self.summary_writer.add_scalar(tag, value, global_step=param.epoch)

    def close(self) -> None:
        """Writes what is still in memory; event files also come up to date by themselves now and then."""
        self.summary_writer.close()


def _make_writer(logging_dir: str) -> Any:
    for name in _WRITERS:
        try:
            return importlib.import_module(name).SummaryWriter(logging_dir)
        except ImportError:
            continue
    raise ImportError(
        "LogMetricsCallback needs a package that writes TensorBoard's event files: pip install bucketmod[tensorboard]"
    )
