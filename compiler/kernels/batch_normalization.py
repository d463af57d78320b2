"""Batch normalization of a channel axis: with the statistics of the batch, with given ones, and the gradient.

Tensors are seen as [outer, channels, inner]: images have their pixels as ``inner``, rows of features have 1 there.
With an inner axis a task walks over the planes of one channel; without, over the rows of a block of channels, whose
vectors hold neighbouring channels. Statistics take one pass: sums of distances from the first value of each channel,
and of their squares, so that a mean that is large beside the deviation costs no digits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import te, tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any
_VECTORS = 4  # of channels that a block of rows takes at a time: sums of all of them fit into registers


@dataclass(frozen=True)
class _OnChannels(Kernel):
    """Shapes that the kernels share. Data is [outer, channels, inner], or [outer, channels] where ``inner`` is 1."""

    outer: int
    channels: int
    inner: int

    @property
    def _data(self) -> TensorShape:
        rows = (self.outer, self.channels)
        return (rows if self.inner == 1 else (*rows, self.inner), "float32")

    @property
    def _vector(self) -> TensorShape:
        return ((self.channels,), "float32")

    @property
    def _share(self) -> float:
        """One value's part in the mean of a channel."""
        return 1.0 / (self.outer * self.inner)

    def _placeholders(self, data: str, vectors: str) -> list[Any]:
        found = [te.placeholder(self._data[0], name=name) for name in data.split()]
        return found + [te.placeholder(self._vector[0], name=name) for name in vectors.split()]

    def _channel_sum(self, name: str, term: Callable[..., Any]) -> Any:
        """te: the sum of ``term(o, c, i)``, or ``term(o, c)``, over all but the channels."""
        o = te.reduce_axis((0, self.outer), f"{name}_o")
        if self.inner == 1:
            return te.compute((self.channels,), lambda c: te.sum(term(o, c), axis=o), name=name)
        i = te.reduce_axis((0, self.inner), f"{name}_i")
        return te.compute((self.channels,), lambda c: te.sum(term(o, c, i), axis=[o, i]), name=name)

    def _walk(self, passes: int, lanes: int, body: Callable[[_Walk], None]) -> None:
        """Emits ``body`` for every channel, or every block of channels, over threads where that pays."""
        cost = self.outer * self.channels * self.inner * passes * streams.NS_PER_FLOAT
        if self.inner > 1:
            with streams.tasks(self.channels, cost) as channel:
                body(_Planes(self, lanes, channel))
            return
        width = lanes * max(1, min(_VECTORS, self.channels // (_VECTORS * lanes)))
        blocks, rest = divmod(self.channels, width)
        if blocks:
            with streams.tasks(blocks, cost) as block:
                body(_Block(self, lanes, T.bind(block * width), width))
        if rest:
            body(_Block(self, lanes, blocks * width, rest))


class _Walk:
    """How a task runs over its part of the data. ``slots``: vectors that it looks at as one."""

    lanes: int
    slots: range

    def load(self, vector: Expr, slot: int) -> Expr:
        """Value of each channel of ``vector[channels]``."""
        raise NotImplementedError

    def store(self, vector: Expr, slot: int, value: Expr) -> None:
        raise NotImplementedError

    def first(self, data: Expr, slot: int) -> Expr:
        """The first value of each channel."""
        raise NotImplementedError

    def sums(self, terms: Callable[[int, Callable[[Expr], Expr]], list[Expr]], count: int) -> list[list[Expr]]:
        """For each slot the sums of ``count`` terms over the data; ``terms(slot, get)`` gives them for one vector."""
        raise NotImplementedError

    def write(self, target: Expr, value: Callable[[int, Callable[[Expr], Expr]], Expr]) -> None:
        """Writes ``value(slot, get)`` over the whole part; ``get(data)`` loads the vector at the same place."""
        raise NotImplementedError


class _Planes(_Walk):
    """One channel: vectors run along its planes, and what belongs to the channel is in every lane."""

    def __init__(self, kernel: _OnChannels, lanes: int, channel: Expr):
        self.kernel, self.lanes, self.channel, self.slots = kernel, lanes, channel, range(1)

    def load(self, vector: Expr, slot: int) -> Expr:
        return emit.let(emit.splat(emit.element(vector, self.channel), self.lanes))

    def store(self, vector: Expr, slot: int, value: Expr) -> None:
        memory = T.alloc_buffer((self.lanes,), "float32", layout=None)
        emit.store(memory, value, 0, lanes=self.lanes)
        T.buffer_store(vector, memory[0], [self.channel])

    def first(self, data: Expr, slot: int) -> Expr:
        return emit.let(emit.splat(emit.element(data, 0, self.channel, 0), self.lanes))

    def sums(self, terms: Callable[[int, Callable[[Expr], Expr]], list[Expr]], count: int) -> list[list[Expr]]:
        extent = self.kernel.inner
        registers = [streams.accumulators(extent, self.lanes, 0.0, unroll=2) for _ in range(count)]
        with T.serial(self.kernel.outer) as o:

            def add(slot: int, at: Expr, width: int) -> None:
                found = terms(0, lambda data: emit.load(data, o, self.channel, at, lanes=self.lanes, width=width))
                for register, term in zip(registers, found, strict=True):
                    register[slot].value = register[slot].value + streams.keep(term, 0.0, self.lanes, width)

            streams.walk(extent, self.lanes, add, unroll=2)
        totals = [streams.combine(register, operator.add) for register in registers]
        return [[emit.let(emit.splat(total, self.lanes)) for total in totals]]

    def write(self, target: Expr, value: Callable[[int, Callable[[Expr], Expr]], Expr]) -> None:
        with T.serial(self.kernel.outer) as o:

            def one(_slot: int, at: Expr, width: int) -> None:
                made = value(0, lambda data: emit.load(data, o, self.channel, at, lanes=self.lanes, width=width))
                emit.store(target, made, o, self.channel, at, lanes=self.lanes, width=width)

            streams.walk(self.kernel.inner, self.lanes, one, unroll=2)


class _Block(_Walk):
    """Neighbouring channels without an inner axis: each lane is a channel."""

    def __init__(self, kernel: _OnChannels, lanes: int, start: Expr, width: int):
        self.kernel, self.lanes, self.start, self.width = kernel, lanes, start, width
        self.slots = range(-(-width // lanes))

    def _vectors(self) -> Iterator[tuple[int, Expr, int]]:
        for slot in self.slots:
            first = slot * self.lanes
            yield slot, self.start + first, min(self.lanes, self.width - first)

    def _at(self, slot: int) -> tuple[Expr, int]:
        return next((at, width) for index, at, width in self._vectors() if index == slot)

    def load(self, vector: Expr, slot: int) -> Expr:
        at, width = self._at(slot)
        return emit.let(emit.load(vector, at, lanes=self.lanes, width=width))

    def store(self, vector: Expr, slot: int, value: Expr) -> None:
        at, width = self._at(slot)
        emit.store(vector, value, at, lanes=self.lanes, width=width)

    def first(self, data: Expr, slot: int) -> Expr:
        return emit.let(self._get(0, slot)(data))

    def _get(self, row: Expr, slot: int) -> Callable[[Expr], Expr]:
        at, width = self._at(slot)
        return lambda data: emit.load(data, row, at, lanes=self.lanes, width=width)

    def sums(self, terms: Callable[[int, Callable[[Expr], Expr]], list[Expr]], count: int) -> list[list[Expr]]:
        registers = [streams.accumulators(count * self.lanes, self.lanes, 0.0) for _ in self.slots]
        with T.serial(self.kernel.outer) as row:
            for slot in self.slots:
                for register, term in zip(registers[slot], terms(slot, self._get(row, slot)), strict=True):
                    register.value = register.value + term
        return [[register.value for register in group] for group in registers]

    def write(self, target: Expr, value: Callable[[int, Callable[[Expr], Expr]], Expr]) -> None:
        with T.serial(self.kernel.outer) as row:
            for slot, at, width in self._vectors():
                emit.store(target, value(slot, self._get(row, slot)), row, at, lanes=self.lanes, width=width)


def _normal_inverse(variance: Expr, epsilon: float, lanes: int) -> Expr:
    """1 / sqrt(variance + epsilon), in every lane."""
    return emit.let(emit.splat(1.0, lanes) / tirx.sqrt(variance + emit.splat(epsilon, lanes)))


def _write_normalized(walk: _Walk, x: Expr, y: Expr, channels: list[tuple[Expr, Expr, Expr]]) -> None:
    """y = (x - mean) * scale + beta; ``channels``: these three for each slot."""

    def value(slot: int, get: Callable[[Expr], Expr]) -> Expr:
        mean, scale, beta = channels[slot]
        return (get(x) - mean) * scale + beta

    walk.write(y, value)


@dataclass(frozen=True)
class BatchNorm(_OnChannels):
    """(x, gamma[C], beta[C]) -> y, mean[C], inv_std[C], variance[C]; float32.

    x and y are [outer, C, inner], without the last axis where it has length 1. y = (x - mean) * inv_std * gamma + beta
    with the statistics of the batch: its biased variance, and inv_std = 1 / sqrt(variance + epsilon).
    """

    epsilon: float = 1e-3

    @property
    def name(self) -> str:
        return "batch_norm"

    @property
    def outputs(self) -> list[TensorShape]:
        return [self._data, *[self._vector] * 3]

    def portable(self) -> Any:
        x, gamma, beta = self._placeholders("x", "gamma beta")
        share, one = tirx.FloatImm("float32", self._share), tirx.FloatImm("float32", 1.0)
        epsilon = tirx.FloatImm("float32", self.epsilon)
        shape = self._vector[0]
        total = self._channel_sum("total", lambda *at: x(*at))
        mean = te.compute(shape, lambda c: total[c] * share, name="mean")
        square = self._channel_sum("square", lambda *at: (x(*at) - mean[at[1]]) * (x(*at) - mean[at[1]]))
        variance = te.compute(shape, lambda c: square[c] * share, name="variance")
        inv_std = te.compute(shape, lambda c: one / te.sqrt(variance[c] + epsilon), name="inv_std")
        y = te.compute(
            x.shape, lambda *at: (x(*at) - mean[at[1]]) * inv_std[at[1]] * gamma[at[1]] + beta[at[1]], name="y"
        )
        return te.create_prim_func([x, gamma, beta, y, mean, inv_std, variance])

    def tuned(self, cpu: CpuFeatures) -> Any:
        lanes = cpu.lanes

        def body(x: Expr, gamma: Expr, beta: Expr, y: Expr, *statistics: Expr) -> None:
            def task(walk: _Walk) -> None:
                channels = []
                for slot, (mean, variance) in enumerate(self._statistics(walk, x)):
                    inverse = _normal_inverse(variance, self.epsilon, lanes)
                    for target, value in zip(statistics, (mean, inverse, variance), strict=True):
                        walk.store(target, slot, value)
                    channels.append((mean, emit.let(inverse * walk.load(gamma, slot)), walk.load(beta, slot)))
                _write_normalized(walk, x, y, channels)

            self._walk(6, lanes, task)

        arguments = [("x", self._data), ("gamma", self._vector), ("beta", self._vector)]
        arguments += zip(("y", "mean", "inv_std", "variance"), self.outputs, strict=True)
        return emit.build_function(self.name, arguments, body)

    def _statistics(self, walk: _Walk, x: Expr) -> list[tuple[Expr, Expr]]:
        """Mean and biased variance for each slot."""
        starts = [walk.first(x, slot) for slot in walk.slots]

        def terms(slot: int, get: Callable[[Expr], Expr]) -> list[Expr]:
            distance = emit.let(get(x) - starts[slot])
            return [distance, distance * distance]

        share = emit.splat(self._share, walk.lanes)
        found = []
        for slot, (total, squares) in enumerate(walk.sums(terms, 2)):
            step = emit.let(total * share)
            variance = tirx.max(squares * share - step * step, emit.splat(0.0, walk.lanes))
            found.append((emit.let(starts[slot] + step), emit.let(variance)))
        return found


@dataclass(frozen=True)
class BatchNormInference(_OnChannels):
    """(x, gamma[C], beta[C], mean[C], variance[C]) -> y = (x - mean) / sqrt(variance + epsilon) * gamma + beta.

    float32; x and y are [outer, C, inner], without the last axis where it has length 1.
    """

    epsilon: float = 1e-3

    @property
    def name(self) -> str:
        return "batch_norm_inference"

    @property
    def outputs(self) -> list[TensorShape]:
        return [self._data]

    def portable(self) -> Any:
        x, gamma, beta, mean, variance = self._placeholders("x", "gamma beta mean variance")
        epsilon = tirx.FloatImm("float32", self.epsilon)
        scale = te.compute(self._vector[0], lambda c: gamma[c] / te.sqrt(variance[c] + epsilon), name="scale")
        y = te.compute(x.shape, lambda *at: (x(*at) - mean[at[1]]) * scale[at[1]] + beta[at[1]], name="y")
        return te.create_prim_func([x, gamma, beta, mean, variance, y])

    def tuned(self, cpu: CpuFeatures) -> Any:
        lanes = cpu.lanes

        def body(x: Expr, gamma: Expr, beta: Expr, mean: Expr, variance: Expr, y: Expr) -> None:
            def task(walk: _Walk) -> None:
                channels = []
                for slot in walk.slots:
                    inverse = _normal_inverse(walk.load(variance, slot), self.epsilon, lanes)
                    scale = emit.let(inverse * walk.load(gamma, slot))
                    channels.append((walk.load(mean, slot), scale, walk.load(beta, slot)))
                _write_normalized(walk, x, y, channels)

            self._walk(2, lanes, task)

        names = ("gamma", "beta", "mean", "variance")
        arguments = [("x", self._data), *[(name, self._vector) for name in names], ("y", self._data)]
        return emit.build_function(self.name, arguments, body)


@dataclass(frozen=True)
class BatchNormGrad(_OnChannels):
    """(dy, x, gamma[C], mean[C], inv_std[C]) -> dgamma[C], dbeta[C], and dx first if ``data`` is true; float32.

    dy, x and dx are [outer, C, inner], without the last axis where it has length 1. The statistics are those of the
    batch and move with x.
    """

    data: bool = True

    @property
    def name(self) -> str:
        return "batch_norm_grad"

    @property
    def outputs(self) -> list[TensorShape]:
        return [*[self._data] * self.data, self._vector, self._vector]

    def portable(self) -> Any:
        dy, x, gamma, mean, inv_std = self._placeholders("dy x", "gamma mean inv_std")
        share = tirx.FloatImm("float32", self._share)

        def normal(at: tuple[Any, ...]) -> Any:
            return (x(*at) - mean[at[1]]) * inv_std[at[1]]

        dgamma = self._channel_sum("dgamma", lambda *at: dy(*at) * normal(at))
        dbeta = self._channel_sum("dbeta", lambda *at: dy(*at))
        if not self.data:
            return te.create_prim_func([dy, x, gamma, mean, inv_std, dgamma, dbeta])
        dx = te.compute(
            x.shape,
            lambda *at: gamma[at[1]] * inv_std[at[1]]
            * (dy(*at) - share * (dbeta[at[1]] + normal(at) * dgamma[at[1]])),
            name="dx",
        )  # fmt: skip
        return te.create_prim_func([dy, x, gamma, mean, inv_std, dx, dgamma, dbeta])

    def tuned(self, cpu: CpuFeatures) -> Any:
        lanes = cpu.lanes

        def body(dy: Expr, x: Expr, gamma: Expr, mean: Expr, inv_std: Expr, *made: Expr) -> None:
            *dx, dgamma, dbeta = made

            def task(walk: _Walk) -> None:
                known = [(walk.load(mean, slot), walk.load(inv_std, slot)) for slot in walk.slots]

                def terms(slot: int, get: Callable[[Expr], Expr]) -> list[Expr]:
                    value = emit.let(get(dy))
                    return [value, value * (get(x) - known[slot][0])]

                sums = []
                for slot, (whole, weighted) in enumerate(walk.sums(terms, 2)):
                    sums.append((emit.let(whole), emit.let(weighted * known[slot][1])))
                    walk.store(dbeta, slot, sums[slot][0])
                    walk.store(dgamma, slot, sums[slot][1])
                if dx:
                    self._write_dx(walk, (dy, x, gamma, dx[0]), known, sums)

            self._walk(8, lanes, task)

        arguments = [("dy", self._data), ("x", self._data)]
        arguments += [(name, self._vector) for name in ("gamma", "mean", "inv_std")]
        names = [*["dx"] * self.data, "dgamma", "dbeta"]
        arguments += zip(names, self.outputs, strict=True)
        return emit.build_function(self.name, arguments, body)

    def _write_dx(
        self, walk: _Walk, buffers: tuple[Expr, ...], known: list[tuple[Expr, Expr]], sums: list[tuple[Expr, Expr]]
    ) -> None:
        """dx = scale * (dy - average - (x - mean) * slope), its three factors computed once a channel."""
        dy, x, gamma, dx = buffers
        share = emit.splat(self._share, walk.lanes)
        factors = []
        for slot, ((mean, inverse), (whole, weighted)) in enumerate(zip(known, sums, strict=True)):
            scale = emit.let(walk.load(gamma, slot) * inverse)
            factors.append((mean, scale, emit.let(whole * share), emit.let(weighted * inverse * share)))

        def value(slot: int, get: Callable[[Expr], Expr]) -> Expr:
            mean, scale, average, slope = factors[slot]
            return scale * (get(dy) - average - (get(x) - mean) * slope)

        walk.write(dx, value)
