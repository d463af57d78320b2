"""Hides from TVM's fusion that kernels have several outputs.

``FuseOps`` (0.27) takes a group's use of some items of a tuple as parameters of these items. With several such tuples
it puts them in places that it found before it moved them, in an order that follows addresses in memory: programs then
fail to compile in one process and not in the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import ir, relax

_ITEM = "bucketmod.tuple_item"  # never runs: it stands for the item until fusion is over


def hide_tuple_items() -> Any:
    """Every item of a tuple becomes the result of a call that nothing is fused with."""

    def hide(value: Any) -> Any:
        if not isinstance(value, relax.TupleGetItem):
            return value
        return relax.call_pure_packed(_ITEM, value.tuple_value, relax.prim_value(value.index), ty_args=value.ty)

    return _each_value("hide_tuple_items", hide)


def show_tuple_items() -> Any:
    """The inverse of :func:`hide_tuple_items`."""

    def show(value: Any) -> Any:
        if getattr(getattr(value, "op", None), "name", "") != "relax.call_pure_packed":
            return value
        function, tuple_value, index = value.args
        return relax.TupleGetItem(tuple_value, int(index.value)) if function.global_symbol == _ITEM else value

    return _each_value("show_tuple_items", show)


def _each_value(name: str, change: Callable[[Any], Any]) -> Any:
    """A pass that changes the values bound in ``main``."""

    @tvm.transform.module_pass(opt_level=0, name=name)
    def run(module: ir.IRModule, _: Any) -> ir.IRModule:
        function = module["main"]
        bb = relax.BlockBuilder()
        # Types are set here: a pass that found them missing would set them in place, and no longer know the function.
        blocks = []
        for block in function.body.blocks:
            bindings = [relax.VarBinding(b.var, bb.normalize(change(b.value))) for b in block.bindings]
            blocks.append(type(block)(bindings))
        body = bb.normalize(relax.SeqExpr(blocks, function.body.body))
        module.update_func(
            module.get_global_var("main"),
            relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs),
        )
        return module

    return run
