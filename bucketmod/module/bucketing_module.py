"""Bucketing: one graph for each bucket key, made by ``sym_gen(key)`` and bound when its first batch arrives.

All buckets share one set of parameters, gradients and optimizer states, and one workspace as large as the largest
bucket needs. The bucket of the batch that came last is the current one; what is asked of the module is asked of it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bucketmod import checkpoint
from bucketmod.base import MXNetError
from bucketmod.binding import is_model
from bucketmod.context import Context, cpu
from bucketmod.initializer import Uniform
from bucketmod.module.base_module import Arrays, BaseModule
from bucketmod.module.bucketing_checkpoint import (
    bucket_keys,
    load_by_integer_keys,
    save_by_integer_keys,
    whole_is_later,
)
from bucketmod.module.module import Module
from bucketmod.name import NameManager
from bucketmod.ndarray import NDArray


class BucketingModule(BaseModule):
    """A Module for each bucket key.

    ``sym_gen(key)`` returns (symbol, data names, label names), where the names may be None; for an ``onnx.ModelProto``
    the model alone is enough. ``default_bucket_key``: the bucket that ``bind`` binds; best the largest. The other
    arguments are those of Module.

    AssertionError without ``default_bucket_key``; ValueError as in Module. Whatever ``sym_gen`` raises comes through.
    """

    def __init__(
        self,
        sym_gen: Callable[[Any], Any],
        default_bucket_key: Any = None,
        logger: Any = logging,
        context: Context | Sequence[Context] = cpu(),  # noqa: B008
        work_load_list: Sequence[float] | None = None,
        fixed_param_names: Sequence[str] | None = None,
        state_names: Sequence[str] | None = None,
        group2ctxs: Any = None,
        compression_params: Mapping[str, Any] | None = None,
    ):
        super().__init__(logger=logger)
        assert default_bucket_key is not None, "BucketingModule needs default_bucket_key"
        self._default_bucket_key = default_bucket_key
        self._sym_gen = sym_gen
        self._options: dict[str, Any] = dict(
            logger=logger, context=context, work_load_list=work_load_list, fixed_param_names=fixed_param_names,
            state_names=state_names, group2ctxs=group2ctxs, compression_params=compression_params,
        )  # fmt: skip
        self._new_module(default_bucket_key)  # checks the names
        self._buckets: dict[Any, Module] = {}
        self._curr_module: Module | None = None
        self._curr_bucket_key: Any = None
        self._monitor: Any = None
        self._grad_req: Any = "write"
        self._preload_progress: Any = None  # for the optimizer, once it is there

    # ---- making buckets

    def _call_sym_gen(self, key: Any) -> tuple[Any, Sequence[str] | None, Sequence[str] | None]:
        """Automatic names start at 0 for every bucket, so that the same operators have the same names."""
        with NameManager():
            made = self._sym_gen(key)
        if is_model(made):
            return made, None, None
        symbol, data_names, label_names = made
        return symbol, data_names, label_names

    def _new_module(self, key: Any) -> Module:
        symbol, data_names, label_names = self._call_sym_gen(key)
        module = Module(symbol, data_names, label_names, **self._options)
        module._key = key
        return module

    def switch_bucket(
        self, bucket_key: Any, data_shapes: Sequence[Any], label_shapes: Sequence[Any] | None = None
    ) -> None:
        """Makes the bucket current; one that was never seen is made and bound to these shapes first.

        The shapes of a bucket that is bound already are not looked at. AssertionError unless bound.
        """
        assert self.binded, "call bind before switching bucket"
        module = self._buckets.get(bucket_key)
        if module is None or not module.binded:
            module = self._bind_bucket(bucket_key, module, data_shapes, label_shapes)
        self._curr_module, self._curr_bucket_key = module, bucket_key

    def _bind_bucket(
        self, key: Any, module: Module | None, data_shapes: Sequence[Any], label_shapes: Sequence[Any] | None
    ) -> Module:
        if data_shapes is None:
            raise TypeError(
                f"bucket {key!r} is not bound yet: a batch needs bucket_key and provide_data, and switch_bucket() the "
                "shapes of the data"
            )
        current, default = self._current, self._buckets[self._default_bucket_key]
        module = module or self._new_module(key)
        self._check_parameters(key, module, default)
        module.bind(data_shapes, label_shapes, current.for_training, current.inputs_need_grad,
                    shared_module=default, grad_req=self._grad_req)  # fmt: skip
        if self._monitor is not None:
            module.install_monitor(self._monitor)
        self._buckets[key] = module
        return module

    def _check_parameters(self, key: Any, module: Module, default: Module) -> None:
        """MXNetError for parameters that the default bucket does not have: nothing would initialise them."""
        own = {*module._param_names, *module._aux_names}
        if strangers := sorted(own - {*default._param_names, *default._aux_names}):
            raise MXNetError(
                f"bucket {key!r} has parameters that the default bucket {self._default_bucket_key!r} lacks: "
                f"{', '.join(strangers)}. All buckets share the default bucket's parameters: check the names that "
                "sym_gen gives"
            )

    @property
    def _current(self) -> Module:
        assert self._curr_module is not None, "call bind() first"
        return self._curr_module

    def _reset_bind(self) -> None:
        self.binded = False
        self._buckets = {}
        self._curr_module = None
        self._curr_bucket_key = None

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
        """Binds the default bucket; the others are bound in the same way when they come.

        ``force_rebind`` forgets all buckets but keeps parameters and optimizer. A second call without it warns and
        does nothing. AssertionError when ``shared_module`` is given.
        """
        kept = self.get_params() if self.params_initialized else None
        old = self._buckets.get(self._default_bucket_key)
        if force_rebind:
            self._reset_bind()
        if self.binded:
            self.logger.warning("Already bound, ignoring bind()")
            return
        assert shared_module is None, "shared_module for BucketingModule is not supported"
        module = self._buckets.get(self._default_bucket_key) or self._new_module(self._default_bucket_key)
        module.bind(data_shapes, label_shapes, for_training, inputs_need_grad, grad_req=grad_req)
        self.for_training, self.inputs_need_grad, self._grad_req = for_training, inputs_need_grad, grad_req
        self._buckets[self._default_bucket_key] = module
        self._curr_module, self._curr_bucket_key = module, self._default_bucket_key
        self.binded = True
        if kept is not None:
            self.set_params(*kept)
        if old is not None and old is not module and old.optimizer_initialized:
            module.borrow_optimizer(old)

    # ---- each batch in its bucket

    def forward(self, data_batch: Any, is_train: bool | None = None) -> None:
        """Switches to ``data_batch.bucket_key`` (bound to ``provide_data`` and ``provide_label`` at its first batch),
        then as Module.forward. AssertionError unless bound and initialised."""
        assert self.binded and self.params_initialized, "forward() needs bind() and init_params() first"
        self.switch_bucket(data_batch.bucket_key, data_batch.provide_data, data_batch.provide_label)
        self._current.forward(data_batch, is_train=is_train)

    def prepare(self, data_batch: Any, sparse_row_id_fn: Callable[..., Any] | None = None) -> None:
        """Binds the bucket of a coming batch; the current bucket, its outputs and gradients stay as they are."""
        assert self.binded and self.params_initialized, "prepare() needs bind() and init_params() first"
        current = self._curr_bucket_key
        self.switch_bucket(data_batch.bucket_key, data_batch.provide_data, data_batch.provide_label)
        self._current.prepare(data_batch, sparse_row_id_fn=sparse_row_id_fn)
        self.switch_bucket(current, None, None)  # type: ignore[arg-type]  # bound already: shapes are not looked at

    def backward(self, out_grads: Any = None) -> None:
        """Of the current bucket; see Module.backward."""
        assert self.binded and self.params_initialized, "backward() needs bind() and init_params() first"
        self._current.backward(out_grads=out_grads)

    def update(self) -> None:
        """Changes the parameters by the current bucket's gradients. AssertionError unless there is an optimizer."""
        assert self.binded and self.params_initialized and self.optimizer_initialized, (
            "update() needs bind(), init_params() and init_optimizer() first"
        )
        self._current.update()

    def get_outputs(self, merge_multi_context: bool = True) -> list[Any]:
        """Of the current bucket; see Module.get_outputs."""
        assert self.binded and self.params_initialized, "get_outputs() needs bind() and init_params() first"
        return self._current.get_outputs(merge_multi_context=merge_multi_context)

    def get_input_grads(self, merge_multi_context: bool = True) -> list[Any]:
        """Of the current bucket; see Module.get_input_grads."""
        assert self.binded and self.params_initialized and self.inputs_need_grad, (
            "get_input_grads() needs bind(inputs_need_grad=True) and init_params() first"
        )
        return self._current.get_input_grads(merge_multi_context=merge_multi_context)

    def get_states(self, merge_multi_context: bool = True) -> list[Any]:
        """Of the current bucket; see Module.get_states."""
        assert self.binded and self.params_initialized, "get_states() needs bind() and init_params() first"
        return self._current.get_states(merge_multi_context=merge_multi_context)

    def set_states(self, states: Any = None, value: Any = None) -> None:
        """Of the current bucket; see Module.set_states."""
        assert self.binded and self.params_initialized, "set_states() needs bind() and init_params() first"
        self._current.set_states(states, value)

    def update_metric(self, eval_metric: Any, labels: Any, pre_sliced: bool = False) -> None:
        """With the current bucket's outputs; see Module.update_metric."""
        assert self.binded and self.params_initialized, "update_metric() needs bind() and init_params() first"
        self._current.update_metric(eval_metric, labels, pre_sliced)

    def install_monitor(self, mon: Any) -> None:
        """For all buckets, also later ones. AssertionError unless bound; see Module.install_monitor."""
        assert self.binded, "call bind() before install_monitor()"
        for module in self._buckets.values():
            module.install_monitor(mon)
        self._monitor = mon

    # ---- parameters and optimizer, one set for all buckets

    def init_params(
        self,
        initializer: Any = Uniform(0.01),  # noqa: B008
        arg_params: Arrays | None = None,
        aux_params: Arrays | None = None,
        allow_missing: bool = False,
        force_init: bool = False,
        allow_extra: bool = False,
    ) -> None:
        """See Module.init_params; without ``force_init``, initialised parameters stay without a word."""
        if self.params_initialized and not force_init:
            return
        assert self.binded, "call bind before initializing the parameters"
        self._current.init_params(initializer, arg_params, aux_params, allow_missing, force_init, allow_extra)
        self.params_initialized = True

    def set_params(
        self,
        arg_params: Arrays | None,
        aux_params: Arrays | None,
        allow_missing: bool = False,
        force_init: bool = True,
        allow_extra: bool = False,
    ) -> None:
        """See Module.set_params."""
        if not allow_missing:
            self.init_params(initializer=None, arg_params=arg_params, aux_params=aux_params, allow_missing=False,
                             force_init=force_init)  # fmt: skip
            return
        if self.params_initialized and not force_init:
            warnings.warn("Parameters already initialized and force_init=False. set_params call ignored.",
                          stacklevel=2)  # fmt: skip
            return
        assert self.binded, "call bind before initializing the parameters"
        self._current.set_params(arg_params, aux_params, allow_missing=True, force_init=force_init,
                                 allow_extra=allow_extra)  # fmt: skip
        self.params_initialized = True

    def get_params(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """See Module.get_params. AssertionError unless initialised."""
        assert self.params_initialized, "call init_params() before get_params()"
        if self._curr_module is None:  # loaded, and not bound yet
            return self._buckets[self._default_bucket_key].get_params()
        return self._curr_module.get_params()

    def init_optimizer(
        self,
        kvstore: Any = "local",
        optimizer: Any = "sgd",
        optimizer_params: Any = (("learning_rate", 0.01),),
        force_init: bool = False,
    ) -> None:
        """One optimizer for all buckets; see Module.init_optimizer. Gradients are divided by the batch size of the
        current bucket. A second call warns and is ignored unless ``force_init``."""
        assert self.binded and self.params_initialized, "init_optimizer() needs bind() and init_params() first"
        if self.optimizer_initialized and not force_init:
            self.logger.warning("optimizer already initialized, ignoring.")
            return
        self._current.init_optimizer(kvstore, optimizer, optimizer_params, force_init=force_init)
        for module in self._buckets.values():
            if module is not self._curr_module and module.binded:
                module.borrow_optimizer(self._current)
        self.optimizer_initialized = True
        if self._preload_progress is not None:
            self.set_progress(self._preload_progress)
            self._preload_progress = None

    # ---- what the current bucket is

    @property
    def data_names(self) -> Sequence[str] | None:
        """Of the current bucket; before bind, as ``sym_gen`` gives them for the default one."""
        if self.binded:
            return self._current.data_names
        symbol, data_names, _ = self._call_sym_gen(self._default_bucket_key)
        return self._new_module(self._default_bucket_key).data_names if is_model(symbol) else data_names

    @property
    def output_names(self) -> list[str]:
        """Of the current bucket; before bind, of the default one."""
        return self._current.output_names if self.binded else self._new_module(self._default_bucket_key).output_names

    @property
    def symbol(self) -> Any:
        """Of the current bucket. AssertionError unless bound."""
        assert self.binded, "the symbol of the current bucket is known after bind()"
        return self._current.symbol

    @property
    def data_shapes(self) -> Any:
        """Of the current bucket. AssertionError unless bound."""
        assert self.binded, "data_shapes are known after bind()"
        return self._current.data_shapes

    @property
    def label_shapes(self) -> Any:
        """Of the current bucket. AssertionError unless bound."""
        assert self.binded, "label_shapes are known after bind()"
        return self._current.label_shapes

    @property
    def output_shapes(self) -> Any:
        """Of the current bucket. AssertionError unless bound."""
        assert self.binded, "output_shapes are known after bind()"
        return self._current.output_shapes

    # ---- checkpoints

    def get_progress(self) -> dict[str, Any]:
        """As BaseModule.get_progress, with the keys of all buckets seen so far."""
        return {"module": self._some_bucket.get_progress(), "buckets": list(self._buckets)}

    def set_progress(self, progress: Any) -> None:
        """Goes on from what ``get_progress`` gave. MXNetError when module or optimizer are of another kind."""
        if not isinstance(progress, dict) or not isinstance(progress.get("buckets"), list):
            raise MXNetError("the checkpoint is not one of a BucketingModule")
        self._current.set_progress(progress["module"])

    @property
    def _some_bucket(self) -> Module:
        return self._curr_module or self._buckets[self._default_bucket_key]

    def save_checkpoint(
        self, prefix: str, epoch: int, remove_amp_cast: bool = False, save_optimizer_states: bool = False
    ) -> None:
        """Integer keys: as MXNet, ``prefix-<epoch>.params``, the graph of every bucket seen so far
        (``prefix-<key>-symbol.json``) and their keys (``prefix.buckets``).

        With other keys (text, numbers, None, tuples of them), or ``save_optimizer_states``: one whole file
        ``prefix-<epoch>.checkpoint``, with the optimizer, its counts and schedule. AssertionError when there are no
        buckets, or no optimizer to save; TypeError for keys that are no plain data.
        """
        assert self._buckets, "Empty BucketingModule cannot be saved"
        assert self.optimizer_initialized or not save_optimizer_states, "call init_optimizer() first"
        if save_optimizer_states or not all(isinstance(key, int) for key in self._buckets):
            checkpoint.save(prefix, epoch, self)
        else:
            save_by_integer_keys(self, prefix, epoch, self._buckets, remove_amp_cast)

    @staticmethod
    def load(
        prefix: str,
        epoch: int,
        sym_gen: Any = None,
        default_bucket_key: Any = None,
        load_optimizer_states: bool = False,
        **kwargs: Any,
    ) -> BucketingModule:
        """A module from what ``save_checkpoint`` wrote, in either way (the later, if both are there), not bound yet.

        ``load_optimizer_states``: ``init_optimizer`` goes on with the optimizer of a ``.checkpoint`` file, which must
        be of the same class. ``kwargs`` go to the constructor. AssertionError without ``sym_gen`` or
        ``default_bucket_key``; MXNetError when files are missing or damaged.
        """
        assert sym_gen is not None, "sym_gen is required for loading BucketingModule"
        assert default_bucket_key is not None, "default_bucket_key is required for loading BucketingModule"
        if not load_optimizer_states and not whole_is_later(prefix, epoch):
            symbols, arg_params, aux_params = load_by_integer_keys(prefix, epoch)
            return BucketingModule.load_dict(symbols, sym_gen, default_bucket_key, arg_params, aux_params, **kwargs)
        found = checkpoint.load(prefix, epoch)
        keys = bucket_keys(found)
        module = BucketingModule.load_dict(
            {}, sym_gen, default_bucket_key, found.arg_params, found.aux_params, **kwargs
        )  # buckets that were seen exist again, with graphs from sym_gen; they are bound when their batches come
        module._buckets.update({key: module._new_module(key) for key in keys if key not in module._buckets})
        module._preload_progress = found.progress if load_optimizer_states else None
        return module

    @staticmethod
    def load_dict(
        sym_dict: Mapping[Any, Any] | None = None,
        sym_gen: Any = None,
        default_bucket_key: Any = None,
        arg_params: Arrays | None = None,
        aux_params: Arrays | None = None,
        **kwargs: Any,
    ) -> BucketingModule:
        """A module from symbols by bucket key and parameters, not bound yet. ``sym_gen`` gives the names of data and
        labels, and the symbols of further buckets. AssertionError when one of the first five is missing."""
        required = dict(sym_dict=sym_dict, sym_gen=sym_gen, default_bucket_key=default_bucket_key,
                        arg_params=arg_params, aux_params=aux_params)  # fmt: skip
        for name, value in required.items():
            assert value is not None, f"{name} needs to be provided for BucketingModule.load_dict"
        module = BucketingModule(sym_gen, default_bucket_key, **kwargs)
        _, data_names, label_names = module._call_sym_gen(default_bucket_key)
        for key, symbol in dict(sym_dict or {}).items():
            bucket = Module(symbol, data_names, label_names, **module._options)
            bucket._key = key
            module._buckets[key] = bucket
        if default_bucket_key not in module._buckets:
            module._buckets[default_bucket_key] = module._new_module(default_bucket_key)
        default = module._buckets[default_bucket_key]
        default._arg_params, default._aux_params = dict(arg_params or {}), dict(aux_params or {})
        default.params_initialized = True
        module.params_initialized = True
        return module

