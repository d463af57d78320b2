"""Windows that slide over images: their unfolding into columns and back, and pooling.

Images come padded, so that every window lies inside: [planes, height, width], a plane for each sample and channel. A
window takes ``kernel`` values ``dilation`` apart, and moves by ``stride``. Tasks are planes.
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
Pair = tuple[int, int]
_MOST_UNROLLED = 64  # values of a window that are written out one by one


@dataclass(frozen=True)
class Windows:
    """Sizes along (rows, columns): of the padded image, of the window, how far it moves and spreads."""

    image: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)

    @property
    def places(self) -> Pair:
        """How many windows there are down and across."""
        sizes = zip(self.image, self.kernel, self.stride, self.dilation, strict=True)
        rows, columns = ((n - (k - 1) * d - 1) // s + 1 for n, k, s, d in sizes)
        return rows, columns

    @property
    def size(self) -> int:
        """Values in a window."""
        return self.kernel[0] * self.kernel[1]

    def spot(self, value: Expr, place: Expr, axis: int) -> Expr:
        """Where value number ``value`` of the window at ``place`` lies along an axis."""
        return place * self.stride[axis] + value * self.dilation[axis]

    def split(self, at: Expr) -> tuple[Expr, Expr]:
        """(row, column) of value number ``at`` of a window."""
        return at // self.kernel[1], at % self.kernel[1]


def _strided(buffer: Expr, plane: Expr, row: Expr, first: Expr, stride: int, lanes: int, width: Expr) -> Expr:
    """``lanes`` values ``stride`` apart; only ``width`` of them where they are neighbours."""
    if stride == 1 or lanes == 1:
        return emit.load(buffer, plane, row, first, lanes=lanes, width=width)
    return buffer[plane, row, T.ramp(first, stride, lanes)]


def _across(windows: Windows, lanes: int, body: Callable[[Expr, int, Expr], None]) -> None:
    """``body(place, lanes, width)`` for all windows of a row. The rest is masked where the stride is 1, else single."""
    places = windows.places[1]
    if windows.stride[1] == 1:
        streams.walk(places, lanes, lambda _slot, first, width: body(first, lanes, width), unroll=1)
        return
    whole = places // lanes
    if whole:
        with T.serial(whole) as group:
            body(group * lanes, lanes, lanes)
    if places % lanes:
        with T.serial(places % lanes) as single:
            body(whole * lanes + single, 1, 1)


@dataclass(frozen=True)
class Im2Col(Kernel):
    """x[samples * channels, H, W] -> the windows as columns; float32.

    The result is [samples, channels * window, places], flattened to one row for each value of a window; with ``joined``
    [channels * window, samples, places], so that the columns of all samples make one matrix.
    """

    samples: int
    channels: int
    windows: Windows
    joined: bool = False

    @property
    def name(self) -> str:
        return "im2col"

    @property
    def outputs(self) -> list[TensorShape]:
        rows = self.channels * self.windows.size
        lead = (rows, self.samples) if self.joined else (self.samples, rows)
        return [((*lead, *self.windows.places), "float32")]

    @property
    def _image(self) -> TensorShape:
        return ((self.samples * self.channels, *self.windows.image), "float32")

    def portable(self) -> Any:
        windows = self.windows
        x = te.placeholder(self._image[0], name="x")

        def value(first: Any, second: Any, down: Any, across: Any) -> Any:
            row, sample = (first, second) if self.joined else (second, first)
            i, j = windows.split(row % windows.size)
            plane = sample * self.channels + row // windows.size
            return x[plane, windows.spot(i, down, 0), windows.spot(j, across, 1)]

        return te.create_prim_func([x, te.compute(self.outputs[0][0], value, name="columns")])

    def tuned(self, cpu: CpuFeatures) -> Any:
        windows = self.windows
        planes = self.samples * self.channels
        cost = planes * windows.size * windows.places[0] * windows.places[1] * 2 * streams.NS_PER_FLOAT

        def body(x: Expr, columns: Expr) -> None:
            with streams.tasks(planes, cost) as plane:
                sample, channel = plane // self.channels, plane % self.channels
                with T.serial(windows.size) as at:
                    i, j = windows.split(at)
                    row = channel * windows.size + at
                    lead = (row, sample) if self.joined else (sample, row)
                    with T.serial(windows.places[0]) as down:
                        source = windows.spot(i, down, 0)

                        def copy(place: Expr, lanes: int, width: Expr) -> None:
                            first = windows.spot(j, place, 1)
                            value = _strided(x, plane, source, first, windows.stride[1], lanes, width)
                            emit.store(columns, value, *lead, down, place, lanes=lanes, width=width)

                        _across(windows, cpu.lanes, copy)

        return emit.build_function(self.name, [("x", self._image), ("columns", self.outputs[0])], body)


@dataclass(frozen=True)
class Col2Im(Kernel):
    """columns[planes * window, places down, places across] -> x[planes, H, W]: each value of a column is added where it
    came from; float32. ``shared``: one value for the whole window, columns[planes, places down, places across].
    """

    planes: int
    windows: Windows
    shared: bool = False

    @property
    def name(self) -> str:
        return "col2im"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.planes, *self.windows.image), "float32")]

    @property
    def _columns(self) -> TensorShape:
        return ((self.planes * (1 if self.shared else self.windows.size), *self.windows.places), "float32")

    def _row(self, plane: Expr, at: Expr) -> Expr:
        return plane if self.shared else plane * self.windows.size + at

    def portable(self) -> Any:
        columns = te.placeholder(self._columns[0], name="columns")
        i, j = (te.reduce_axis((0, k), name) for k, name in zip(self.windows.kernel, "ij", strict=True))

        def term(plane: Any, h: Any, w: Any) -> Any:
            inside, down, across = _came_from(self.windows, h, w, i, j)
            value = columns[self._row(plane, i * self.windows.kernel[1] + j), down, across]
            return te.sum(tirx.if_then_else(inside, value, tirx.FloatImm("float32", 0.0)), axis=[i, j])

        return te.create_prim_func([columns, te.compute(self.outputs[0][0], term, name="x")])

    def tuned(self, cpu: CpuFeatures) -> Any:
        windows = self.windows
        cost = self.planes * windows.size * windows.places[0] * windows.places[1] * 3 * streams.NS_PER_FLOAT

        def body(columns: Expr, x: Expr) -> None:
            with streams.tasks(self.planes, cost) as plane:
                _clear(x, plane, windows, cpu.lanes)
                with T.serial(windows.size) as at:
                    i, j = windows.split(at)
                    with T.serial(windows.places[0]) as down:
                        target = windows.spot(i, down, 0)

                        def add(place: Expr, lanes: int, width: Expr) -> None:
                            first = windows.spot(j, place, 1)
                            value = emit.load(columns, self._row(plane, at), down, place, lanes=lanes, width=width)
                            value = value + emit.load(x, plane, target, first, lanes=lanes, width=width)
                            emit.store(x, value, plane, target, first, lanes=lanes, width=width)

                        lanes = cpu.lanes if windows.stride[1] == 1 else 1
                        _across(windows, lanes, add)

        return emit.build_function(self.name, [("columns", self._columns), ("x", self.outputs[0])], body)


def _clear(x: Expr, plane: Expr, windows: Windows, lanes: int) -> None:
    with T.serial(windows.image[0]) as row:

        def zero(_slot: int, first: Expr, width: int) -> None:
            emit.store(x, emit.splat(0.0, lanes), plane, row, first, lanes=lanes, width=width)

        streams.walk(windows.image[1], lanes, zero, unroll=1)


def _came_from(windows: Windows, h: Expr, w: Expr, i: Expr, j: Expr) -> tuple[Expr, Expr, Expr]:
    """Whether (h, w) is value (i, j) of a window, and which window's: where it is none's, any window's."""
    conditions, places = [], []
    for axis, (spot, value) in enumerate(((h, i), (w, j))):
        offset = spot - value * windows.dilation[axis]
        place = offset // windows.stride[axis]
        conditions += [offset % windows.stride[axis] == 0, offset >= 0, place < windows.places[axis]]
        places.append(tirx.max(0, tirx.min(place, windows.places[axis] - 1)))
    return tirx.all(*conditions), places[0], places[1]


