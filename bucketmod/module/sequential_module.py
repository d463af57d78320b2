"""Modules in a chain: the outputs of each are the data of the next."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

from bucketmod.base import MXNetError
from bucketmod.initializer import Uniform
from bucketmod.module.base_module import Arrays, BaseModule
from bucketmod.ndarray import NDArray


class SequentialModule(BaseModule):
    """A chain of modules, filled by :meth:`add`. One Module over the whole graph is faster, where that can be had."""

    META_TAKE_LABELS = "take_labels"
    META_AUTO_WIRING = "auto_wiring"

    def __init__(self, logger: Any = logging) -> None:
        super().__init__(logger=logger)
        self._modules: list[BaseModule] = []
        self._metas: list[dict[str, Any]] = []
        self._label_shapes: Any = None
        self._data_shapes: Any = None

    def add(self, module: BaseModule, **kwargs: Any) -> SequentialModule:
        """Appends a module and returns the chain, which then has to be bound and initialised (again).

        ``take_labels=True``: the module gets the labels of the batch. ``auto_wiring=True``: outputs of the module
        before become its data by position; else their names must agree. AssertionError for another keyword.
        """
        known = {value for name, value in vars(SequentialModule).items() if name.startswith("META_")}
        for key in kwargs:
            assert key in known, f'Unknown meta "{key}", a typo? There are {", ".join(sorted(known))}'
        self._modules.append(module)
        self._metas.append(kwargs)
        self.binded = self.params_initialized = self.optimizer_initialized = False
        return self

    def get_progress(self) -> dict[str, Any]:
        """As BaseModule.get_progress, of each module."""
        return {"modules": [module.get_progress() for module in self._modules]}

    def set_progress(self, progress: Any) -> None:
        """Goes on from what ``get_progress`` gave. MXNetError when there are other modules in the chain."""
        parts = progress.get("modules") if isinstance(progress, dict) else None
        if not isinstance(parts, list) or len(parts) != len(self._modules):
            raise MXNetError(f"the checkpoint is not one of a chain of {len(self._modules)} modules")
        for module, part in zip(self._modules, parts, strict=True):
            module.set_progress(part)

    # ---- what it is

    @property
    def data_names(self) -> Any:
        """Of the first module; [] for an empty chain."""
        return self._modules[0].data_names if self._modules else []

    @property
    def output_names(self) -> Any:
        """Of the last module; [] for an empty chain."""
        return self._modules[-1].output_names if self._modules else []

    @property
    def data_shapes(self) -> Any:
        """Of the first module. AssertionError unless bound."""
        assert self.binded, "data_shapes are known after bind()"
        return self._modules[0].data_shapes

    @property
    def label_shapes(self) -> Any:
        """As bound; None when no module takes labels. AssertionError unless bound."""
        assert self.binded, "label_shapes are known after bind()"
        return self._label_shapes

    @property
    def output_shapes(self) -> Any:
        """Of the last module. AssertionError unless bound."""
        assert self.binded, "output_shapes are known after bind()"
        return self._modules[-1].output_shapes

    # ---- binding and parameters

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
        """Binds every module to the outputs of the one before; all but the first compute gradients of their data.

        AssertionError for an empty chain, with ``shared_module``, and when gradients of inputs are asked for without
        training. A second call warns and does nothing unless ``force_rebind``.
        """
        if self.binded and not force_rebind:
            self.logger.warning("Already bound, ignoring bind()")
            return
        assert for_training or not inputs_need_grad, "gradients of inputs need for_training=True"
        assert shared_module is None, "Shared module is not supported"
        assert self._modules, "Attempting to bind an empty SequentialModule"
        self.binded = True
        self.for_training, self.inputs_need_grad = for_training, inputs_need_grad
        shapes = data_shapes
        for position, (module, meta) in enumerate(zip(self._modules, self._metas, strict=True)):
            if meta.get(self.META_AUTO_WIRING):
                shapes = _renamed(shapes, module.data_names)
            module.bind(
                data_shapes=shapes,
                label_shapes=label_shapes if meta.get(self.META_TAKE_LABELS) else None,
                for_training=for_training,
                inputs_need_grad=bool(inputs_need_grad or (for_training and position > 0)),
                force_rebind=force_rebind,
                shared_module=None,
                grad_req=grad_req,
            )
            shapes = module.output_shapes
        labelled = any(meta.get(self.META_TAKE_LABELS) for meta in self._metas)
        self._label_shapes = label_shapes if labelled else None

    def get_params(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Those of all modules together. AssertionError unless bound and initialised."""
        assert self.binded and self.params_initialized, "get_params() needs bind() and init_params() first"
        arguments: dict[str, NDArray] = {}
        auxiliary: dict[str, NDArray] = {}
        for module in self._modules:
            own_arguments, own_auxiliary = module.get_params()
            arguments.update(own_arguments)
            auxiliary.update(own_auxiliary)
        return arguments, auxiliary

    def init_params(
        self,
        initializer: Any = Uniform(0.01),  # noqa: B008
        arg_params: Arrays | None = None,
        aux_params: Arrays | None = None,
        allow_missing: bool = False,
        force_init: bool = False,
        allow_extra: bool = False,
    ) -> None:
        """As of each module, with the same arguments. AssertionError unless bound, and when two modules have a
        parameter of one name. Initialised parameters stay without ``force_init``."""
        if self.params_initialized and not force_init:
            return
        assert self.binded, "call bind before initializing the parameters"
        for module in self._modules:
            module.init_params(initializer=initializer, arg_params=arg_params, aux_params=aux_params,
                               allow_missing=allow_missing, force_init=force_init, allow_extra=allow_extra)  # fmt: skip
        self._check_names()
        self.params_initialized = True

    def _check_names(self) -> None:
        owners: tuple[dict[str, int], dict[str, int]] = ({}, {})
        for position, module in enumerate(self._modules):
            for known, own in zip(owners, module.get_params(), strict=True):
                for name in own:
                    assert name not in known, (
                        f'Duplicated parameter names: name "{name}" in layer {position} ({type(module).__name__}) is '
                        f"already used in layer {known.get(name)} ({type(self._modules[known[name]]).__name__})"
                    )
                    known[name] = position

    def init_optimizer(
        self,
        kvstore: Any = "local",
        optimizer: Any = "sgd",
        optimizer_params: Any = (("learning_rate", 0.01),),
        force_init: bool = False,
    ) -> None:
        """For every module; each has an optimizer of its own when it is given by name. A second call warns and is
        ignored unless ``force_init``. AssertionError unless bound and initialised."""
        assert self.binded and self.params_initialized, "init_optimizer() needs bind() and init_params() first"
        if self.optimizer_initialized and not force_init:
            self.logger.warning("optimizer already initialized, ignoring.")
            return
        for module in self._modules:
            module.init_optimizer(kvstore=kvstore, optimizer=optimizer, optimizer_params=optimizer_params,
                                  force_init=force_init)  # fmt: skip
        self.optimizer_initialized = True

    # ---- running

    def forward(self, data_batch: Any, is_train: bool | None = None) -> None:
        """Runs the modules in order, each on the outputs of the one before and the labels of the batch."""
        assert self.binded and self.params_initialized, "forward() needs bind() and init_params() first"
        data_batch = copy.copy(data_batch)  # it may carry a bucket_key and more, which all modules should see
        for position, module in enumerate(self._modules):
            module.forward(data_batch, is_train=is_train)
            if position + 1 == len(self._modules):
                break
            data_batch.data = module.get_outputs()
            if hasattr(data_batch, "provide_data"):
                names = [shape[0] for shape in module.output_shapes]
                assert len(names) == len(data_batch.data), f"{len(data_batch.data)} outputs for the names {names}"
                data_batch.provide_data = [
                    (name, array.shape) for name, array in zip(names, data_batch.data, strict=True)
                ]

    def backward(self, out_grads: Any = None) -> None:
        """Runs the modules backward, last to first; ``out_grads``: for the last."""
        assert self.binded and self.params_initialized, "backward() needs bind() and init_params() first"
        for position, module in reversed(list(enumerate(self._modules))):
            module.backward(out_grads=out_grads)
            if position:
                out_grads = module.get_input_grads()

    def update(self) -> None:
        """Of every module. AssertionError unless there is an optimizer."""
        assert self.binded and self.params_initialized and self.optimizer_initialized, (
            "update() needs bind(), init_params() and init_optimizer() first"
        )
        for module in self._modules:
            module.update()

    def get_outputs(self, merge_multi_context: bool = True) -> list[Any]:
        """Of the last module."""
        assert self.binded and self.params_initialized, "get_outputs() needs bind() and init_params() first"
        return self._modules[-1].get_outputs(merge_multi_context=merge_multi_context)

    def get_input_grads(self, merge_multi_context: bool = True) -> list[Any]:
        """Of the first module. AssertionError unless bound with ``inputs_need_grad``."""
        assert self.binded and self.params_initialized and self.inputs_need_grad, (
            "get_input_grads() needs bind(inputs_need_grad=True) and init_params() first"
        )
        return self._modules[0].get_input_grads(merge_multi_context=merge_multi_context)

    def update_metric(self, eval_metric: Any, labels: Any, pre_sliced: bool = False) -> None:
        """By every module that takes labels."""
        assert self.binded and self.params_initialized, "update_metric() needs bind() and init_params() first"
        for module, meta in zip(self._modules, self._metas, strict=True):
            if meta.get(self.META_TAKE_LABELS):
                module.update_metric(eval_metric, labels, pre_sliced)

    def install_monitor(self, mon: Any) -> None:
        """In every module. AssertionError unless bound."""
        assert self.binded, "call bind() before install_monitor()"
        for module in self._modules:
            module.install_monitor(mon)


def _renamed(shapes: Sequence[Any], names: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    assert len(names) == len(shapes), f"auto_wiring: {len(shapes)} outputs for the data {', '.join(names)}"
    return [(name, described[1]) for name, described in zip(names, shapes, strict=True)]


