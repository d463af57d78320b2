"""How the parameters of a module get their values, and users their copies of them."""

from __future__ import annotations

import warnings
from typing import Any

from bucketmod import ndarray as nd
from bucketmod.initializer import InitDesc, Uniform
from bucketmod.module.base_module import Arrays, BaseModule
from bucketmod.module.executor_group import DataParallelExecutorGroup, copy_value
from bucketmod.ndarray import NDArray


class ParameterModule(BaseModule):
    """A module with parameters on the contexts of an executor group.

    ``_arg_params``, ``_aux_params``: the module's own copies by name, which users see; None before there are any.
    """

    _param_names: list[str]
    _aux_names: list[str]
    _arg_params: dict[str, NDArray] | None
    _aux_params: dict[str, NDArray] | None
    _group: DataParallelExecutorGroup | None

    @property
    def _exec_group(self) -> DataParallelExecutorGroup:
        assert self._group is not None, "call bind() first"
        return self._group

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
                    copy_value(name, given[name], array.numpy_view())
                elif given is not None and not allow_missing:
                    raise RuntimeError(f"{name} is not presented: {kind}_params lack it; see allow_missing")
                elif given is None and name in (initial := getattr(self._symbol, "initial_values", {})):
                    array[:] = initial[name]
                elif initializer is not None:
                    initializer(InitDesc(name, attributes.get(name)), array)
        self.params_initialized = True
        self._exec_group.set_params(*groups)
        self._exec_group.memory.copies_stale = False

    def _own_arrays(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """The module's own copies of the parameters, made on first use."""
        store = self._exec_group.memory.contexts[0].store
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

    def get_params(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """(arguments, auxiliary states) by name: the module's own copies, the same arrays each time.

        Writing into them reaches the programs only through ``set_params``. AssertionError unless initialised.
        """
        assert self.params_initialized, "call init_params() before get_params()"
        self._sync_params()
        return self._arg_params or {}, self._aux_params or {}

    def _sync_params(self) -> None:
        """Brings the module's own copies up to date."""
        if self._group is not None and self._group.memory.copies_stale:
            self._group.get_params(*self._own_arrays())
            self._group.memory.copies_stale = False

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
        self._exec_group.set_params(arg_params or {}, aux_params or {}, allow_extra)
        self._own_arrays()
        self._exec_group.memory.copies_stale = True
        self.params_initialized = True