@dataclass(frozen=True)
class Pool(Kernel):
    """x[planes, H, W] -> the maximum, or the sum, of each window [planes, places down, places across]; float32."""

    planes: int
    windows: Windows
    maximum: bool

    @property
    def name(self) -> str:
        return "max_pool" if self.maximum else "sum_pool"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.planes, *self.windows.places), "float32")]

    @property
    def _image(self) -> TensorShape:
        return ((self.planes, *self.windows.image), "float32")

    def portable(self) -> Any:
        windows = self.windows
        x = te.placeholder(self._image[0], name="x")
        i, j = (te.reduce_axis((0, k), name) for k, name in zip(windows.kernel, "ij", strict=True))
        combine = te.max if self.maximum else te.sum

        def value(plane: Any, down: Any, across: Any) -> Any:
            return combine(x[plane, windows.spot(i, down, 0), windows.spot(j, across, 1)], axis=[i, j])

        return te.create_prim_func([x, te.compute(self.outputs[0][0], value, name="y")])

    def tuned(self, cpu: CpuFeatures) -> Any:
        windows = self.windows
        if windows.size > _MOST_UNROLLED:
            return None
        cost = self.planes * windows.size * windows.places[0] * windows.places[1] * streams.NS_PER_FLOAT
        combine = tirx.max if self.maximum else operator.add

        def body(x: Expr, y: Expr) -> None:
            with streams.tasks(self.planes, cost) as plane, T.serial(windows.places[0]) as down:

                def pool(place: Expr, lanes: int, width: Expr) -> None:
                    values = self._values(x, plane, down, place, lanes, width)
                    made = next(values)
                    for value in values:
                        made = combine(made, value)
                    emit.store(y, made, plane, down, place, lanes=lanes, width=width)

                _across(windows, cpu.lanes, pool)

        return emit.build_function(self.name, [("x", self._image), ("y", self.outputs[0])], body)

    def _values(self, x: Expr, plane: Expr, down: Expr, place: Expr, lanes: int, width: Expr) -> Iterator[Expr]:
        windows = self.windows
        for at in range(windows.size):
            i, j = windows.split(at)
            row, first = windows.spot(i, down, 0), windows.spot(j, place, 1)
            yield _strided(x, plane, row, first, windows.stride[1], lanes, width)


