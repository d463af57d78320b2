"""The inner loop of ``fit``, and where it starts when training goes on from a checkpoint. Public methods only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from bucketmod import checkpoint, metric
from bucketmod.model import BatchEndParam

Callbacks = Callable[..., Any] | Sequence[Callable[..., Any]] | None


def as_metric(given: Any) -> metric.EvalMetric:
    """A metric as it is, or made from whatever ``metric.create`` takes."""
    return given if isinstance(given, metric.EvalMetric) else metric.create(given)


def call(callbacks: Callbacks, *args: Any) -> None:
    """Calls one callback or several."""
    if callbacks is None:
        return
    for callback in [callbacks] if callable(callbacks) else callbacks:
        callback(*args)


def update_metric_of(module: Any, eval_metric: metric.EvalMetric, batch: Any) -> None:
    """``module.update_metric`` with the labels of a batch, or of a list with a batch for each context."""
    if isinstance(batch, list):
        module.update_metric(eval_metric, [part.label for part in batch], pre_sliced=True)
    else:
        module.update_metric(eval_metric, batch.label)


def train_epoch(self: Any, epoch: int, outer: dict[str, Any]) -> list[tuple[str, Any]]:
    """One run over the data; the metric's global values, read before the last batch's callbacks may reset them.

    ``outer``: the variables of ``fit``. Callbacks find them, and the ones here, in ``param.locals``.
    """
    train_data, eval_metric, monitor = outer["train_data"], outer["eval_metric"], outer["monitor"]
    eval_name_vals: list[tuple[str, Any]] = []
    tic = time.time()  # noqa: F841  (for callbacks)
    eval_metric.reset()
    data_iter = iter(train_data)
    next_data_batch = next(data_iter)
    end_of_batch, nbatch = False, 0
    while not end_of_batch:
        data_batch = next_data_batch
        if monitor is not None:
            monitor.tic()
        self.forward_backward(data_batch)
        self.update()
        update_metric_of(self, eval_metric, data_batch)
        try:  # the next batch is made ready while a device may still be busy with this one
            next_data_batch = next(data_iter)
            self.prepare(next_data_batch, sparse_row_id_fn=outer["sparse_row_id_fn"])
        except StopIteration:
            end_of_batch = True
        if monitor is not None:
            monitor.toc_print()
        if end_of_batch:
            eval_name_vals = eval_metric.get_global_name_value()
        if outer["batch_end_callback"] is not None:
            seen = {**outer, **locals()}
            call(outer["batch_end_callback"], BatchEndParam(epoch, nbatch, eval_metric, seen))
        nbatch += 1
    return eval_name_vals


class Saving:
    """The checkpoints of one ``fit``: ``prefix-<epoch>.checkpoint`` after every ``period`` epochs and the last one.

    ``resume``: "auto" starts from the newest whole one, if there is one; a Checkpoint is started from; None starts
    anew. ``prefix`` None: nothing is written. ValueError for another ``resume``, for "auto" without a prefix, and for a
    period below 1; FileNotFoundError when the prefix names a folder that does not exist.
    """

    def __init__(self, resume: Any, prefix: str | None, period: int) -> None:
        if resume not in (None, "auto") and not isinstance(resume, checkpoint.Checkpoint):
            raise ValueError(f'resume={resume!r}: expected "auto", a Checkpoint or None')
        if resume == "auto" and prefix is None:
            raise ValueError('resume="auto" needs checkpoint_prefix, where fit() writes its checkpoints and finds them')
        if period < 1:
            raise ValueError(f"checkpoint_period={period}: expected 1 epoch or more")
        if prefix is not None and not os.path.isdir(os.path.dirname(prefix) or "."):
            raise FileNotFoundError(f"checkpoint_prefix={prefix!r}: there is no such folder; make it first")
        self.prefix, self.period = prefix, period
        self.start: checkpoint.Checkpoint | None
        self.start = checkpoint.newest(prefix) if resume == "auto" and prefix is not None else resume

    def restore(self, module: Any, begin_epoch: int, data: Sequence[Any]) -> int:
        """Brings everything to where the start was; the epoch to begin with."""
        if self.start is None:
            return begin_epoch
        self.start.restore(module, data)
        module.logger.info('Resuming after epoch %d from "%s"', self.start.epoch, self.start.fname)
        return max(begin_epoch, self.start.epoch)

    def save(self, module: Any, done: int, last: int, data: Sequence[Any]) -> None:
        """Writes a checkpoint when it is time: ``done`` epochs of ``last`` are behind."""
        if self.prefix is not None and (done % self.period == 0 or done == last):
            checkpoint.save(self.prefix, done, module, data)
