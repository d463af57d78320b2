"""Callbacks for ``fit`` and ``score``: checkpoints at the end of epochs, progress at the end of batches.

A batch callback gets a ``BatchEndParam``; lines go to the root logger, as MXNet's do.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from bucketmod.model import BatchEndParam, save_checkpoint


def module_checkpoint(
    mod: Any, prefix: str, period: int = 1, save_optimizer_states: bool = False
) -> Callable[..., None]:
    """An epoch_end callback: ``mod.save_checkpoint(prefix, epoch + 1, save_optimizer_states)`` every ``period`` epochs.

    The third argument goes by position, as in MXNet; for a BucketingModule it is another one (remove_amp_cast).
    """
    period = int(max(1, period))

    def save(iter_no: int, sym: Any = None, arg: Any = None, aux: Any = None) -> None:
        if (iter_no + 1) % period == 0:
            mod.save_checkpoint(prefix, iter_no + 1, save_optimizer_states)

    return save


def do_checkpoint(prefix: str, period: int = 1) -> Callable[..., None]:
    """An epoch_end callback: ``model.save_checkpoint(prefix, epoch + 1, ...)`` every ``period`` epochs."""
    period = int(max(1, period))

    def save(iter_no: int, sym: Any, arg: Any, aux: Any) -> None:
        if (iter_no + 1) % period == 0:
            save_checkpoint(prefix, iter_no + 1, sym, arg, aux)

    return save


def log_train_metric(period: int, auto_reset: bool = False) -> Callable[[BatchEndParam], None]:
    """A batch_end callback: logs the local metric values every ``period`` batches, batch 0 included.

    ``auto_reset`` clears the local totals afterwards.
    """

    def log(param: BatchEndParam) -> None:
        if param.nbatch % period != 0 or param.eval_metric is None:
            return
        for name, value in param.eval_metric.get_name_value():
            logging.info("Iter[%d] Batch[%d] Train-%s=%f", param.epoch, param.nbatch, name, value)
        if auto_reset:
            param.eval_metric.reset_local()

    return log


class Speedometer:
    """A batch_end callback: logs samples a second and metric values every ``frequent`` batches.

    ``auto_reset``: each line covers the batches since the last one, else since the start of the epoch. The clock starts
    at the first batch seen, and again when the batch number falls.
    """

    def __init__(self, batch_size: int, frequent: int = 50, auto_reset: bool = True) -> None:
        self.batch_size = batch_size
        self.frequent = frequent
        self.auto_reset = auto_reset
        self.init = False
        self.tic = 0.0
        self.last_count = 0

    def __call__(self, param: BatchEndParam) -> None:
        count = param.nbatch
        if self.last_count > count:
            self.init = False
        self.last_count = count
        if not self.init:
            self.init = True
            self.tic = time.time()
        elif count % self.frequent == 0:
            self._log(param)
            self.tic = time.time()

    def _log(self, param: BatchEndParam) -> None:
        seconds = time.time() - self.tic
        speed = self.frequent * self.batch_size / seconds if seconds > 0 else math.inf
        if param.eval_metric is None:
            logging.info("Iter[%d] Batch [%d]\tSpeed: %.2f samples/sec", param.epoch, param.nbatch, speed)
            return
        pairs = param.eval_metric.get_name_value()
        first = param.nbatch - self.frequent if self.auto_reset else 0
        if self.auto_reset:
            param.eval_metric.reset_local()
        values = [part for pair in pairs for part in pair]
        line = "Epoch[%d] Batch [%d-%d]\tSpeed: %.2f samples/sec" + "\t%s=%f" * len(pairs)
        logging.info(line, param.epoch, first, param.nbatch, speed, *values)


class ProgressBar:
    """A batch_end callback: how much of an epoch of ``total`` batches is done, as a bar of ``length`` characters.

    On a terminal it is one moving line (with time left and metric values); elsewhere a log line a batch, as MXNet's.
    """

    def __init__(self, total: int, length: int = 80) -> None:
        self.bar_len = length
        self.total = total
        self._bar: Any = None

    def __call__(self, param: BatchEndParam) -> None:
        if sys.stderr.isatty():
            self._move(param)
            return
        share = param.nbatch / float(self.total)
        filled = int(round(self.bar_len * share))
        bar = "=" * filled + "-" * (self.bar_len - filled)
        logging.info("[%s] %s%s\r", bar, math.ceil(100.0 * share), "%")

    def _move(self, param: BatchEndParam) -> None:
        done = param.nbatch + 1
        if self._bar is None or self._bar.disable or done <= self._bar.n:
            from tqdm import tqdm

            self.close()
            self._bar = tqdm(total=self.total, ncols=self.bar_len, desc=f"Epoch[{param.epoch}]", unit="batch")
        if param.eval_metric is not None:
            values = {name: f"{value:.4g}" for name, value in param.eval_metric.get_name_value()}
            self._bar.set_postfix(values, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= self.total:
            self.close()

    def close(self) -> None:
        """Ends the moving line, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LogValidationMetricsCallback:
    """An eval_end callback: logs each metric value of a validation."""

    def __call__(self, param: BatchEndParam) -> None:
        if not param.eval_metric:
            return
        for name, value in param.eval_metric.get_name_value():
            logging.info("Epoch[%d] Validation-%s=%f", param.epoch, name, value)
