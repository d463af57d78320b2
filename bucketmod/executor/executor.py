"""Executor: one Symbol, bound to arrays for all its arguments, run by its compiled programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod import random
from bucketmod.base import MXNetError
from bucketmod.binding import Bucket, default_target, monitored
from bucketmod.context import Context
from bucketmod.executor.arrays import BoundArrays, as_dict
from bucketmod.executor.shapes import bucket_for, reshaped
from bucketmod.ndarray import NDArray
from bucketmod.runtime.executor import Executor as ProgramExecutor
from bucketmod.runtime.workspace import InputBuffers, Workspace

MonitorCallback = Callable[[str, NDArray], Any]
_SEED_MASK = (1 << 63) - 1  # the generator takes a non-negative int64


class Executor:
    """Made by ``Symbol.bind`` and ``Symbol.simple_bind``.

    ``arg_arrays``, ``aux_arrays``: in the order of ``list_arguments()`` and ``list_auxiliary_states()``; programs read
    and write them in place. ``grad_arrays``: gradients in the order of the arguments, None for those without one (for
    all when there are none). A program is found or compiled when it is first needed, with the errors of
    ``bucketmod.binding.obtain``.
    """

    def __init__(
        self,
        symbol: Any,
        ctx: Context,
        bucket: Bucket,
        arg_arrays: Sequence[NDArray],
        grad_arrays: Sequence[NDArray | None] | None,
        grad_req: Mapping[str, str],
        aux_arrays: Sequence[NDArray],
        group2ctx: Mapping[str, Context] | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        """``bucket``: the symbol with its shapes, every argument a parameter; ``grad_req``: null, write or add by
        argument; ``workspace``: shared with other executors, whose results then end when this one runs."""
        self._symbol = symbol
        self._ctx = ctx
        self._bucket = bucket
        self._group2ctx = dict(group2ctx) if group2ctx else None
        self._grad_req = dict(grad_req)
        self.arg_arrays = list(arg_arrays)
        self.grad_arrays = list(grad_arrays) if grad_arrays is not None else None
        self.aux_arrays = list(aux_arrays)
        self._wrt = tuple(
            name for name, array in self.grad_dict.items() if array is not None and grad_req.get(name, "null") != "null"
        )
        gradients = {name: array for name in self._wrt if (array := self.grad_dict[name]) is not None}
        arguments = dict(zip(symbol.list_arguments(), self.arg_arrays, strict=True))
        self._arrays = BoundArrays(arguments, gradients, self.aux_dict)
        self._workspace = workspace if workspace is not None else Workspace()
        self._inputs = InputBuffers()
        self._programs: dict[tuple[bool, bool], ProgramExecutor] = {}
        self._last: ProgramExecutor | None = None
        self._outputs: list[NDArray] | None = None
        self._monitor: tuple[MonitorCallback, bool] | None = None

    # ---- running

    def forward(self, is_train: bool = False, **kwargs: NDArray | np.ndarray) -> list[NDArray]:
        """Computes the outputs, which come back: views of memory that the next run overwrites.

        ``is_train``: training mode; ``kwargs``: arrays to copy into arguments first. TypeError for a name that is no
        argument, ValueError for an array of another shape and for what is no array.
        """
        self._assign(kwargs)
        self._run(self._program(bool(is_train), with_gradients=bool(is_train)))
        return self.outputs

    def _assign(self, arrays: Mapping[str, Any]) -> None:
        arguments = self.arg_dict
        for name, array in arrays.items():
            if not isinstance(array, (NDArray, np.ndarray)):
                raise ValueError(f"argument {name}: only NDArrays and numpy arrays are accepted, got {type(array)}")
            if name not in arguments:
                raise TypeError(f"Unknown argument {name}; the arguments are {', '.join(arguments)}")
            if arguments[name].shape != array.shape:
                raise ValueError(f"Shape not match! Argument {name}, need: {arguments[name].shape}, received: "
                                 f"{array.shape}")  # fmt: skip
            arguments[name][:] = array

    def _program(self, is_train: bool, with_gradients: bool) -> ProgramExecutor:
        """The program for a mode; without arrays for gradients, there is none with a backward part."""
        key = is_train, with_gradients and bool(self._wrt)
        if key not in self._programs:
            wrt = self._wrt if key[1] else ()
            add = frozenset(name for name in wrt if self._grad_req[name] == "add")
            bucket = self._bucket if self._monitor is None else monitored(self._bucket, *self._monitor)
            self._programs[key] = bucket.executor(
                is_train, wrt, default_target(), self._arrays.store, self._workspace, self._inputs, add
            )
        return self._programs[key]

    def _run(self, program: ProgramExecutor) -> None:
        self._arrays.load()
        if program.takes_seed:
            seed, step = random.next_step()
            program.forward((seed & _SEED_MASK, step))
        else:
            program.forward()
        self._arrays.save()
        self._last = program
        self._outputs = [NDArray(array, ctx) for array, ctx in zip(program.outputs(), self._output_contexts(),
                                                                   strict=True)]  # fmt: skip

    def backward(self, out_grads: Any = None, is_train: bool = True) -> None:
        """Computes the gradients of the last forward into ``grad_arrays``, as ``grad_req`` says.

        ``out_grads``: gradients of the outputs: an array for the only one, a list in order, or a dict by output name;
        those of losses do not matter. ``is_train``: False for the gradients of the program for inference. After a
        forward in the other mode (or none), the same arguments run in this mode first. MXNetError when the gradient of
        an output that is no loss is missing or has another shape, TypeError for what is no NDArray, KeyError for a dict
        without one of the outputs.
        """
        heads = self._head_gradients(out_grads)
        if not self._wrt:
            return
        program = self._program(bool(is_train), with_gradients=True)
        if self._last is not program:
            self._run(program)
        self._arrays.load()
        try:
            program.backward(dict(zip((name for name, _ in program.output_shapes), heads, strict=False)))
        except (ValueError, RuntimeError) as error:
            raise MXNetError(str(error)) from None
        self._arrays.save()

    def _head_gradients(self, out_grads: Any) -> list[np.ndarray]:
        if out_grads is None:
            out_grads = []
        elif isinstance(out_grads, NDArray):
            out_grads = [out_grads]
        elif isinstance(out_grads, Mapping):
            out_grads = [out_grads[name] for name in self._symbol.list_outputs()]
        for array in out_grads:
            if not isinstance(array, NDArray):
                raise TypeError(f"gradients of outputs must be NDArrays, got {type(array)}")
        return [array.numpy_view() for array in out_grads]

    def set_monitor_callback(self, callback: MonitorCallback | None, monitor_all: bool = False) -> None:
        """Has ``callback(name, array)`` called for every operator's outputs in each run, and for the gradients that it
        passes on in each backward; with ``monitor_all`` for its inputs before. None ends that.

        A monitored program is another program, with all these values among its outputs.
        """
        self._monitor = (callback, bool(monitor_all)) if callback is not None else None
        self._programs.clear()
        self._last = None

    # ---- what is bound

    @property
    def outputs(self) -> list[NDArray]:
        """Of the last forward, zeros before it."""
        if self._outputs is None:
            contexts = self._output_contexts()
            self._outputs = [
                NDArray(np.zeros(shape, np.float32), ctx)
                for (_, shape), ctx in zip(self._bucket.outputs, contexts, strict=True)
            ]
        return self._outputs

    def _output_contexts(self) -> list[Context]:
        return self._bucket.output_contexts(self._ctx)

    @property
    def arg_dict(self) -> dict[str, NDArray]:
        """Arguments by name. ValueError when two have one name."""
        return as_dict(self._symbol.list_arguments(), self.arg_arrays)  # type: ignore[return-value]

    @property
    def grad_dict(self) -> dict[str, NDArray | None]:
        """Gradients by argument, None where there is none."""
        return as_dict(self._symbol.list_arguments(), self.grad_arrays)

    @property
    def aux_dict(self) -> dict[str, NDArray]:
        """Auxiliary states by name."""
        return as_dict(self._symbol.list_auxiliary_states(), self.aux_arrays)  # type: ignore[return-value]

    @property
    def output_dict(self) -> dict[str, NDArray]:
        """Outputs by name. ValueError when two have one name."""
        return as_dict(self._symbol.list_outputs(), self.outputs)  # type: ignore[return-value]

    def copy_params_from(
        self, arg_params: Mapping[str, NDArray], aux_params: Mapping[str, NDArray] | None = None,
        allow_extra_params: bool = False,
    ) -> None:  # fmt: skip
        """Copies values into arguments and auxiliary states, cast to their types. ValueError for other names unless
        ``allow_extra_params``, MXNetError for other shapes."""
        for given, own, kind in (
            (arg_params, self.arg_dict, "arguments"),
            (aux_params or {}, self.aux_dict, "auxiliary states"),
        ):
            for name, array in given.items():
                if name in own:
                    array.copyto(own[name])
                elif not allow_extra_params:
                    raise ValueError(f'Find name "{name}" that is not in the {kind}')

    def reshape(self, partial_shaping: bool = False, allow_up_sizing: bool = False, **kwargs: Any) -> Executor:
        """An executor for other shapes of arguments, over the memory of this one as far as it reaches.

        ``kwargs``: shapes as tuples by argument. MXNetError when other arguments change their shapes with them unless
        ``partial_shaping``, when one grows unless ``allow_up_sizing`` (it gets memory of its own), and for shapes that
        do not fit the graph.
        """
        shapes = {name: shape for name, shape in kwargs.items() if isinstance(shape, tuple)}
        found, _, aux_shapes = self._symbol.infer_shape(**shapes)
        if found is None:
            raise MXNetError(f"reshape: shapes stay open, given only {shapes}")
        names = self._symbol.list_arguments()
        self._check_reshaping(dict(zip(names, found, strict=True)), set(shapes), partial_shaping, allow_up_sizing)
        arguments = [reshaped(array, shape) for array, shape in zip(self.arg_arrays, found, strict=True)]
        auxiliary = [reshaped(array, shape) for array, shape in zip(self.aux_arrays, aux_shapes, strict=True)]
        gradients = self.grad_arrays and [
            None if array is None else reshaped(array, shape)
            for array, shape in zip(self.grad_arrays, found, strict=True)
        ]
        bucket = bucket_for(self._symbol, self._ctx, arguments, self._group2ctx)
        made = Executor(self._symbol, self._ctx, bucket, arguments, gradients, self._grad_req, auxiliary,
                        self._group2ctx, self._workspace)  # fmt: skip
        made._monitor = self._monitor
        return made

    def _check_reshaping(self, shapes: dict[str, tuple[int, ...]], asked: set[str], partial: bool, grow: bool) -> None:
        for name, array in self.arg_dict.items():
            if shapes[name] != array.shape and name not in asked and not partial:
                raise MXNetError(
                    f"reshape: the shape of argument {name} would change from {array.shape} to {shapes[name]}, though "
                    "none was given for it: give it, or set partial_shaping=True"
                )
            if np.prod(shapes[name]) > array.size and not grow:
                raise MXNetError(
                    f"reshape: argument {name} would grow from {array.shape} to {shapes[name]}: make the largest "
                    "executor first, or set allow_up_sizing=True to give it new memory"
                )

    def debug_str(self) -> str:
        """A readable list of all nodes, and how many MB the arrays and the workspace take."""
        arrays = [*self.arg_arrays, *(self.grad_arrays or ()), *self.aux_arrays]
        total = sum(array.numpy_view().nbytes for array in arrays if array is not None) + self._workspace.nbytes
        return f"{self._symbol.debug_str()}Total {total >> 20} MB allocated\nTotal 1 TempSpace resource requested\n"

    def get_optimized_symbol(self) -> Any:
        """A copy of the symbol: what is optimised is the program behind it, not the symbol."""
        return self._symbol.copy()
