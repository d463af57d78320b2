"""Takes the bodies of tuned kernels out of a module and puts them back.

Relax's passes have no use for the body of a function that nothing may be fused with, but they walk over it, each of
them: in a program whose kernels are written already that was most of their time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import ir, tirx

from bucketmod.compiler.kernels.kernel import TUNED

_NUMBER = "bucketmod.body"  # PrimFunc attribute: where the function is in ``KernelBodies.functions``


@dataclass
class KernelBodies:
    """``hide()`` and ``show()`` are the passes."""

    functions: list[tirx.PrimFunc] = field(default_factory=list)

    def hide(self) -> Any:
        """A tuned kernel keeps its parameters and attributes only."""

        @tvm.transform.module_pass(opt_level=0, name="hide_kernel_bodies")
        def hide(module: ir.IRModule, _: Any) -> ir.IRModule:
            for var, function in module.functions_items():
                if isinstance(function, tirx.PrimFunc) and function.attrs is not None and TUNED in function.attrs:
                    empty = function.with_body(tirx.Evaluate(0)).with_attr(_NUMBER, len(self.functions))
                    module.update_func(var, empty)
                    self.functions.append(function)
            return module

        return hide

    def show(self) -> Any:
        """The functions that are left are as they were before ``hide``."""

        @tvm.transform.module_pass(opt_level=0, name="show_kernel_bodies")
        def show(module: ir.IRModule, _: Any) -> ir.IRModule:
            for var, function in module.functions_items():
                if function.attrs is not None and _NUMBER in function.attrs:
                    module.update_func(var, self.functions[int(function.attrs[_NUMBER])])
            return module

        return show
