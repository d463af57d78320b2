"""Matrix products: C = op(A) op(B), with what often follows or goes along, in all transposes, batched or not.

The tuned form keeps a tile of C in registers while it runs along K: ``plan`` chooses how the product is cut,
``emission`` follows the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tvm import te, tirx

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape
from bucketmod.compiler.kernels.products.choice import chosen_cut, near_cuts, takes_tiles
from bucketmod.compiler.kernels.products.emission import emit_product, product_scratch
from bucketmod.compiler.kernels.products.epilogue import ACTIVATIONS, SLOPES, activate, slope
from bucketmod.compiler.kernels.products.packed_weight import PANEL_VECTORS, PackedWeight, packed_size
from bucketmod.compiler.kernels.products.plan import Plan, most_rows, plan
from bucketmod.compiler.kernels.products.tile_plan import TilePlan

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

__all__ = ["Cut", "Gemm", "Plan", "emit_product", "most_rows", "plan", "product_scratch"]

# Rows from which on packing all of B first costs nothing; below, copies of small pieces, each used at once, cost less.
_WORTH_PACKING = 256

Cut = Plan | TilePlan | None  # of a product; None: as the models of cost say


@dataclass(frozen=True)
class Gemm(Kernel):
    """C[(batch,) m, n] = op(A) op(B), and what its options add; all float32.

    A is [m, k], with ``trans_a`` [k, m]; B is [k, n], with ``trans_b`` [n, k]. With ``batch`` > 1 each has that many
    matrices along a first axis, except an operand whose ``batch_a`` or ``batch_b`` is False: one matrix serves all.

    With ``shift`` s the rows of B (one matrix, not transposed) are used s places later (earlier if negative), and those
    that get free are the rows of edge [abs(s), n]: so a sequence of states is multiplied one step late, beginning with
    the initial state, without being copied.

    In this order: ``bias`` [n] is added to every row, ``addend`` of the shape of C to C; the ``activation`` is applied
    (one of ``epilogue.ACTIVATIONS``); C is multiplied by the slope of the activation ``slope_of`` (one of
    ``epilogue.SLOPES``) where that one gave ``saved``, of the shape of C.

    ``panel``: B is a ``PackedWeight`` of that many columns a panel, neither transposed nor shifted nor batched.

    ``cut``: how the tuned form is cut, in place of what the models of cost say; it does not change the result but for
    rounding.

    ``column_sums``: a second output, [m], the sums of the columns of A [k, m]. Where A is the gradient of a layer's
    result, C is that of its weight and they are that of its bias.

    Arguments: A, B, (edge), (bias), (addend), (saved), C, (sums). ValueError for options that do not go together.
    """

    m: int
    k: int
    n: int
    trans_a: bool = False
    trans_b: bool = False
    batch: int = 1
    batch_a: bool = True
    batch_b: bool = True
    bias: bool = False
    shift: int = 0
    addend: bool = False
    activation: str = ""
    slope_of: str = ""
    column_sums: bool = False
    panel: int = 0
    cut: Cut = None

    def __post_init__(self) -> None:
        if self.shift and (self.trans_b or self.batch > 1):
            raise ValueError(f"{self}: a shift needs one B that is not transposed")
        if self.column_sums and (not self.trans_a or self.batch > 1):
            raise ValueError(f"{self}: column sums need one A that is transposed")
        if self.panel and (self.shift or self.trans_b or self.batch > 1):
            raise ValueError(f"{self}: a packed B is one that is neither transposed nor shifted")
        if self.activation not in ("", *ACTIVATIONS):
            raise ValueError(f"{self}: expected an activation of {ACTIVATIONS}")
        if self.slope_of not in ("", *SLOPES):
            raise ValueError(f"{self}: expected a slope of one of {SLOPES}")

    @property
    def name(self) -> str:
        parts = {"bias": self.bias, "shifted": self.shift, "add": self.addend, self.activation: self.activation,
                 f"{self.slope_of}_slope": self.slope_of, "sums": self.column_sums}  # fmt: skip
        right = "p" if self.panel else "nt"[self.trans_b]
        return "_".join(["gemm", "nt"[self.trans_a] + right, *(part for part, on in parts.items() if on)])

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.k * self.n

    @property
    def inputs(self) -> list[TensorShape]:
        return [shape for name, shape in self.arguments.items() if name not in ("C", "sums")]

    @property
    def outputs(self) -> list[TensorShape]:
        return [shape for name, shape in self.arguments.items() if name in ("C", "sums")]

    @property
    def in_place(self) -> dict[int, int]:
        """A tile starts from its part of the addend and comes back to that place of C."""
        return {0: list(self.arguments).index("addend")} if self.addend else {}

    @property
    def arguments(self) -> dict[str, TensorShape]:
        """Every argument by name, in order."""
        c = self._matrix(self.m, self.n, True)
        found = {
            "A": self._matrix(*((self.k, self.m) if self.trans_a else (self.m, self.k)), self.batch_a),
            "B": self._matrix(*((self.n, self.k) if self.trans_b else (self.k, self.n)), self.batch_b),
        }
        if self.panel:
            found["B"] = (packed_size(self.k, self.n, self.panel),), "float32"
        if self.shift:
            found["edge"] = self._matrix(abs(self.shift), self.n, False)
        if self.bias:
            found["bias"] = (self.n,), "float32"
        if self.addend:
            found["addend"] = c
        if self.slope_of:
            found["saved"] = c
        found["C"] = c
        if self.column_sums:
            found["sums"] = (self.m,), "float32"
        return found

    def _matrix(self, rows: int, columns: int, batched: bool) -> TensorShape:
        return ((self.batch, rows, columns) if batched and self.batch > 1 else (rows, columns)), "float32"

    def with_packed_weight(self, cpu: CpuFeatures, once: bool) -> tuple[int, Kernel, Kernel] | None:
        if self.panel or self.trans_a or self.shift or self.batch > 1 or takes_tiles(self, cpu):
            return None
        if not once and self.m < _WORTH_PACKING:
            return None
        panel = PANEL_VECTORS * cpu.lanes
        return 1, PackedWeight(self.k, self.n, self.trans_b, panel), replace(self, trans_b=False, panel=panel)

    def portable(self) -> Any:
        if self.panel:
            raise NotImplementedError(f"{self.name}: weights are packed for CPUs only")
        given = {name: te.placeholder(shape, dtype, name) for name, (shape, dtype) in self.arguments.items()
                 if name not in ("C", "sums")}  # fmt: skip
        results = [self._finished(given, self._product(given))]
        if self.column_sums:
            row = te.reduce_axis((0, self.k), "row")
            results.append(te.compute((self.m,), lambda i: te.sum(given["A"](row, i), axis=row), name="sums"))
        return te.create_prim_func([*given.values(), *results])

    def _product(self, given: dict[str, Any]) -> Any:
        a, b = given["A"], given["B"]
        axis = te.reduce_axis((0, self.k), "k")

        def right(lead: list[Any], j: Any) -> Any:
            if not self.shift:
                return b(*(lead if self.batch_b else []), *((j, axis) if self.trans_b else (axis, j)))
            edge, row = given["edge"], axis - self.shift
            # One of the two is read; the other index is kept in range for the sake of analysis.
            inside = b(tirx.max(tirx.min(row, self.k - 1), 0), j)
            return tirx.if_then_else(tirx.all(row >= 0, row < self.k), inside, edge(axis % abs(self.shift), j))

        def product(*indices: Any) -> Any:
            *lead, i, j = indices
            left = a(*(lead if self.batch_a else []), *((axis, i) if self.trans_a else (i, axis)))
            return te.sum(left * right(lead, j), axis=axis)

        return te.compute(self.arguments["C"][0], product, name="product")

    def _finished(self, given: dict[str, Any], c: Any) -> Any:
        def step(name: str, previous: Any, value: Any) -> Any:
            return te.compute(previous.shape, lambda *at: value(previous(*at), at), name=name)

        if self.bias:
            c = step("biased", c, lambda x, at: x + given["bias"](at[-1]))
        if self.addend:
            c = step("added", c, lambda x, at: x + given["addend"](*at))
        if self.activation:
            c = step("activated", c, lambda x, at: activate(self.activation, x))
        if self.slope_of:
            c = step("sloped", c, lambda x, at: slope(self.slope_of, x, given["saved"](*at)))
        return c

    def alternatives(self, cpu: CpuFeatures) -> list[Gemm]:
        return [replace(self, cut=cut) for cut in near_cuts(self, cpu) if cut != chosen_cut(self, cpu)]

    def scratch(self, cpu: CpuFeatures) -> list[TensorShape]:
        return list(product_scratch(self, cpu).values())

    def tuned(self, cpu: CpuFeatures) -> Any:
        arguments = self.arguments | product_scratch(self, cpu)
        return emit.build_named(self.name, arguments, lambda buffers: emit_product(self, cpu, buffers))
