"""A module of one graph, on one context or data-parallel over several."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bucketmod import binding
from bucketmod.base import MXNetError
from bucketmod.context import Context, cpu
from bucketmod.io import DataDesc
from bucketmod.model import load_checkpoint
from bucketmod.module.executor_group import DataParallelExecutorGroup
from bucketmod.module.input_names import check_input_names, check_names_match, described, present_names
from bucketmod.module.parameter_module import ParameterModule
from bucketmod.module.parameter_updates import ParameterUpdates, create_store, make_optimizer
from bucketmod.ndarray import NDArray


class Module(ParameterModule):
    """A graph (Symbol, or ONNX model), its parameters and an optimizer.

    ``data_names``, ``label_names``, ``state_names``: which arguments of the graph are data, labels and states; the
    others are parameters, in the order of ``list_arguments()``. ``fixed_param_names``: parameters that are not trained.
    ValueError for unknown names of data, states or fixed parameters, a warning for labels.

    ``context``: one, or several that share every batch: each has parameters of its own and runs in a thread of its own.
    ``work_load_list``: how much of a batch each context gets, in proportion (default: equal parts).
    ``compression_params``: for the kvstore that exchanges gradients. ``gpu()`` is refused (NotImplementedError) when
    it would be used.
    """

    def __init__(
        self,
        symbol: Any,
        data_names: Sequence[str] | None = ("data",),
        label_names: Sequence[str] | None = ("softmax_label",),
        logger: Any = logging,
        context: Context | Sequence[Context] = cpu(),  # noqa: B008
        work_load_list: Sequence[float] | None = None,
        fixed_param_names: Sequence[str] | None = None,
        state_names: Sequence[str] | None = None,
        group2ctxs: Any = None,
        compression_params: Mapping[str, Any] | None = None,
    ):
        super().__init__(logger=logger)
        self._context = [context] if isinstance(context, Context) else list(context)
        self._work_load_list = [1] * len(self._context) if work_load_list is None else list(work_load_list)
        assert len(self._work_load_list) == len(self._context), (
            f"work_load_list has {len(self._work_load_list)} entries for {len(self._context)} contexts"
        )
        self._group2ctxs = group2ctxs
        self._compression_params = compression_params
        if binding.is_model(symbol):
            symbol = binding.OnnxModel(symbol, *present_names(symbol, data_names, label_names))
            data_names, label_names = symbol.data_names, symbol.label_names
        self._symbol = symbol
        self._data_names = list(data_names or ())
        self._label_names = list(label_names or ())
        self._state_names = list(state_names or ())
        self._fixed_param_names = list(fixed_param_names or ())
        check_input_names(symbol, self._data_names, "data")
        check_input_names(symbol, self._label_names, "label", throw=False)
        check_input_names(symbol, self._state_names, "state")
        check_input_names(symbol, self._fixed_param_names, "fixed_param")
        given = {*self._data_names, *self._label_names, *self._state_names}
        self._param_names = [name for name in symbol.list_arguments() if name not in given]
        self._aux_names = symbol.list_auxiliary_states()
        self._output_names = symbol.list_outputs()
        self._key: Any = None  # of the bucket, when this module is one
        self._arg_params: dict[str, NDArray] | None = None
        self._aux_params: dict[str, NDArray] | None = None
        self._updates: ParameterUpdates | None = None
        self._apply_updates: Callable[[], None] | None = None
        self._applied_version = 0
        self._preload_opt_states: str | None = None
        self._reset_bind()

    @staticmethod
    def load(prefix: str, epoch: int, load_optimizer_states: bool = False, **kwargs: Any) -> Module:
        """A module from a checkpoint, not bound yet; ``kwargs`` go to the constructor.

        ``load_optimizer_states``: also take ``prefix-<epoch>.states``, once ``init_optimizer`` is called.
        """
        symbol, arg_params, aux_params = load_checkpoint(prefix, epoch)
        module = Module(symbol, **kwargs)
        module._arg_params, module._aux_params = arg_params, aux_params
        module.params_initialized = True
        if load_optimizer_states:
            module._preload_opt_states = f"{prefix}-{epoch:04d}.states"
        return module

    def save_checkpoint(
        self, prefix: str, epoch: int, save_optimizer_states: bool = False, remove_amp_cast: bool = True
    ) -> None:
        """Writes ``prefix-symbol.json``, ``prefix-<epoch>.params`` and, when asked, ``prefix-<epoch>.states``."""
        self._symbol.save(f"{prefix}-symbol.json", remove_amp_cast=remove_amp_cast)
        parameters = f"{prefix}-{epoch:04d}.params"
        self.save_params(parameters)
        logging.info('Saved checkpoint to "%s"', parameters)
        if save_optimizer_states:
            states = f"{prefix}-{epoch:04d}.states"
            self.save_optimizer_states(states)
            logging.info('Saved optimizer state to "%s"', states)

    def _reset_bind(self) -> None:
        self.binded = False
        self._group: DataParallelExecutorGroup | None = None
        self._apply_updates = None
        self._data_shapes: list[DataDesc] = []
        self._label_shapes: list[DataDesc] | None = None

    # ---- what it is

    @property
    def data_names(self) -> list[str]:
        """Names of the data inputs."""
        return self._data_names

    @property
    def label_names(self) -> list[str]:
        """Names of the labels."""
        return self._label_names

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return self._output_names

    @property
    def data_shapes(self) -> list[DataDesc]:
        """As bound, or reshaped last. AssertionError unless bound."""
        assert self.binded, "data_shapes are known after bind()"
        return self._data_shapes

    @property
    def label_shapes(self) -> list[DataDesc] | None:
        """As bound, or reshaped last; None without labels. AssertionError unless bound."""
        assert self.binded, "label_shapes are known after bind()"
        return self._label_shapes

    @property
    def output_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """(name, shape) of each output. AssertionError unless bound."""
        assert self.binded, "output_shapes are known after bind()"
        return self._exec_group.get_output_shapes()

    @property
    def _optimizer(self) -> Any:
        return self._updates.optimizer if self._updates is not None else None

    @property
    def _updater(self) -> Any:
        return self._updates.updater if self._updates is not None else None

    @property
    def _kvstore(self) -> Any:
        return self._updates.kvstore if self._updates is not None else None

    @property
    def _update_on_kvstore(self) -> Any:
        return self._updates.on_kvstore if self._updates is not None else None

    # ---- binding

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
        """Infers all shapes and takes memory; nothing is compiled until a forward needs it.

        ``data_shapes``, ``label_shapes``: DataDesc or (name, shape). Data must be named as the module's data names
        (ValueError), labels should be (warning). ``grad_req``: write, add (gradients add up over backwards) or null,
        for all, in a list by argument, or in a dict by name. ``shared_module``: a bound and initialised Module whose
        parameters, gradients, memory and optimizer this one uses. A second call warns and does nothing unless
        ``force_rebind``. Raises ShapeError (an MXNetError) where shapes disagree.
        """
        if force_rebind and self.binded:
            if self.params_initialized:
                self.get_params()
            self._reset_bind()
        if self.binded:
            self.logger.warning("Already bound, ignoring bind()")
            return
        assert for_training or not inputs_need_grad, "gradients of inputs need for_training=True"
        self._check_features()
        shared = _checked_shared(shared_module)
        data, labels = self._checked_shapes(data_shapes, label_shapes)
        self._group = DataParallelExecutorGroup(
            self._symbol, self._context, self._work_load_list, data, labels, self._param_names, for_training,
            inputs_need_grad,
            shared_group=shared._exec_group if shared is not None else None,
            logger=self.logger, fixed_param_names=self._fixed_param_names, grad_req=grad_req,
            state_names=self._state_names, group2ctxs=self._group2ctxs, key=self._key,
        )  # fmt: skip
        self._data_shapes, self._label_shapes = data, labels
        self.for_training, self.inputs_need_grad, self.binded = for_training, inputs_need_grad, True
        if shared is not None:
            self.params_initialized = True
            self._arg_params, self._aux_params = shared._arg_params, shared._aux_params
            if shared.optimizer_initialized:
                self.borrow_optimizer(shared)
        elif self.params_initialized:
            self._group.set_params(self._arg_params or {}, self._aux_params or {})

    def _check_features(self) -> None:
        """NotImplementedError for what this version accepts in the constructor but cannot run."""
        for context in self._context:
            if context.device_type not in ("cpu", "cpu_pinned", "cpu_shared"):
                raise NotImplementedError(f"CUDA execution: context {context} cannot run programs; use mx.cpu()")
        groups = binding.prepare_group2ctxs(self._group2ctxs, len(self._context))
        placed = [context for group in groups for context in group.values()]
        for context in placed:
            if context.device_type not in ("cpu", "cpu_pinned", "cpu_shared"):
                raise NotImplementedError(f"CUDA execution: group2ctxs places nodes on {context}; use mx.cpu()")

    def _checked_shapes(
        self, data_shapes: Sequence[Any], label_shapes: Sequence[Any] | None
    ) -> tuple[list[DataDesc], list[DataDesc] | None]:
        data = [described(item) for item in data_shapes]
        labels = [described(item) for item in label_shapes] if label_shapes is not None else None
        check_names_match(self._data_names, data, "data", throw=True)
        check_names_match(self._label_names, labels or [], "label", throw=False)
        return data, labels or None

    def reshape(self, data_shapes: Sequence[Any], label_shapes: Sequence[Any] | None = None) -> None:
        """Changes the shapes of data and labels, keeping all parameters. AssertionError unless bound.

        Other shapes are another program, which is found or compiled when it first runs.
        """
        assert self.binded, "call bind() before reshape()"
        data, labels = self._checked_shapes(data_shapes, label_shapes)
        self._exec_group.reshape(data, labels)
        self._data_shapes, self._label_shapes = data, labels

    # ---- optimizer

    def init_optimizer(
        self,
        kvstore: Any = "local",
        optimizer: Any = "sgd",
        optimizer_params: Any = (("learning_rate", 0.01),),
        force_init: bool = False,
    ) -> None:
        """Makes the optimizer: by name, with ``optimizer_params``, or an Optimizer as it is.

        By name, gradients are divided by the batch size (of all contexts together) unless ``optimizer_params`` has
        ``rescale_grad``. ``kvstore``: adds gradients up over contexts, and with ``MXNET_UPDATE_ON_KVSTORE`` (default)
        runs the optimizer; a name, a store, or None: every context trains by its own gradients, on its own. One
        context needs no store by name. SGD and Adam get compiled kernels, found or compiled like the programs of a
        graph, with the same errors. A second call warns and is ignored unless ``force_init``. AssertionError unless
        bound and initialised; TypeError for another kvstore; NotImplementedError for names with dist.
        """
        assert self.binded and self.params_initialized, "init_optimizer() needs bind() and init_params() first"
        if self.optimizer_initialized and not force_init:
            self.logger.warning("optimizer already initialized, ignoring...")
            return
        self._sync_params()
        group, arg_params = self._exec_group, self._arg_params or {}
        store, on_store = create_store(kvstore, len(self._context), arg_params)
        contexts = 1 if on_store else len(self._context)
        names = {
            position * contexts + context: name
            for context in range(contexts)
            for position, name in enumerate(self._param_names)
        }
        made = make_optimizer(optimizer, dict(optimizer_params), self._symbol, names, group.batch_size or 1)
        self._updates = ParameterUpdates(made, store, on_store, self._param_names, isinstance(kvstore, str))
        self._updates.start(group, arg_params, self._compression_params)
        self._apply_updates = None
        self.optimizer_initialized = True
        if self._preload_opt_states is not None:
            self.load_optimizer_states(self._preload_opt_states)
            self._preload_opt_states = None

    def borrow_optimizer(self, shared_module: Module) -> None:
        """Uses the optimizer, with its states and its store, of another module. AssertionError unless that one has an
        optimizer."""
        assert shared_module.optimizer_initialized, "the other module has no optimizer: call its init_optimizer()"
        self._updates = shared_module._updates
        self._apply_updates = None
        self.optimizer_initialized = True

    def update(self) -> None:
        """Changes the parameters by the gradients of the last backward. AssertionError unless there is an optimizer."""
        assert self.binded and self.params_initialized and self.optimizer_initialized, (
            "update() needs bind(), init_params() and init_optimizer() first"
        )
        group = self._exec_group
        group.memory.copies_stale = True
        if self._apply_updates is None or self._applied_version != group.memory.version:
            assert self._updates is not None
            self._apply_updates = self._updates.bind(group)
            self._applied_version = group.memory.version
        group.wait()
        self._apply_updates()

    def save_optimizer_states(self, fname: str) -> None:
        """Writes the optimizer's states (not its counts). AssertionError unless there is an optimizer."""
        assert self.optimizer_initialized and self._updates is not None, "call init_optimizer() first"
        self._updates.save_states(fname)

    def load_optimizer_states(self, fname: str) -> None:
        """Reads what ``save_optimizer_states`` wrote. AssertionError unless there is an optimizer."""
        assert self.optimizer_initialized and self._updates is not None, "call init_optimizer() first"
        self._updates.load_states(fname)

    # ---- running

    def forward(self, data_batch: Any, is_train: bool | None = None) -> None:
        """Computes the outputs for a batch.

        ``is_train``: default: as bound. Arrays shaped unlike the bound ones reshape the module first, to
        ``data_batch.provide_data`` and ``provide_label`` where it has them. A batch without labels leaves the last
        ones in place. AssertionError unless bound and initialised; MXNetError for arrays that do not fit.
        """
        assert self.binded and self.params_initialized, "forward() needs bind() and init_params() first"
        group = self._exec_group
        if isinstance(data_batch, list):
            assert len(data_batch) == len(self._context), "a list of batches has one for each context"
            shapes = _shapes_of_list([batch.data for batch in data_batch], group.data_layouts)
        else:
            shapes = [array.shape for array in data_batch.data]
        if shapes != group.bound_shapes:
            self._reshape_for(data_batch, shapes)
        group.forward(data_batch, is_train)

    def _reshape_for(self, batch: Any, shapes: Sequence[tuple[int, ...]]) -> None:
        """Reshapes to what a batch says, or to what its arrays show."""
        data_shapes = getattr(batch, "provide_data", None) or [
            DataDesc(desc.name, shape, desc.dtype, desc.layout)
            for desc, shape in zip(self._data_shapes, shapes, strict=False)
        ]
        check_names_match(self._data_names, [described(item) for item in data_shapes], "data", throw=True)
        label_shapes = getattr(batch, "provide_label", None)
        if not label_shapes and self._label_shapes:
            parts = batch if isinstance(batch, list) else [batch]
            labels: list[Any] = [getattr(part, "label", None) for part in parts]
            if not all(labels):
                raise MXNetError(
                    f"a batch of other shapes ({', '.join(map(str, shapes))}) must bring labels too: the module was "
                    f"bound with {', '.join(desc.name for desc in self._label_shapes)}"
                )
            axes = [DataDesc.get_batch_axis(desc.layout) for desc in self._label_shapes]
            label_shapes = [
                DataDesc(desc.name, shape, desc.dtype, desc.layout)
                for desc, shape in zip(self._label_shapes, _shapes_of_list(labels, axes), strict=False)
            ]
        self.reshape(data_shapes, label_shapes or None)

    def backward(self, out_grads: Any = None) -> None:
        """Computes gradients after a forward.

        ``out_grads``: a list with a gradient for each output, in order, or the only one; losses need none.
        AssertionError unless bound for training; MXNetError when the gradient of an output that is no loss is missing.
        """
        assert self.binded and self.params_initialized, "backward() needs bind() and init_params() first"
        assert self.for_training, "re-bind with for_training=True to run backward"
        if isinstance(out_grads, NDArray):
            out_grads = [out_grads]
        for gradient in out_grads or ():
            assert isinstance(gradient, NDArray), f"gradients of outputs must be NDArrays, got {type(gradient)}"
        self._exec_group.backward(out_grads=out_grads)

    def get_outputs(self, merge_multi_context: bool = True) -> list[Any]:
        """Outputs of the last forward, joined over contexts; of one context views, valid until the next forward of any
        bucket.

        ``merge_multi_context=False``: a list a context for each output.
        """
        assert self.binded and self.params_initialized, "get_outputs() needs bind() and init_params() first"
        return self._exec_group.get_outputs(merge_multi_context=merge_multi_context)

    def get_input_grads(self, merge_multi_context: bool = True) -> list[Any]:
        """Gradients of the data inputs, in the order of ``data_shapes``. AssertionError unless bound with
        ``inputs_need_grad``."""
        assert self.binded and self.params_initialized and self.inputs_need_grad, (
            "get_input_grads() needs bind(inputs_need_grad=True) and init_params() first"
        )
        return self._exec_group.get_input_grads(merge_multi_context=merge_multi_context)

    def get_states(self, merge_multi_context: bool = True) -> list[Any]:
        """A list a context for each state. AssertionError unless ``merge_multi_context`` is False."""
        assert self.binded and self.params_initialized, "get_states() needs bind() and init_params() first"
        return self._exec_group.get_states(merge_multi_context=merge_multi_context)

    def set_states(self, states: Any = None, value: Any = None) -> None:
        """Fills the states with ``value``, or copies ``states`` (shaped as ``get_states`` gives them) into them.

        AssertionError unless exactly one of the two is given.
        """
        assert self.binded and self.params_initialized, "set_states() needs bind() and init_params() first"
        self._exec_group.set_states(states, value)

    def update_metric(self, eval_metric: Any, labels: Any, pre_sliced: bool = False) -> None:
        """Adds the last outputs and these labels to a metric, context after context. ``pre_sliced``: labels come as a
        list a context."""
        self._exec_group.update_metric(eval_metric, labels, pre_sliced)

    def prepare(self, data_batch: Any, sparse_row_id_fn: Callable[..., Any] | None = None) -> None:
        """Makes ready what the next batch needs: row_sparse parameters, of which ``sparse_row_id_fn(data_batch)`` gives
        the rows by name, from the kvstore that updates them. Others need nothing: a warning. AssertionError unless
        bound."""
        assert self.binded, "call bind() before prepare()"
        if sparse_row_id_fn is None:
            return
        if self._updates is None or not self._updates.on_kvstore:
            warnings.warn("Parameters are not updated in the KVStore. No need to call sparse_row_id_fn.", stacklevel=2)
            return
        row_ids = sparse_row_id_fn(data_batch)
        assert isinstance(row_ids, dict), f"sparse_row_id_fn must give a dict, got {type(row_ids)}"
        self._updates.pull_rows(self._exec_group, row_ids)

    def install_monitor(self, mon: Any) -> None:
        """Has a monitor (see ``mx.mon.Monitor``) watch every operator, forward and backward. AssertionError unless
        bound; NotImplementedError for ONNX models when they run."""
        assert self.binded, "call bind() before install_monitor()"
        self._exec_group.install_monitor(mon)


def _checked_shared(shared_module: Any) -> Module | None:
    if shared_module is None:
        return None
    assert isinstance(shared_module, Module), f"shared_module must be a Module, got {type(shared_module)}"
    assert shared_module.binded and shared_module.params_initialized, "shared_module must be bound and initialised"
    return shared_module


def _shapes_of_list(batches: Sequence[Sequence[NDArray]], axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes of the arrays of one batch for each context, joined along ``axes``. AssertionError when they differ."""
    first, *others = [[array.shape for array in arrays] for arrays in batches]
    assert all(shapes == first for shapes in others), "all batches in a list need arrays of the same shapes"
    return [
        shape if axis < 0 else (*shape[:axis], len(batches) * shape[axis], *shape[axis + 1 :])
        for shape, axis in zip(first, axes, strict=False)
    ]
