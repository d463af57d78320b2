"""What the kernels of attention work on: rows of heads somewhere in larger tensors, and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from bucketmod.compiler.kernels import math as vector
from bucketmod.compiler.kernels.kernel import TensorShape

Expr = Any
UNIT = 1 / vector.LOG2_E  # inside the kernels scores are exponents of 2


@dataclass(frozen=True)
class Place:
    """Where the rows of all heads lie in a tensor of ``size`` values.

    Value j of row t of head h of sequence b is number ``offset + b * batch + t * row + h * head + j``.
    """

    size: int
    offset: int
    batch: int
    row: int
    head: int

    def at(self, b: Expr, h: Expr, t: Expr, j: Expr) -> Expr:
        return self.offset + b * self.batch + h * self.head + t * self.row + j

    @property
    def shape(self) -> TensorShape:
        return (self.size,), "float32"


@dataclass(frozen=True)
class Mask:
    """A mask for the scores, already transposed: [batch or 1, heads or 1, keys, queries or 1], float32.

    It is added to the scores; with ``fill`` the scores become ``fill`` wherever it is not zero.
    """

    shape: tuple[int, int, int, int]
    fill: float | None = None

    def index(self, b: Expr, h: Expr, key: Expr, query: Expr) -> tuple[Expr, ...]:
        places = zip((b, h, key, query), self.shape, strict=True)
        return tuple(place if size > 1 else 0 for place, size in places)

    def apply(self, score: Expr, mask: Expr, unit: float = 1.0) -> Expr:
        """The score after the mask; ``unit``: what scores are multiples of."""
        if self.fill is None:
            return score + mask * vector.constant(1 / unit, mask)
        return tirx.Select(self.replaces(mask), vector.constant(self.fill / unit, score), score)

    def replaces(self, mask: Expr) -> Expr:
        return tirx.NE(mask, vector.constant(0.0, mask))


@dataclass(frozen=True)
class Heads:
    """Sizes and places of the operands: ``queries`` rows of q and ``keys`` rows of k (both of ``size`` values) and of v
    (of ``value_size``) in each of ``heads`` heads of each of ``batch`` sequences."""

    batch: int
    heads: int
    queries: int
    keys: int
    size: int
    value_size: int
    q: Place
    k: Place
    v: Place
    out: Place
    scale: float
    mask: Mask | None = None

    @property
    def statistics(self) -> TensorShape:
        return (self.batch, self.heads, self.queries), "float32"

    @property
    def inputs(self) -> list[tuple[str, TensorShape]]:
        inputs = [("q", self.q.shape), ("k", self.k.shape), ("v", self.v.shape)]
        return inputs + ([("mask", (self.mask.shape, "float32"))] if self.mask else [])

    def product_flops(self, *sizes: int) -> int:
        """Of products over all pairs of a query and a key, with ``sizes`` multiply-adds for each."""
        return 2 * self.batch * self.heads * self.queries * self.keys * sum(sizes)

    def portable_scores(self, q: Any, k: Any, mask: Any | None) -> Any:
        """The masked scores [batch, heads, queries, keys]."""
        j = te.reduce_axis((0, self.size), "j")
        shape = (self.batch, self.heads, self.queries, self.keys)

        def product(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr:
            return te.sum(q[self.q.at(b, h, s, j)] * k[self.k.at(b, h, t, j)], axis=j)

        products = te.compute(shape, product, name="products")

        def score(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr:
            value = products[b, h, s, t] * tirx.FloatImm("float32", self.scale)
            if self.mask is None or mask is None:
                return value
            return self.mask.apply(value, mask(*self.mask.index(b, h, t, s)))

        return te.compute(shape, score, name="scores")


def coordinates(place: Place, index: Expr, sizes: tuple[int, int, int, int]) -> tuple[Expr, ...]:
    """Sequence, head, row and value at a flat index, for ``sizes`` of them: the inverse of ``Place.at``."""
    own = index - place.offset
    strides = (place.batch, place.head, place.row, 1)
    return tuple(own // stride % size for stride, size in zip(strides, sizes, strict=True))


def pairwise(values: list[Expr], operation: Callable[[Expr, Expr], Expr]) -> Expr:
    """All values combined, in the order of a binary tree."""
    while len(values) > 1:
        pairs = [operation(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(values) // 2 * 2 :]
    return values[0]
