"""Puts a kernel into the Relax function under construction."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvm import relax

from bucketmod.compiler.kernels.kernel import COMMON, FLOPS, IN_PLACE, Kernel, TensorShape

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

# What a worker remembers of earlier programs: inference has most forward kernels of training, twenty at most.
_KEPT = 64
# Values of a weight that is worth a kernel and a place of its own: smaller ones are packed in a microsecond.
_LEAST_KEPT = 4096


def emit_kernel(context: Any, kernel: Kernel, args: Sequence[Any]) -> list[Any]:
    """Emits one call of ``kernel`` with the inputs ``args`` into ``context.bb`` and returns its outputs.

    On a CPU the tuned form is taken where there is one. Equal kernels share one function of the module
    (``context.functions``). An argument whose shape differs from the kernel's but not its size is reshaped. Scratch
    buffers of the tuned form become outputs of the call that nothing reads, so the memory plan gives them a place.

    A weight that a tuned form brings into another order is packed by a kernel of its own where it follows from
    parameters: programs for inference do that once for each set of parameters (``lowering.preparation``). What is left
    is cut as ``context.tuner`` says, if there is one.
    """
    cpu = context.target.cpu
    split = kernel.with_packed_weight(cpu, context.inference) if cpu is not None else None
    if split is not None and _is_kept(context, args[split[0]]):
        index, pack, kernel = split
        (packed,) = emit_kernel(context, pack, [args[index]])
        args = [*args[:index], packed, *args[index + 1 :]]
    if context.tuner is not None:
        kernel = context.tuner.choose(kernel)
    if kernel not in context.functions:
        context.functions[kernel] = _add_function(context, kernel)
    function, inputs, outputs = context.functions[kernel]
    if len(args) != len(inputs):
        raise ValueError(f"kernel {kernel.name} takes {len(inputs)} inputs, got {len(args)}")
    args = [_shaped(context, arg, shape) for arg, shape in zip(args, inputs, strict=True)]
    types = [relax.TensorType(shape, dtype) for shape, dtype in outputs]
    call = context.bb.emit(relax.call_tir(function, args, out_ty=types if len(types) > 1 else types[0]))
    if len(types) == 1:
        return [call]
    return [context.bb.emit(relax.TupleGetItem(call, i)) for i in range(len(kernel.outputs))]


def _is_kept(context: Any, weight: Any) -> bool:
    size = math.prod(int(d) for d in weight.ty.shape)
    return size >= _LEAST_KEPT and context.follows_from_parameters(weight)


def _add_function(context: Any, kernel: Kernel) -> tuple[Any, list[tuple[int, ...]], list[TensorShape]]:
    """Returns the global variable, the shapes of the inputs, and shape and dtype of everything the function writes."""
    function, outputs = _function(kernel, context.target.cpu)
    inputs = [tuple(int(d) for d in buffer.shape) for buffer in function.params[: -len(outputs)]]
    return context.bb.add_func(function, kernel.name), inputs, outputs


@functools.lru_cache(maxsize=_KEPT)
def _function(kernel: Kernel, cpu: CpuFeatures | None) -> tuple[Any, list[TensorShape]]:
    """The function that ``emit_kernel`` takes, and shape and dtype of everything it writes."""
    function = kernel.tuned(cpu) if cpu is not None else None
    outputs = list(kernel.outputs)
    if cpu is None or function is None:
        function = kernel.portable()
    else:
        outputs += kernel.scratch(cpu)
        if kernel.in_place:
            function = function.with_attr(IN_PLACE, kernel.in_place)
    if kernel.flops:
        function = function.with_attr(FLOPS, str(kernel.flops))  # text, for there may be more than 32 bits of them
    if kernel.common:
        function = function.with_attr(COMMON, True)
    return function.without_attr("global_symbol"), outputs


def _shaped(context: Any, arg: Any, shape: tuple[int, ...]) -> Any:
    if tuple(int(d) for d in arg.ty.shape) == shape:
        return arg
    return context.bb.emit(relax.op.reshape(arg, shape))
