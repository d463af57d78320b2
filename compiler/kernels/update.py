"""Optimizer updates over flat float32 arrays of any length, in place; one build serves every parameter.

The arithmetic is that of MXNet 1.9.1's ``sgd_update``, ``sgd_mom_update`` and ``adam_update``, in its order of
operations. Arguments are those of ``bucketmod.optimizer.UpdateKernels``, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import IRModule, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.kernel import TUNED

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any
_CHUNK = 8192  # values that a task updates: no effect on the result, which is element-wise


@dataclass(frozen=True)
class Update:
    """``arrays``: in the order of arguments; ``scalars``: those that follow.

    ``step(arrays, scalars)``: new values of the arrays that change, from one element (or vector) of each array."""

    name: str
    arrays: tuple[str, ...]
    scalars: tuple[str, ...]
    step: Callable[[dict[str, Expr], dict[str, Expr]], dict[str, Expr]]


def update_module(cpu: CpuFeatures) -> IRModule:
    """Functions of flat arrays (n,), n known at run time, followed by float32 scalars:

    - ``sgd_update(weight, grad, lr, wd, rescale_grad, clip_gradient)``
    - ``sgd_mom_update(weight, grad, mom, lr, momentum, wd, rescale_grad, clip_gradient)``
    - ``adam_update(weight, grad, mean, var, lr, beta1, beta2, epsilon, wd, rescale_grad, clip_gradient)``; ``lr`` is
      corrected for bias by the caller.

    All arrays but ``grad`` are updated; they must not overlap. A negative ``clip_gradient`` clips nothing.
    """
    return IRModule({update.name: _build(update, cpu) for update in UPDATES})


def _build(update: Update, cpu: CpuFeatures) -> Any:
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name(update.name)
        T.func_attr({"global_symbol": update.name, "tirx.noalias": True, TUNED: True})
        n = tirx.Var("n", "int64")
        arrays = {name: T.arg(name, T.buffer((n,), "float32", layout=None)) for name in update.arrays}
        scalars = {name: T.arg(name, tirx.Var(name, "float32")) for name in update.scalars}
        scalars["bound"] = T.bind(
            tirx.Select(scalars["clip_gradient"] >= 0.0, scalars["clip_gradient"], T.infinity("float32"))
        )
        limit = int(streams.WORTH_THREADS_NS / ((2 * len(arrays) - 1) * streams.NS_PER_FLOAT))
        tasks = (n + _CHUNK - 1) // _CHUNK
        with T.If(n > limit):
            with T.Then(), T.parallel(tasks) as task:
                _chunk(update, arrays, scalars, task, n, cpu.lanes)
            with T.Else(), T.serial(tasks) as task:
                _chunk(update, arrays, scalars, task, n, cpu.lanes)
    return ib.get()


def _chunk(
    update: Update, arrays: dict[str, Expr], scalars: dict[str, Expr], task: Expr, n: Expr, lanes: int
) -> None:
    first = T.bind(task * _CHUNK)
    count = T.bind(T.min(n - first, _CHUNK))

    def change(index: Expr, width: int) -> None:
        values = {name: array[index] for name, array in arrays.items()}
        wide = {name: value if width == 1 else tirx.Broadcast(value, width) for name, value in scalars.items()}
        for name, value in update.step(values, wide).items():
            T.buffer_store(arrays[name], value, [index])

    with T.serial(count // lanes) as vector:
        change(T.ramp(first + vector * lanes, 1, lanes), lanes)
    with T.serial(count % lanes) as rest:
        change(first + count // lanes * lanes + rest, 1)


def _clipped(gradient: Expr, bound: Expr) -> Expr:
    """``gradient`` within [-bound, bound]; NaN stays NaN, which min and max do not promise."""
    above = tirx.Select(gradient > bound, bound, gradient)
    return tirx.Select(gradient < -bound, -bound, above)


def _one(like: Expr) -> Expr:
    lanes = like.ty.dtype.lanes
    return tirx.FloatImm("float32", 1.0) if lanes == 1 else tirx.Broadcast(tirx.FloatImm("float32", 1.0), lanes)


def _sgd(x: dict[str, Expr], s: dict[str, Expr]) -> dict[str, Expr]:
    gradient = _clipped(s["rescale_grad"] * x["grad"], s["bound"])
    return {"weight": (_one(s["lr"]) - s["lr"] * s["wd"]) * x["weight"] - s["lr"] * gradient}


def _sgd_mom(x: dict[str, Expr], s: dict[str, Expr]) -> dict[str, Expr]:
    gradient = _clipped(s["rescale_grad"] * x["grad"], s["bound"])
    mom = T.bind(s["momentum"] * x["mom"] - s["lr"] * s["wd"] * x["weight"] - s["lr"] * gradient)
    return {"mom": mom, "weight": x["weight"] + mom}


def _adam(x: dict[str, Expr], s: dict[str, Expr]) -> dict[str, Expr]:
    # Unlike SGD, weight decay joins the gradient before it is clipped.
    gradient = T.bind(_clipped(s["rescale_grad"] * x["grad"] + s["wd"] * x["weight"], s["bound"]))
    mean = T.bind(s["beta1"] * x["mean"] + (_one(s["beta1"]) - s["beta1"]) * gradient)
    var = T.bind(s["beta2"] * x["var"] + (_one(s["beta2"]) - s["beta2"]) * gradient * gradient)
    return {
        "mean": mean,
        "var": var,
        "weight": x["weight"] - s["lr"] * mean / (tirx.sqrt(var) + s["epsilon"]),
    }


_COMMON = ("wd", "rescale_grad", "clip_gradient")
UPDATES: Sequence[Update] = (
    Update("sgd_update", ("weight", "grad"), ("lr", *_COMMON), _sgd),
    Update("sgd_mom_update", ("weight", "grad", "mom"), ("lr", "momentum", *_COMMON), _sgd_mom),
    Update("adam_update", ("weight", "grad", "mean", "var"), ("lr", "beta1", "beta2", "epsilon", *_COMMON), _adam),
)
