"""A module of one graph on one context."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod import binding
from bucketmod import ndarray as nd
from bucketmod import optimizer as opt
from bucketmod.atomic_file import replacing
from bucketmod.base import MXNetError
from bucketmod.context import Context, cpu
from bucketmod.initializer import InitDesc, Uniform
from bucketmod.io import DataDesc
from bucketmod.model import load_checkpoint
from bucketmod.module.base_module import Arrays, BaseModule
from bucketmod.module.executor_group import ExecutorGroup, SharedMemory, parse_grad_req
from bucketmod.ndarray import NDArray
from bucketmod.runtime.parameter_store import ParameterStore


class Module(BaseModule):
    """A graph (Symbol, or ONNX model), its parameters and an optimizer.

    ``data_names``, ``label_names``, ``state_names``: which arguments of the graph are data, labels and states; the
    others are parameters, in the order of ``list_arguments()``. ``fixed_param_names``: parameters that are not trained.
    ValueError for unknown names of data, states or fixed parameters, a warning for labels.

    One context, on the CPU, runs in this version: several contexts, ``gpu()``, ``group2ctxs`` and
    ``compression_params`` are accepted here and refused (NotImplementedError) where they would be used.
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
            symbol = binding.OnnxModel(symbol, *_present_names(symbol, data_names, label_names))
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
        self._optimizer: opt.Optimizer | None = None
        self._updater: opt.Updater | None = None
        self._update_index: dict[str, int] = {}
        self._updates: tuple[list[int], list[NDArray], list[NDArray]] | None = None
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
        self._memory: SharedMemory | None = None
        self._group: ExecutorGroup | None = None
        self._groups: dict[Any, ExecutorGroup] = {}
        self._grad_req: Any = "write"
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
        return list(self._exec_group.bucket.outputs)

    @property
    def _exec_group(self) -> ExecutorGroup:
        assert self._group is not None, "call bind() first"
        return self._group

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
        self._memory = shared._memory if shared is not None else SharedMemory()
        self._grad_req = parse_grad_req(
            grad_req if for_training else "null",
            self._symbol.list_arguments(),
            self._param_names,
            self._fixed_param_names,
            self._data_names if inputs_need_grad else [],
        )
        self._use_shapes(data_shapes, label_shapes)
        self.for_training, self.inputs_need_grad, self.binded = for_training, inputs_need_grad, True
        self._updates = None
        if shared is not None:
            self.params_initialized = True
            self._arg_params, self._aux_params = shared._arg_params, shared._aux_params
            if shared.optimizer_initialized:
                self.borrow_optimizer(shared)
        elif self.params_initialized:
            self._write_params(self._arg_params or {}, self._aux_params or {})

    def _check_features(self) -> None:
        """NotImplementedError for what this version accepts in the constructor but cannot run."""
        if len(self._context) > 1:
            raise NotImplementedError(
                f"data parallelism over several contexts ({', '.join(map(str, self._context))}): give one context"
            )
        if self._context[0].device_type not in ("cpu", "cpu_pinned", "cpu_shared"):
            raise NotImplementedError(f"CUDA execution: context {self._context[0]} cannot run programs; use mx.cpu()")
        groups = self._group2ctxs if isinstance(self._group2ctxs, (list, tuple)) else [self._group2ctxs or {}]
        placed = [c for group in groups for each in group.values() for c in np.ravel(np.array(each, dtype=object))]
        if any(context != self._context[0] for context in placed):
            raise NotImplementedError("group2ctxs: placing parts of a graph on several contexts")

    def _use_shapes(self, data_shapes: Sequence[Any], label_shapes: Sequence[Any] | None) -> None:
        """Makes the group for these shapes current; groups once made are kept."""
        data = [_described(item) for item in data_shapes]
        labels = [_described(item) for item in label_shapes] if label_shapes is not None else None
        check_names_match(self._data_names, data, "data", throw=True)
        check_names_match(self._label_names, labels or [], "label", throw=False)
        batch_size = _common_batch_size([*data, *(labels or [])])
        key = (tuple((d.name, d.shape, str(d.dtype)) for d in data), tuple((d.name, d.shape) for d in labels or ()))
        group = self._groups.get(key)
        if group is None:
            bucket = binding.make_bucket(
                self._symbol, data, labels, data_names=self._data_names, label_names=self._label_names,
                state_names=self._state_names, key=self._key,
            )  # fmt: skip
            group = ExecutorGroup(
                bucket, self._shared, [d.name for d in data], [d.name for d in labels or ()], self._grad_req, batch_size
            )
            self._groups[key] = group
        self._group, self._data_shapes, self._label_shapes = group, data, labels or None

    def reshape(self, data_shapes: Sequence[Any], label_shapes: Sequence[Any] | None = None) -> None:
        """Changes the shapes of data and labels, keeping all parameters. AssertionError unless bound.

        Other shapes are another program, which is found or compiled when it first runs.
        """
        assert self.binded, "call bind() before reshape()"
        self._use_shapes(data_shapes, label_shapes)

    # ---- parameters

    def init_params(
        self,
        initializer: Any = Uniform(0.01),  # noqa: B008
        arg_params: Arrays | None = None,
        aux_params: Arrays | None = None,
        allow_missing: bool = False,
        force_init: bool = False,
        allow_extra: bool = False,
    ) -> None:
        """Gives every parameter a value: from ``arg_params`` and ``aux_params``, else from the initialiser (or, for an
        ONNX model, from the model itself).

        A parameter that given ``arg_params`` lack is a RuntimeError unless ``allow_missing``; names that the module
        does not have are ignored. Warns and does nothing when initialised already, unless ``force_init``.
        AssertionError unless bound.
        """
        if self.params_initialized and not force_init:
            warnings.warn("Parameters already initialized and force_init=False. init_params call ignored.",
                          stacklevel=2)  # fmt: skip
            return
        assert self.binded, "call bind before initializing the parameters"
        attributes = self._symbol.attr_dict()
        groups = self._own_arrays()
        for kind, given, arrays in zip(("arg", "aux"), (arg_params, aux_params), groups, strict=True):
            for name, array in sorted(arrays.items()):
                if given is not None and name in given:
                    _copy_param(name, given[name], array)
                elif given is not None and not allow_missing:
                    raise RuntimeError(f"{name} is not presented: {kind}_params lack it; see allow_missing")
                elif given is None and name in (initial := getattr(self._symbol, "initial_values", {})):
                    array[:] = initial[name]
                elif initializer is not None:
                    initializer(InitDesc(name, attributes.get(name)), array)
        self.params_initialized = True
        self._write_params(*groups)
        self._shared.copies_stale = False

    def _own_arrays(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """The module's own copies of the parameters, made on first use."""
        store = self._store
        if self._arg_params is None or self._aux_params is None:
            self._arg_params, self._aux_params = {}, {}
        for names, own, arrays in (
            (self._param_names, self._arg_params, store.parameters),
            (self._aux_names, self._aux_params, store.auxiliary),
        ):
            for name in names:
                if name not in own:
                    own[name] = nd.zeros(arrays[name].shape, dtype=arrays[name].dtype)
        return (
            {name: self._arg_params[name] for name in self._param_names},
            {name: self._aux_params[name] for name in self._aux_names},
        )

    @property
    def _shared(self) -> SharedMemory:
        assert self._memory is not None, "call bind() first"
        return self._memory

    @property
    def _store(self) -> ParameterStore:
        return self._shared.store

    def _write_params(self, arg_params: Arrays, aux_params: Arrays, allow_extra: bool = False) -> None:
        """Copies values to where programs read them; ValueError for names that the graph does not have."""
        for given, names, arrays in (
            (arg_params, self._param_names, self._store.parameters),
            (aux_params, self._aux_names, self._store.auxiliary),
        ):
            known = set(names)
            for name, value in given.items():
                if name in known:
                    _copy_param(name, value, NDArray(arrays[name]))
                elif not allow_extra:
                    raise ValueError(f'Find name "{name}" that is not in the arguments: see allow_extra')

    def get_params(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """(arguments, auxiliary states) by name: the module's own copies, the same arrays each time.

        Writing into them reaches the programs only through ``set_params``. AssertionError unless initialised.
        """
        assert self.params_initialized, "call init_params() before get_params()"
        self._sync_params()
        return self._arg_params or {}, self._aux_params or {}

    def _sync_params(self) -> None:
        """Brings the module's own copies up to date."""
        if self._memory is None or not self._memory.copies_stale:
            return
        arguments, auxiliary = self._own_arrays()
        for own, arrays in ((arguments, self._store.parameters), (auxiliary, self._store.auxiliary)):
            for name, array in own.items():
                np.copyto(array.numpy_view(), arrays[name])
        self._memory.copies_stale = False

    def set_params(
        self,
        arg_params: Arrays | None,
        aux_params: Arrays | None,
        allow_missing: bool = False,
        force_init: bool = True,
        allow_extra: bool = False,
    ) -> None:
        """Gives parameters new values.

        Without ``allow_missing`` as ``init_params`` (missing names: RuntimeError, extra ones ignored); with it, only
        what is given changes, and extra names are a ValueError unless ``allow_extra``. With ``force_init=False`` an
        initialised module warns and keeps its values.
        """
        if not allow_missing:
            self.init_params(initializer=None, arg_params=arg_params, aux_params=aux_params, allow_missing=False,
                             force_init=force_init, allow_extra=allow_extra)  # fmt: skip
            return
        if self.params_initialized and not force_init:
            warnings.warn("Parameters already initialized and force_init=False. set_params call ignored.",
                          stacklevel=2)  # fmt: skip
            return
        assert self.binded, "call bind before initializing the parameters"
        self._write_params(arg_params or {}, aux_params or {}, allow_extra)
        self._own_arrays()
        self._shared.copies_stale = True
        self.params_initialized = True

    # ---- optimizer

    def init_optimizer(
        self,
        kvstore: Any = "local",
        optimizer: Any = "sgd",
        optimizer_params: Any = (("learning_rate", 0.01),),
        force_init: bool = False,
    ) -> None:
        """Makes the optimizer: by name, with ``optimizer_params``, or an Optimizer as it is.

        By name, gradients are divided by the batch size unless ``optimizer_params`` has ``rescale_grad``. One context
        needs no ``kvstore``: None and names without dist are accepted, others are NotImplementedError, other types
        TypeError. SGD and Adam get compiled kernels, found or compiled like the programs of a graph, with the same
        errors. A second call warns and is ignored unless ``force_init``. AssertionError unless bound and
        initialised.
        """
        assert self.binded and self.params_initialized, "init_optimizer() needs bind() and init_params() first"
        if self.optimizer_initialized and not force_init:
            self.logger.warning("optimizer already initialized, ignoring...")
            return
        _check_kvstore(kvstore)
        rescale_grad = 1.0 / self._exec_group.batch_size
        names = dict(enumerate(self._param_names))
        if isinstance(optimizer, str):
            options = {"rescale_grad": rescale_grad, **dict(optimizer_params)}
            optimizer = opt.create(optimizer, sym=self._symbol, param_idx2name=names, **options)
        else:
            assert isinstance(optimizer, opt.Optimizer), f"expected a name or an Optimizer, got {type(optimizer)}"
            if optimizer.rescale_grad != rescale_grad:
                warnings.warn(
                    f"the optimizer's rescale_grad is {optimizer.rescale_grad}, not 1 / batch size ({rescale_grad}): "
                    "gradients are sums over the batch; is this intended?",
                    stacklevel=2,
                )
            if not optimizer.idx2name:
                optimizer.idx2name = names
        if optimizer.uses_kernels and optimizer.kernels is opt.REFERENCE:
            optimizer.kernels = opt.CompiledKernels(binding.update_kernels(binding.default_target()))
        self._optimizer = optimizer
        self._updater = opt.get_updater(optimizer)
        self._update_index = {name: index for index, name in names.items()}
        self._updates = None
        self.optimizer_initialized = True
        if self._preload_opt_states is not None:
            self.load_optimizer_states(self._preload_opt_states)
            self._preload_opt_states = None

    def borrow_optimizer(self, shared_module: Module) -> None:
        """Uses the optimizer, with its states, of another module. AssertionError unless that one has an optimizer."""
        assert shared_module.optimizer_initialized, "the other module has no optimizer: call its init_optimizer()"
        self._optimizer = shared_module._optimizer
        self._updater = shared_module._updater
        self._update_index = shared_module._update_index
        self._updates = None
        self.optimizer_initialized = True

    def update(self) -> None:
        """Changes the parameters by the gradients of the last backward. AssertionError unless there is an optimizer."""
        assert self.binded and self.params_initialized and self.optimizer_initialized, (
            "update() needs bind(), init_params() and init_optimizer() first"
        )
        assert self._updater is not None
        self._shared.copies_stale = True
        if self._updates is None:
            self._updates = self._list_updates()
        self._updater(*self._updates)

    def _list_updates(self) -> tuple[list[int], list[NDArray], list[NDArray]]:
        """(index, gradient, parameter) of all that is trained. The index is that of the module that made the optimizer,
        so that states stay with their parameter in buckets that order parameters differently."""
        if not self.for_training:
            raise MXNetError("update() needs a module that was bound with for_training=True")
        names = [name for name in self._param_names if self._grad_req[name] != "null"]
        if strangers := [name for name in names if name not in self._update_index]:
            raise MXNetError(f"the optimizer does not know {', '.join(strangers)}: it was made for another graph")
        return (
            [self._update_index[name] for name in names],
            [NDArray(self._store.gradients[name]) for name in names],
            [NDArray(self._store.parameters[name]) for name in names],
        )

    def save_optimizer_states(self, fname: str) -> None:
        """Writes the optimizer's states (not its counts). AssertionError unless there is an optimizer."""
        assert self.optimizer_initialized and self._updater is not None, "call init_optimizer() first"
        states = self._updater.get_states()
        with replacing(fname) as stream:
            stream.write(states)

    def load_optimizer_states(self, fname: str) -> None:
        """Reads what ``save_optimizer_states`` wrote. AssertionError unless there is an optimizer."""
        assert self.optimizer_initialized and self._updater is not None, "call init_optimizer() first"
        with open(fname, "rb") as file:
            self._updater.set_states(file.read())

    # ---- running

    def forward(self, data_batch: Any, is_train: bool | None = None) -> None:
        """Computes the outputs for a batch.

        ``is_train``: default: as bound. Arrays shaped unlike the bound ones reshape the module first, to
        ``data_batch.provide_data`` and ``provide_label`` where it has them. A batch without labels leaves the last
        ones in place. AssertionError unless bound and initialised; MXNetError for arrays that do not fit.
        """
        assert self.binded and self.params_initialized, "forward() needs bind() and init_params() first"
        if isinstance(data_batch, list):
            assert len(data_batch) == len(self._context), "a list of batches has one for each context"
            data_batch = data_batch[0]
        data, labels = data_batch.data, getattr(data_batch, "label", None)
        if [array.shape for array in data] != [desc.shape for desc in self._data_shapes]:
            self._reshape_for(data_batch, data, labels)
        self._exec_group.forward(data, labels, self.for_training if is_train is None else is_train)

    def _reshape_for(self, batch: Any, data: Sequence[NDArray], labels: Sequence[NDArray] | None) -> None:
        """Reshapes to what a batch says, or to what its arrays show."""
        data_shapes = getattr(batch, "provide_data", None) or _reshaped(self._data_shapes, data)
        check_names_match(self._data_names, [_described(item) for item in data_shapes], "data", throw=True)
        label_shapes = getattr(batch, "provide_label", None)
        if not label_shapes and self._label_shapes:
            if not labels:
                raise MXNetError(
                    f"a batch of other shapes ({', '.join(str(array.shape) for array in data)}) must bring labels too: "
                    f"the module was bound with {', '.join(desc.name for desc in self._label_shapes)}"
                )
            label_shapes = _reshaped(self._label_shapes, labels)
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
        self._exec_group.backward(out_grads)

    def get_outputs(self, merge_multi_context: bool = True) -> list[Any]:
        """Outputs of the last forward: views, valid until the next forward of any bucket.

        ``merge_multi_context=False``: a list a context for each output.
        """
        assert self.binded and self.params_initialized, "get_outputs() needs bind() and init_params() first"
        outputs = self._exec_group.outputs()
        return outputs if merge_multi_context else [[output] for output in outputs]

    def get_input_grads(self, merge_multi_context: bool = True) -> list[Any]:
        """Gradients of the data inputs, in the order of ``data_shapes``. AssertionError unless bound with
        ``inputs_need_grad``."""
        assert self.binded and self.params_initialized and self.inputs_need_grad, (
            "get_input_grads() needs bind(inputs_need_grad=True) and init_params() first"
        )
        gradients = self._exec_group.input_gradients([desc.name for desc in self._data_shapes])
        return gradients if merge_multi_context else [[gradient] for gradient in gradients]

    def get_states(self, merge_multi_context: bool = True) -> list[Any]:
        """A list a context for each state. AssertionError unless ``merge_multi_context`` is False."""
        assert self.binded and self.params_initialized, "get_states() needs bind() and init_params() first"
        assert not merge_multi_context, "merge_multi_context=True is not supported for get_states yet."
        return [[NDArray(state)] for state in self._exec_group.states(self._state_names)]

    def set_states(self, states: Any = None, value: Any = None) -> None:
        """Fills the states with ``value``, or copies ``states`` (shaped as ``get_states`` gives them) into them.

        AssertionError unless exactly one of the two is given.
        """
        assert self.binded and self.params_initialized, "set_states() needs bind() and init_params() first"
        assert (states is None) != (value is None), "set_states() takes exactly one of states and value"
        buffers = self._exec_group.states(self._state_names)
        for index, buffer in enumerate(buffers):
            if value is not None:
                buffer[...] = value
            else:
                given = states[index][0] if isinstance(states[index], (list, tuple)) else states[index]
                np.copyto(buffer, given.numpy_view().reshape(buffer.shape), casting="unsafe")

    def update_metric(self, eval_metric: Any, labels: Any, pre_sliced: bool = False) -> None:
        """Adds the last outputs and these labels to a metric. ``pre_sliced``: labels come as a list a context."""
        if pre_sliced:
            labels = labels[0]
        names = [desc.name for desc in self._label_shapes or ()] or self._label_names
        outputs = dict(zip(self._output_names, self.get_outputs(), strict=True))
        eval_metric.update_dict(dict(zip(names, labels or (), strict=False)), outputs)

    def prepare(self, data_batch: Any, sparse_row_id_fn: Callable[..., Any] | None = None) -> None:
        """AssertionError unless bound; there is nothing to make ready."""
        assert self.binded, "call bind() before prepare()"
        super().prepare(data_batch, sparse_row_id_fn)

    def install_monitor(self, mon: Any) -> None:
        """NotImplementedError: programs are compiled as a whole and do not show values in between."""
        assert self.binded, "call bind() before install_monitor()"
        raise NotImplementedError("install_monitor: monitored programs, which show every operator's output")


def check_input_names(symbol: Any, names: Sequence[str], kind: str, throw: bool = True) -> None:
    """ValueError (or a warning) for names that are no arguments of the symbol, with those that they may be."""
    arguments = symbol.list_arguments()
    for name in names:
        if name in arguments:
            continue
        parameters = (".weight", "_weight", "_bias", "_gamma", "_beta")
        candidates = difflib.get_close_matches(name, arguments) or [a for a in arguments if not a.endswith(parameters)]
        message = (
            f"{kind}_names {list(names)}: the symbol has no argument {name!r}. Did you mean one of: "
            f"{', '.join(candidates)}"
        )
        if throw:
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)


def _present_names(model: Any, data_names: Any, label_names: Any) -> tuple[Any, Any]:
    """The default names ("data", "softmax_label") count for an ONNX model only if it has such inputs."""
    inputs = {value.name for value in model.graph.input}
    data_names = None if data_names == ("data",) and "data" not in inputs else data_names
    label_names = () if label_names == ("softmax_label",) and "softmax_label" not in inputs else label_names
    return data_names, label_names


def check_names_match(names: Sequence[str], shapes: Sequence[DataDesc], kind: str, throw: bool) -> None:
    """ValueError (or a warning) when shapes are given for other names than the module has."""
    found = [desc.name for desc in shapes]
    if sorted(found) != sorted(names):
        message = f"{kind}_shapes are given for {found}, but {kind}_names are {list(names)}"
        if throw:
            raise ValueError(message)
        warnings.warn(message, stacklevel=4)


def _checked_shared(shared_module: Any) -> Module | None:
    if shared_module is None:
        return None
    assert isinstance(shared_module, Module), f"shared_module must be a Module, got {type(shared_module)}"
    assert shared_module.binded and shared_module.params_initialized, "shared_module must be bound and initialised"
    return shared_module


def _described(item: Any) -> DataDesc:
    desc = item if isinstance(item, DataDesc) else DataDesc(*item)
    if isinstance(desc.shape, (list, tuple)):
        return DataDesc(desc.name, tuple(desc.shape), desc.dtype, desc.layout)
    raise TypeError(f"shape of {desc.name!r} must be a tuple, got {desc.shape!r}")


def _reshaped(descs: Sequence[DataDesc], arrays: Sequence[NDArray]) -> list[DataDesc]:
    return [DataDesc(d.name, array.shape, d.dtype, d.layout) for d, array in zip(descs, arrays, strict=False)]


def _common_batch_size(descs: Sequence[DataDesc]) -> int:
    """Size of the batch axis (N of the layout); AssertionError when inputs disagree."""
    size = None
    for desc in descs:
        axis = DataDesc.get_batch_axis(desc.layout)
        if axis < 0 or axis >= len(desc.shape):
            continue
        assert size is None or desc.shape[axis] == size, (
            f"all data must have the same batch size: batch_size = {size}, but {desc.name} has shape {desc.shape} "
            f"(layout {desc.layout})"
        )
        size = desc.shape[axis]
    return size or 1


def _copy_param(name: str, value: NDArray, array: NDArray) -> None:
    if tuple(value.shape) != array.shape:
        raise MXNetError(f"parameter {name!r} has shape {array.shape}, the value given for it {tuple(value.shape)}")
    if value is not array:
        array[:] = value


def _check_kvstore(kvstore: Any) -> None:
    if kvstore is not None and not isinstance(kvstore, str):
        raise TypeError(f"kvstore must be a name or None, got {type(kvstore)}")
    if kvstore is not None and "dist" in kvstore:
        raise NotImplementedError(f"kvstore {kvstore!r}: training on several machines")
