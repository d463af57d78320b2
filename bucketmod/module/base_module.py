"""What every module can do once the basic steps exist: train by ``fit``, evaluate by ``score``, run by ``predict``.

Life cycle: created, ``bind`` (flag ``binded``), ``init_params`` (``params_initialized``), ``init_optimizer``
(``optimizer_initialized``), then ``forward``, ``backward``, ``update``. Everything here uses public methods only, so
that any of them can be replaced in a subclass, or the whole module by another class with these methods.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod import ndarray as nd
from bucketmod.initializer import Uniform
from bucketmod.io import DataBatch, DataIter
from bucketmod.model import BatchEndParam
from bucketmod.module.progress import get_module_progress, set_module_progress
from bucketmod.module.training_loop import Callbacks, Saving, as_metric, call, train_epoch, update_metric_of
from bucketmod.ndarray import NDArray

Arrays = Mapping[str, NDArray]

_SGD_PARAMS = (("learning_rate", 0.01),)


class BaseModule:
    """Base of the modules. ``logger``: anything with ``info`` and ``warning``."""

    def __init__(self, logger: Any = logging) -> None:
        self.logger = logger
        self.binded = False
        self.for_training = False
        self.inputs_need_grad = False
        self.params_initialized = False
        self.optimizer_initialized = False
        self._symbol: Any = None
        self._total_exec_bytes = 0

    # ---- training and evaluation, in public methods only

    def forward_backward(self, data_batch: Any) -> None:
        """``forward`` in training mode, then ``backward``."""
        self.forward(data_batch, is_train=True)
        self.backward()

    def score(
        self,
        eval_data: DataIter,
        eval_metric: Any,
        num_batch: int | None = None,
        batch_end_callback: Callbacks = None,
        score_end_callback: Callbacks = None,
        reset: bool = True,
        epoch: int = 0,
        sparse_row_id_fn: Callable[..., Any] | None = None,
    ) -> list[tuple[str, Any]]:
        """Runs inference over ``eval_data`` and returns the metric's (name, value) pairs.

        ``eval_metric``: a metric, or whatever ``metric.create`` takes; it is reset first. ``num_batch``: stop before
        this batch. ``reset``: rewind the data first. AssertionError unless bound and initialised.
        """
        assert self.binded and self.params_initialized, "score() needs bind() and init_params() first"
        if reset:
            eval_data.reset()
        eval_metric = as_metric(eval_metric)
        eval_metric.reset()
        actual_num_batch = 0
        for nbatch, eval_batch in enumerate(eval_data):
            if nbatch == num_batch:
                break
            self.prepare(eval_batch, sparse_row_id_fn=sparse_row_id_fn)
            self.forward(eval_batch, is_train=False)
            update_metric_of(self, eval_metric, eval_batch)
            if batch_end_callback is not None:
                batch_end_params = BatchEndParam(epoch, nbatch, eval_metric, locals())
                call(batch_end_callback, batch_end_params)
            actual_num_batch += 1
        if score_end_callback is not None:
            call(score_end_callback, BatchEndParam(epoch, actual_num_batch, eval_metric, locals()))
        return eval_metric.get_name_value()

    def iter_predict(
        self,
        eval_data: DataIter,
        num_batch: int | None = None,
        reset: bool = True,
        sparse_row_id_fn: Callable[..., Any] | None = None,
    ) -> Iterator[tuple[list[NDArray], int, Any]]:
        """Yields (outputs without padding rows, number of the batch, batch).

        The outputs are views that the next forward overwrites.
        """
        assert self.binded and self.params_initialized, "iter_predict() needs bind() and init_params() first"
        if reset:
            eval_data.reset()
        for nbatch, eval_batch in enumerate(eval_data):
            if nbatch == num_batch:
                break
            self.prepare(eval_batch, sparse_row_id_fn=sparse_row_id_fn)
            self.forward(eval_batch, is_train=False)
            pad = eval_batch.pad or 0
            yield [out[0 : out.shape[0] - pad] for out in self.get_outputs()], nbatch, eval_batch

    def predict(
        self,
        eval_data: Any,
        num_batch: int | None = None,
        merge_batches: bool = True,
        reset: bool = True,
        always_output_list: bool = False,
        sparse_row_id_fn: Callable[..., Any] | None = None,
    ) -> Any:
        """Outputs for all of ``eval_data``, as copies without padding rows.

        Batches are joined along axis 0 (AssertionError when batches differ in their number of outputs) unless
        ``merge_batches`` is False, which gives a list a batch. A single output comes bare unless
        ``always_output_list``. A bare array runs one forward, in the mode that the module was bound for, and gives the
        first output. ValueError for anything but an array or a DataIter.
        """
        assert self.binded and self.params_initialized, "predict() needs bind() and init_params() first"
        if isinstance(eval_data, (NDArray, np.ndarray)):
            array = nd.array(eval_data) if isinstance(eval_data, np.ndarray) else eval_data
            self.forward(DataBatch([array]))
            return self.get_outputs()[0]
        if not isinstance(eval_data, DataIter):
            raise ValueError(f"predict() takes a DataIter, an NDArray or a numpy array, got {type(eval_data)}")
        batches = [
            [out.copy() for out in outputs]
            for outputs, _, _ in self.iter_predict(eval_data, num_batch, reset, sparse_row_id_fn)
        ]
        if not batches or not merge_batches:
            return batches
        assert len({len(outputs) for outputs in batches}) == 1, (
            "batches gave different numbers of outputs, which cannot be joined: use merge_batches=False"
        )
        merged = [nd.concatenate(list(parts)) for parts in zip(*batches, strict=True)]
        return merged if always_output_list or len(merged) > 1 else merged[0]

    def fit(
        self,
        train_data: Any,
        eval_data: Any = None,
        eval_metric: Any = "acc",
        epoch_end_callback: Callbacks = None,
        batch_end_callback: Callbacks = None,
        kvstore: Any = "local",
        optimizer: Any = "sgd",
        optimizer_params: Any = _SGD_PARAMS,
        eval_end_callback: Callbacks = None,
        eval_batch_end_callback: Callbacks = None,
        initializer: Any = Uniform(0.01),  # noqa: B008  (scripts read it off the signature)
        arg_params: Arrays | None = None,
        aux_params: Arrays | None = None,
        allow_missing: bool = False,
        force_rebind: bool = False,
        force_init: bool = False,
        begin_epoch: int = 0,
        num_epoch: int | None = None,
        validation_metric: Any = None,
        monitor: Any = None,
        sparse_row_id_fn: Callable[..., Any] | None = None,
        resume: Any = None,
        checkpoint_prefix: str | None = None,
        checkpoint_period: int = 1,
    ) -> None:
        """Trains from epoch ``begin_epoch`` to ``num_epoch`` (needed, AssertionError).

        Binds, initialises parameters and optimizer where that was not done before, then runs over ``train_data`` once
        an epoch, rewinding it at the end of each. After each epoch parameters are handed to ``epoch_end_callback``
        (epoch, symbol, arg_params, aux_params) and ``eval_data`` is scored by ``validation_metric`` (default: by
        ``eval_metric``). ``batch_end_callback`` gets a BatchEndParam. StopIteration when ``train_data`` is empty.

        ``checkpoint_prefix``: after every ``checkpoint_period`` epochs (and the last), all that training needs to go on
        is written to ``prefix-<epoch>.checkpoint``. ``resume="auto"`` goes on from the newest one that is whole (from
        the start when there is none), with the numbers of a run that never stopped; a Checkpoint does so from that one.
        MXNetError when it is one of another module or optimizer, ValueError for another ``resume``.
        """
        assert num_epoch is not None, "fit() needs num_epoch, the number of epochs to train"
        saving = Saving(resume, checkpoint_prefix, checkpoint_period)
        again: dict[str, Any] = {}
        if saving.start is not None:
            arg_params, aux_params, force_init = saving.start.arg_params, saving.start.aux_params, True
            again = {"force_init": True} if self.optimizer_initialized else {}
        self.bind(data_shapes=train_data.provide_data, label_shapes=train_data.provide_label, for_training=True,
                  force_rebind=force_rebind)  # fmt: skip
        if monitor is not None:
            self.install_monitor(monitor)
        self.init_params(initializer=initializer, arg_params=arg_params, aux_params=aux_params,
                         allow_missing=allow_missing, force_init=force_init)  # fmt: skip
        self.init_optimizer(kvstore=kvstore, optimizer=optimizer, optimizer_params=optimizer_params, **again)
        validation_metric = validation_metric if validation_metric is not None else eval_metric
        eval_metric = as_metric(eval_metric)
        begin_epoch = saving.restore(self, begin_epoch, (train_data, eval_data))
        for epoch in range(begin_epoch, num_epoch):
            tic = time.time()
            for name, value in train_epoch(self, epoch, locals()):
                self.logger.info("Epoch[%d] Train-%s=%f", epoch, name, value)
            self.logger.info("Epoch[%d] Time cost=%.3f", epoch, time.time() - tic)
            arg_now, aux_now = self.get_params()
            self.set_params(arg_now, aux_now)
            call(epoch_end_callback, epoch, self.symbol, arg_now, aux_now)
            if eval_data is not None:
                found = self.score(eval_data, validation_metric, score_end_callback=eval_end_callback,
                                   batch_end_callback=eval_batch_end_callback, epoch=epoch)  # fmt: skip
                for name, value in found:
                    self.logger.info("Epoch[%d] Validation-%s=%f", epoch, name, value)
            train_data.reset()
            saving.save(self, epoch + 1, num_epoch, (train_data, eval_data))

    # ---- parameters

    def set_params(
        self,
        arg_params: Arrays | None,
        aux_params: Arrays | None,
        allow_missing: bool = False,
        force_init: bool = True,
        allow_extra: bool = False,
    ) -> None:
        """Gives parameters new values; as ``init_params`` without an initialiser."""
        self.init_params(initializer=None, arg_params=arg_params, aux_params=aux_params, allow_missing=allow_missing,
                         force_init=force_init, allow_extra=allow_extra)  # fmt: skip

    def save_params(self, fname: str) -> None:
        """Writes all parameters to a file in MXNet's format, as ``arg:name`` and ``aux:name``."""
        arg_params, aux_params = self.get_params()
        saved = {f"arg:{name}": array for name, array in arg_params.items()}
        saved.update({f"aux:{name}": array for name, array in aux_params.items()})
        nd.save(fname, saved)

    def load_params(self, fname: str) -> None:
        """Reads what ``save_params`` wrote; ValueError for a file with other names in it."""
        arg_params, aux_params = {}, {}
        loaded = nd.load(fname)
        if not isinstance(loaded, dict):
            raise ValueError(f"{fname}: arrays without names are no parameters")
        for key, value in loaded.items():
            kind, _, name = key.partition(":")
            if kind == "arg":
                arg_params[name] = value
            elif kind == "aux":
                aux_params[name] = value
            else:
                raise ValueError(f"{fname}: {key!r} is no parameter: names must begin with arg: or aux:")
        self.set_params(arg_params, aux_params)

    def get_progress(self) -> Any:
        """What training needs to go on, beside the parameters, as plain data: optimizer states, counts, schedule.

        NotImplementedError for a module that keeps its optimizer in a way of its own and does not override this.
        """
        return get_module_progress(self)

    def set_progress(self, progress: Any) -> None:
        """Goes on from what ``get_progress`` gave. MXNetError when module or optimizer are of another kind."""
        set_module_progress(self, progress)

    # ---- what has a default

    @property
    def symbol(self) -> Any:
        """The graph; it may change over time (a BucketingModule shows that of its current bucket)."""
        return self._symbol

    def get_states(self, merge_multi_context: bool = True) -> list[Any]:
        """A module without states has none. AssertionError unless ``merge_multi_context`` is False."""
        assert self.binded and self.params_initialized, "get_states() needs bind() and init_params() first"
        assert not merge_multi_context, "states are not merged: call get_states(merge_multi_context=False)"
        return []

    def set_states(self, states: Any = None, value: Any = None) -> None:
        """AssertionError when anything is given: a module without states takes none."""
        assert self.binded and self.params_initialized, "set_states() needs bind() and init_params() first"
        assert not states and not value, f"{type(self).__name__} has no states to set"

    def prepare(self, data_batch: Any, sparse_row_id_fn: Callable[..., Any] | None = None) -> None:
        """Makes ready what the next batch needs; nothing here. Row-sparse parameters do not exist: a warning."""
        if sparse_row_id_fn is not None:
            warnings.warn("sparse_row_id_fn has no effect: there are no row-sparse parameters", stacklevel=2)

    # ---- what subclasses write

    @property
    def data_names(self) -> Any:
        """Names of the data inputs."""
        raise NotImplementedError(f"{type(self).__name__}.data_names")

    @property
    def output_names(self) -> Any:
        """Names of the outputs."""
        raise NotImplementedError(f"{type(self).__name__}.output_names")

    @property
    def data_shapes(self) -> Any:
        """Descriptions of the data inputs."""
        raise NotImplementedError(f"{type(self).__name__}.data_shapes")

    @property
    def label_shapes(self) -> Any:
        """Descriptions of the labels."""
        raise NotImplementedError(f"{type(self).__name__}.label_shapes")

    @property
    def output_shapes(self) -> Any:
        """(name, shape) of the outputs."""
        raise NotImplementedError(f"{type(self).__name__}.output_shapes")

    def get_params(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Arguments and auxiliary states by name."""
        raise NotImplementedError(f"{type(self).__name__}.get_params")

    def init_params(
        self,
        initializer: Any = Uniform(0.01),  # noqa: B008
        arg_params: Arrays | None = None,
        aux_params: Arrays | None = None,
        allow_missing: bool = False,
        force_init: bool = False,
        allow_extra: bool = False,
    ) -> None:
        """Gives parameters their first values."""
        raise NotImplementedError(f"{type(self).__name__}.init_params")

    def bind(
        self,
        data_shapes: Sequence[Any],
        label_shapes: Sequence[Any] | None = None,
        for_training: bool = True,
        inputs_need_grad: bool = False,
        force_rebind: bool = False,
        shared_module: Any = None,
        grad_req: Any = "write",
    ) -> None:
        """Fixes shapes and takes memory."""
        raise NotImplementedError(f"{type(self).__name__}.bind")

    def init_optimizer(
        self,
        kvstore: Any = "local",
        optimizer: Any = "sgd",
        optimizer_params: Any = _SGD_PARAMS,
        force_init: bool = False,
    ) -> None:
        """Makes ready for ``update``."""
        raise NotImplementedError(f"{type(self).__name__}.init_optimizer")

    def forward(self, data_batch: Any, is_train: bool | None = None) -> None:
        """Computes the outputs for a batch."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def backward(self, out_grads: Any = None) -> None:
        """Computes gradients."""
        raise NotImplementedError(f"{type(self).__name__}.backward")

    def get_outputs(self, merge_multi_context: bool = True) -> list[Any]:
        """Outputs of the last forward."""
        raise NotImplementedError(f"{type(self).__name__}.get_outputs")

    def get_input_grads(self, merge_multi_context: bool = True) -> list[Any]:
        """Gradients of the data inputs."""
        raise NotImplementedError(f"{type(self).__name__}.get_input_grads")

    def update(self) -> None:
        """Changes the parameters by the last gradients."""
        raise NotImplementedError(f"{type(self).__name__}.update")

    def update_metric(self, eval_metric: Any, labels: Any, pre_sliced: bool = False) -> None:
        """Adds the last outputs to a metric."""
        raise NotImplementedError(f"{type(self).__name__}.update_metric")

    def install_monitor(self, mon: Any) -> None:
        """Shows intermediate values to ``mon``."""
        raise NotImplementedError(f"{type(self).__name__}.install_monitor")