@dataclass(frozen=True)
class MaxPoolGrad(Kernel):
    """(dy[planes, places], x[planes, H, W], y[planes, places]) -> dx[planes, H, W]; float32.

    The first value of a window, row by row, that is its maximum gets the gradient.
    """

    planes: int
    windows: Windows

    @property
    def name(self) -> str:
        return "max_pool_grad"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.planes, *self.windows.image), "float32")]

    @property
    def _places(self) -> TensorShape:
        return ((self.planes, *self.windows.places), "float32")

    def portable(self) -> Any:
        windows, zero = self.windows, tirx.FloatImm("float32", 0.0)
        dy, y = (te.placeholder(self._places[0], name=name) for name in ("dy", "y"))
        x = te.placeholder(self.outputs[0][0], name="x")
        i, j, k, m = (te.reduce_axis((0, n), name) for n, name in zip(windows.kernel * 2, "ijkm", strict=True))
        width, none = windows.kernel[1], tirx.IntImm("int32", windows.size)

        def first(plane: Any, down: Any, across: Any) -> Any:
            hit = x[plane, windows.spot(i, down, 0), windows.spot(j, across, 1)] == y[plane, down, across]
            return te.min(tirx.Select(hit, i * width + j, none), axis=[i, j])

        chosen = te.compute(self._places[0], first, name="chosen")

        def term(plane: Any, h: Any, w: Any) -> Any:
            inside, down, across = _came_from(windows, h, w, k, m)
            hit = tirx.all(inside, chosen[plane, down, across] == k * width + m)
            return te.sum(tirx.if_then_else(hit, dy[plane, down, across], zero), axis=[k, m])

        return te.create_prim_func([dy, x, y, te.compute(x.shape, term, name="dx")])

    def tuned(self, cpu: CpuFeatures) -> Any:
        windows = self.windows
        cost = self.planes * windows.size * windows.places[0] * windows.places[1] * 8 * streams.NS_PER_FLOAT

        def body(dy: Expr, x: Expr, y: Expr, dx: Expr) -> None:
            with streams.tasks(self.planes, cost) as plane:
                _clear(dx, plane, windows, cpu.lanes)
                with T.serial(windows.places[0]) as down, T.serial(windows.places[1]) as across:
                    chosen = T.alloc_buffer((1,), "int32", layout=None)
                    T.buffer_store(chosen, T.int32(0), [0])
                    with T.serial(windows.size) as step:  # backwards: the first one that fits is the last to be kept
                        at = T.bind(windows.size - 1 - step)
                        i, j = windows.split(at)
                        value = x[plane, windows.spot(i, down, 0), windows.spot(j, across, 1)]
                        T.buffer_store(chosen, tirx.Select(value == y[plane, down, across], at, chosen[0]), [0])
                    i, j = windows.split(chosen[0])
                    spot = [plane, windows.spot(i, down, 0), windows.spot(j, across, 1)]
                    T.buffer_store(dx, dx[tuple(spot)] + dy[plane, down, across], spot)

        arguments = [("dy", self._places), ("x", self.outputs[0]), ("y", self._places), ("dx", self.outputs[0])]
        return emit.build_function(self.name, arguments, body)
