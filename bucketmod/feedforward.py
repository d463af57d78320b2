"""``mx.model.FeedForward``, the deprecated predecessor of Module: ``fit``, ``predict`` and ``score`` over arrays."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod import io, metric
from bucketmod import ndarray as nd
from bucketmod import optimizer as opt
from bucketmod.callback import LogValidationMetricsCallback
from bucketmod.context import Context, cpu
from bucketmod.initializer import Uniform
from bucketmod.model import BatchEndParam, load_checkpoint, save_checkpoint
from bucketmod.module import BucketingModule, Module
from bucketmod.ndarray import NDArray
from bucketmod.symbol import Symbol

Callbacks = Callable[..., Any] | list[Callable[..., Any]] | None
_LOG_VALIDATION = LogValidationMetricsCallback()


class FeedForward:
    """A network with one input and one output, trained on arrays or iterators. Deprecated: use ``mx.mod.Module``.

    ``symbol``: a Symbol, or a function from bucket key to Symbol. ``ctx``: a Context or a list of them (training uses
    all, prediction the first). ``num_epoch``: where training ends, ``begin_epoch`` where it starts. ``epoch_size``:
    batches an epoch (default: until the data ends). ``numpy_batch_size``: batch size for arrays. ``arg_params``,
    ``aux_params``: first values. ``allow_extra_params``: whether these may have names that the symbol lacks.
    ``kwargs``: arguments of the optimizer, when that is a name; gradients are divided by the batch size.

    ValueError for a symbol with two variables of one name.
    """

    def __init__(
        self,
        symbol: Any,
        ctx: Context | Sequence[Context] | None = None,
        num_epoch: int | None = None,
        epoch_size: int | None = None,
        optimizer: Any = "sgd",
        initializer: Any = Uniform(0.01),  # noqa: B008
        numpy_batch_size: int = 128,
        arg_params: Mapping[str, NDArray] | None = None,
        aux_params: Mapping[str, NDArray] | None = None,
        allow_extra_params: bool = False,
        begin_epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        warnings.warn("mx.model.FeedForward is deprecated: use mx.mod.Module", DeprecationWarning, stacklevel=2)
        assert isinstance(symbol, Symbol) or callable(symbol), (
            f"symbol must be a Symbol or a function that makes one from a bucket key, got {type(symbol)}"
        )
        self.symbol: Any = symbol if isinstance(symbol, Symbol) else None
        self.sym_gen: Callable[[Any], Symbol] | None = None if isinstance(symbol, Symbol) else symbol
        self.arg_params = arg_params
        self.aux_params = aux_params
        self.allow_extra_params = allow_extra_params
        if self.symbol is not None:
            self._check_arguments()
        self.ctx = [ctx] if isinstance(ctx, Context) else list(ctx or [cpu()])
        self.num_epoch = num_epoch
        self.epoch_size = epoch_size
        self.kwargs = dict(kwargs)
        self.optimizer = optimizer
        self.initializer = initializer
        self.numpy_batch_size = numpy_batch_size
        self.begin_epoch = begin_epoch
        self._pred_exec: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pred_exec": None}

    def _check_arguments(self) -> None:
        names = [*self.symbol.list_arguments(), *self.symbol.list_auxiliary_states()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'Find duplicated argument name "{name}": give every variable a name of its own; the '
                                 f"arguments are {', '.join(names)}")  # fmt: skip
        if self.allow_extra_params:
            self.arg_params = {n: value for n, value in (self.arg_params or {}).items() if n in names} or None
            self.aux_params = {n: value for n, value in (self.aux_params or {}).items() if n in names} or None

    # ---- data

    def _init_iter(self, X: Any, y: Any, is_train: bool) -> Any:
        """An iterator over arrays, shuffled for training; iterators as they are.

        ValueError for labels that are missing in training, of another length than the data, or of several columns;
        TypeError for anything but arrays and iterators.
        """
        if not isinstance(X, (np.ndarray, NDArray)):
            if not isinstance(X, io.DataIter):
                raise TypeError(f"X must be DataIter, NDArray or numpy.ndarray, got {type(X)}")
            return X
        if y is None:
            if is_train:
                raise ValueError("y must be specified when X is numpy.ndarray")
            y = np.zeros(X.shape[0])
        if not isinstance(y, (np.ndarray, NDArray)):
            raise TypeError(f"y must be ndarray when X is numpy.ndarray, got {type(y)}")
        if X.shape[0] != y.shape[0]:
            raise ValueError(f"The numbers of data points and labels not equal: {X.shape[0]} and {y.shape[0]}")
        if y.ndim == 2 and y.shape[1] == 1:
            y = y.reshape((-1,))
        if y.ndim != 1:
            raise ValueError(f"Label must be 1D or 2D (with 2nd dimension being 1), got shape {y.shape}")
        size = min(X.shape[0], self.numpy_batch_size)
        if is_train:
            return io.NDArrayIter(X, y, size, shuffle=True, last_batch_handle="roll_over")
        return io.NDArrayIter(X, y, size, shuffle=False)

    def _init_eval_iter(self, eval_data: Any) -> Any:
        if eval_data is None or isinstance(eval_data, io.DataIter):
            return eval_data
        if not isinstance(eval_data, (tuple, list)) or len(eval_data) != 2:
            raise TypeError("Eval data must be DataIter, or NDArray/numpy.ndarray/list pair (tuple/list of length 2), "
                            f"got {type(eval_data)}")  # fmt: skip
        data, labels = eval_data
        if data is None:
            raise ValueError("Eval data is None")
        if labels is None and isinstance(data, io.DataIter):
            return data
        data, labels = (np.array(part) if isinstance(part, list) else part for part in (data, labels))
        return self._init_iter(data, labels, is_train=True)

    # ---- training

    def _init_params(self, inputs: Sequence[Any], overwrite: bool = False) -> tuple[list[str], list[str], list[str]]:
        """Makes all parameters: from ``arg_params`` and ``aux_params`` unless ``overwrite``, else by the initialiser.

        Returns the names of arguments, parameters and auxiliary states.
        """
        described = [item if isinstance(item, io.DataDesc) else io.DataDesc(*item) for item in inputs]
        shapes = {item.name: tuple(item.shape) for item in described}
        arg_shapes, _, aux_shapes = self.symbol.infer_shape(**shapes)
        assert arg_shapes is not None, f"the shapes {shapes} do not tell those of all parameters"
        arg_types, _, aux_types = self.symbol.infer_type_partial(**{item.name: item.dtype for item in described})
        arg_names, aux_names = self.symbol.list_arguments(), self.symbol.list_auxiliary_states()
        made: list[dict[str, NDArray]] = []
        for names, all_shapes, types, given in (
            (arg_names, arg_shapes, arg_types, self.arg_params),
            (aux_names, aux_shapes, aux_types, self.aux_params),
        ):
            arrays = {}
            for name, shape, dtype in zip(names, all_shapes, types, strict=True):
                if name not in shapes:
                    arrays[name] = nd.zeros(shape, dtype=dtype or np.float32)
                    if given and name in given and not overwrite:
                        arrays[name][:] = given[name]
                    else:
                        self.initializer(name, arrays[name])
            made.append(arrays)
        self.arg_params, self.aux_params = made
        return arg_names, list(made[0]), aux_names

    def fit(
        self,
        X: Any,
        y: Any = None,
        eval_data: Any = None,
        eval_metric: Any = "acc",
        epoch_end_callback: Callbacks = None,
        batch_end_callback: Callbacks = None,
        kvstore: Any = "local",
        logger: Any = None,
        work_load_list: list[float] | None = None,
        monitor: Any = None,
        eval_end_callback: Callbacks = _LOG_VALIDATION,
        eval_batch_end_callback: Callbacks = None,
    ) -> None:
        """Trains on arrays (``X`` and labels ``y``) or an iterator from ``begin_epoch`` to ``num_epoch``.

        ``eval_data``: an iterator or (data, labels), scored after each epoch. Errors as for iterators over arrays (see
        the class) and as of Module. The parameters are in ``arg_params`` and ``aux_params`` afterwards.
        """
        data, eval_data = self._init_iter(X, y, is_train=True), self._init_eval_iter(eval_data)
        if self.sym_gen is not None:
            self.symbol = self.sym_gen(data.default_bucket_key)
            self._check_arguments()
        self._init_params([*data.provide_data, *data.provide_label])
        logger = logging if logger is None else logger
        logger.info("Start training with %s", str(self.ctx))
        module = self._make_module(data, kvstore, logger, work_load_list)
        if monitor is not None:
            module.install_monitor(monitor)
        eval_metric = eval_metric if isinstance(eval_metric, metric.EvalMetric) else metric.create(eval_metric)
        data.reset()
        assert self.num_epoch is not None, "fit() needs num_epoch, the number of epochs to train"
        for epoch in range(self.begin_epoch, self.num_epoch):
            started = time.time()
            self._train_epoch(module, data, eval_metric, epoch, batch_end_callback, monitor, logger)
            logger.info("Epoch[%d] Time cost=%.3f", epoch, time.time() - started)
            if epoch_end_callback or epoch + 1 == self.num_epoch:
                self._take_params(module)
            _call(epoch_end_callback, epoch, self.symbol, self.arg_params, self.aux_params)
            if eval_data:
                self._evaluate(module, eval_data, eval_metric, epoch, eval_batch_end_callback, eval_end_callback)

    def _make_module(self, data: Any, kvstore: Any, logger: Any, work_load_list: list[float] | None) -> Any:
        """A module for the training, ready to run."""
        names = [item[0] for item in data.provide_data], [item[0] for item in data.provide_label]
        options: dict[str, Any] = dict(logger=logger, context=self.ctx, work_load_list=work_load_list)
        sym_gen = self.sym_gen
        if sym_gen is None:
            module: Any = Module(self.symbol, *names, **options)
        else:
            module = BucketingModule(lambda key: (sym_gen(key), *names), data.default_bucket_key, **options)
        module.bind(data.provide_data, data.provide_label or None)
        module.init_params(arg_params=self.arg_params, aux_params=self.aux_params)
        with warnings.catch_warnings():  # an optimizer given as such has the rescale_grad that its maker wants
            warnings.simplefilter("ignore")
            module.init_optimizer(kvstore, *self._optimizer_for(data.batch_size))
        return module

    def _optimizer_for(self, batch_size: int) -> tuple[Any, dict[str, Any]]:
        if isinstance(self.optimizer, opt.Optimizer):
            return self.optimizer, {}
        if "rescale_grad" in self.kwargs:
            raise TypeError("rescale_grad is 1 / batch size here: give an Optimizer to have another one")
        return self.optimizer, {"rescale_grad": 1.0 / batch_size, **self.kwargs}

    def _train_epoch(
        self,
        module: Any,
        train_data: Any,
        eval_metric: metric.EvalMetric,
        epoch: int,
        batch_end_callback: Callbacks,
        monitor: Any,
        logger: Any,
    ) -> None:
        """``epoch_size`` batches, over the data as often as that takes, or all of the data once."""
        eval_metric.reset()
        nbatch = 0
        while True:
            do_reset = True
            for data_batch in train_data:
                if monitor is not None:
                    monitor.tic()
                module.forward_backward(data_batch)
                module.update()
                if monitor is not None:
                    monitor.toc_print()
                module.update_metric(eval_metric, data_batch.label)
                nbatch += 1
                if batch_end_callback is not None:
                    _call(batch_end_callback, BatchEndParam(epoch, nbatch, eval_metric, locals()))
                if self.epoch_size is not None and nbatch >= self.epoch_size:
                    do_reset = False
                    break
            if do_reset:
                logger.info("Epoch[%d] Resetting Data Iterator", epoch)
                train_data.reset()
            if self.epoch_size is None or nbatch >= self.epoch_size:
                return

    def _take_params(self, module: Any) -> None:
        """Copies what was trained into ``arg_params`` and ``aux_params``, the arrays that callbacks know."""
        for own, trained in zip((self.arg_params, self.aux_params), module.get_params(), strict=True):
            for name, array in (own or {}).items():
                array[:] = trained[name]

    @staticmethod
    def _evaluate(
        module: Any,
        eval_data: Any,
        eval_metric: metric.EvalMetric,
        epoch: int,
        batch_end_callback: Callbacks,
        end_callback: Callbacks,
    ) -> None:
        eval_metric.reset()
        eval_data.reset()
        total_num_batch = 0
        for i, eval_batch in enumerate(eval_data):
            module.forward(eval_batch, is_train=False)
            module.update_metric(eval_metric, eval_batch.label)
            if batch_end_callback is not None:
                _call(batch_end_callback, BatchEndParam(epoch, i, eval_metric, locals()))
            total_num_batch += 1
        if end_callback is not None:
            _call(end_callback, BatchEndParam(epoch, total_num_batch, eval_metric, locals()))
        eval_data.reset()

    # ---- prediction

    def _init_predictor(self, input_shapes: Sequence[Any], type_dict: Mapping[str, Any] | None = None) -> None:
        """An executor on the first context, with the parameters as they are when it is made."""
        arg_params = self.arg_params or {}
        shapes = {name: array.shape for name, array in arg_params.items()}
        shapes.update({item[0]: tuple(item[1]) for item in input_shapes})
        if self._pred_exec is not None:
            arg_shapes, _, _ = self.symbol.infer_shape(**shapes)
            assert arg_shapes is not None, "Incomplete input shapes"
            if arg_shapes == [array.shape for array in self._pred_exec.arg_arrays]:
                return
        known = {name: shape for name, shape in shapes.items() if name in self.symbol.list_inputs()}
        executor = self.symbol.simple_bind(self.ctx[0], grad_req="null", type_dict=type_dict, **known)
        executor.copy_params_from(arg_params, self.aux_params)
        self._pred_exec = executor

    def _predicted(self, X: Any) -> Iterator[Any]:
        """Runs the network batch after batch; yields each batch, its outputs in ``_pred_exec``."""
        described = X.provide_data
        types = {name: array.dtype for name, array in (self.arg_params or {}).items()}
        types.update({item[0]: getattr(item, "dtype", np.float32) for item in described})
        self._init_predictor(described, types)
        arrays = [self._pred_exec.arg_dict[item[0]] for item in described]
        for batch in X:
            for source, target in zip(batch.data, arrays, strict=False):
                source.copyto(target)
            self._pred_exec.forward(is_train=False)
            yield batch

    def predict(self, X: Any, num_batch: int | None = None, return_data: bool = False, reset: bool = True) -> Any:
        """Outputs for all of ``X`` (array or iterator), or for ``num_batch`` batches, without padding rows.

        A numpy array, or a list of them for several outputs; with ``return_data`` also the data and the labels.
        ``reset``: rewind the iterator first.
        """
        X = self._init_iter(X, None, is_train=False)
        if reset:
            X.reset()
        outputs: list[list[np.ndarray]] = [[] for _ in self.symbol.list_outputs()]
        data: list[list[np.ndarray]] = [[] for _ in X.provide_data]
        labels: list[list[np.ndarray]] = [[] for _ in X.provide_label]
        for count, batch in enumerate(self._predicted(X), 1):
            real_size = X.batch_size - (batch.pad or 0)
            _collect(outputs, self._pred_exec.outputs, real_size)
            if return_data:
                _collect(data, batch.data, real_size)
                _collect(labels, batch.label or (), real_size)
            if count == num_batch:
                break
        return (_joined(outputs), _joined(data), _joined(labels)) if return_data else _joined(outputs)

    def score(
        self,
        X: Any,
        eval_metric: Any = "acc",
        num_batch: int | None = None,
        batch_end_callback: Callbacks = None,
        reset: bool = True,
    ) -> Any:
        """The metric's value over ``X``, or its first ``num_batch`` batches. A metric object is not reset first."""
        eval_metric = eval_metric if isinstance(eval_metric, metric.EvalMetric) else metric.create(eval_metric)
        X = self._init_iter(X, None, is_train=False)
        if reset:
            X.reset()
        for i, batch in enumerate(self._predicted(X)):
            if i == num_batch:
                break
            eval_metric.update(batch.label, self._pred_exec.outputs)
            if batch_end_callback is not None:
                _call(batch_end_callback, BatchEndParam(0, i, eval_metric, locals()))
        return eval_metric.get()[1]

    # ---- files

    def save(self, prefix: str, epoch: int | None = None, remove_amp_cast: bool = True) -> None:
        """Writes a checkpoint as ``mx.model.save_checkpoint`` does. ``epoch``: default: ``num_epoch``; AssertionError
        when there is none."""
        epoch = self.num_epoch if epoch is None else epoch
        assert epoch is not None, "save() needs the number of the epoch"
        save_checkpoint(prefix, epoch, self.symbol, self.arg_params or {}, self.aux_params or {}, remove_amp_cast)

    @staticmethod
    def load(prefix: str, epoch: int, ctx: Any = None, **kwargs: Any) -> FeedForward:
        """A model from a checkpoint, to go on at ``epoch``. ``kwargs``: of the constructor."""
        symbol, arg_params, aux_params = load_checkpoint(prefix, epoch)
        return FeedForward(symbol, ctx=ctx, arg_params=arg_params, aux_params=aux_params, begin_epoch=epoch, **kwargs)

    @staticmethod
    def create(
        symbol: Any,
        X: Any,
        y: Any = None,
        ctx: Any = None,
        num_epoch: int | None = None,
        epoch_size: int | None = None,
        optimizer: Any = "sgd",
        initializer: Any = Uniform(0.01),  # noqa: B008
        eval_data: Any = None,
        eval_metric: Any = "acc",
        epoch_end_callback: Callbacks = None,
        batch_end_callback: Callbacks = None,
        kvstore: Any = "local",
        logger: Any = None,
        work_load_list: list[float] | None = None,
        eval_end_callback: Callbacks = _LOG_VALIDATION,
        eval_batch_end_callback: Callbacks = None,
        **kwargs: Any,
    ) -> FeedForward:
        """Makes a model and trains it: the arguments are those of the constructor and of ``fit``."""
        model = FeedForward(symbol, ctx=ctx, num_epoch=num_epoch, epoch_size=epoch_size, optimizer=optimizer,
                            initializer=initializer, **kwargs)  # fmt: skip
        model.fit(X, y, eval_data=eval_data, eval_metric=eval_metric, epoch_end_callback=epoch_end_callback,
                  batch_end_callback=batch_end_callback, kvstore=kvstore, logger=logger,
                  work_load_list=work_load_list, eval_end_callback=eval_end_callback,
                  eval_batch_end_callback=eval_batch_end_callback)  # fmt: skip
        return model


def _collect(parts: list[list[np.ndarray]], arrays: Sequence[NDArray], rows: int) -> None:
    for collected, array in zip(parts, arrays, strict=False):
        collected.append(array[0:rows].asnumpy())


def _joined(parts: list[list[np.ndarray]]) -> Any:
    """Batches joined; the only array bare."""
    arrays = [np.concatenate(part) for part in parts]
    return arrays[0] if len(arrays) == 1 else arrays


def _call(callbacks: Callbacks, *args: Any) -> None:
    for callback in callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []:
        callback(*args)
