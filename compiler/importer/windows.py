"""Converters of convolutions and pooling: images are padded, unfolded into columns, and multiplied by Gemm kernels.

One spatial axis counts as two, of which the first has length 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from bucketmod.compiler.importer.context import ImportContext, Node, bucketmod, converter
from bucketmod.compiler.importer.elementwise import const
from bucketmod.compiler.kernels.emit import emit_kernel
from bucketmod.compiler.kernels.products.gemm import Gemm
from bucketmod.compiler.kernels.windows import Col2Im, Im2Col, MaxPoolGrad, Pair, Pool, Windows

op = relax.op


class _Geometry:
    """What an image [samples, channels, ...] and the attributes of a node say about its windows.

    ``image``: sizes without padding; ``begin`` and ``end``: padding; ``spatial``: axes that the program knows of.
    """

    def __init__(self, node: Node, shape: tuple[int, ...], kernel: tuple[int, ...], extra: Pair = (0, 0)):
        self.spatial = len(shape) - 2
        if self.spatial not in (1, 2):
            raise node.fail(f"windows over {self.spatial} axes are not built; one or two are")
        if node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise node.fail(f"auto_pad {node.attribute('auto_pad')!r} is not built; give pads")
        if node.attribute("ceil_mode", 0):
            raise node.fail("ceil_mode=1 is not built; pad the end of the image instead")
        pads = tuple(node.attribute("pads") or (0,) * (2 * self.spatial))
        self.samples, self.channels = shape[:2]
        self.image = self._pair(shape[2:], 1)
        self.kernel = self._pair(kernel, 1)
        self.stride = self._pair(node.attribute("strides") or (1,) * self.spatial, 1)
        self.dilation = self._pair(node.attribute("dilations") or (1,) * self.spatial, 1)
        self.begin = self._pair(pads[: self.spatial], 0)
        self.end = self._pair(pads[self.spatial :], 0)
        if min(self.begin + self.end) < 0:
            raise node.fail(f"negative pads {pads} are not built")
        self.windows = Windows(self._padded(self.image), self.kernel, self.stride, self.dilation)

    def _pair(self, values: tuple[int, ...], missing: int) -> Pair:
        first, second = (missing, *values) if self.spatial == 1 else values
        return int(first), int(second)

    def _padded(self, image: Pair) -> Pair:
        rows, columns = (b + n + e for b, n, e in zip(self.begin, image, self.end, strict=True))
        return rows, columns

    @property
    def planes(self) -> int:
        return self.samples * self.channels

    def padded(self, context: ImportContext, x: Any, value: float = 0.0) -> Any:
        """[planes, H, W] with padding."""
        x = context.reshape(x, (self.planes, *self.image))
        widths = [0, 0, self.begin[0], self.end[0], self.begin[1], self.end[1]]
        return context.emit(op.nn.pad(x, widths, pad_value=value)) if any(widths) else x

    def cropped(self, context: ImportContext, x: Any, planes: int, image: Pair) -> Any:
        """[planes, H, W] without the padding of an image of these sizes."""
        x = context.reshape(x, (planes, *self._padded(image)))
        for axis in (0, 1):
            begin, size = self.begin[axis], image[axis]
            if context.shape(x)[axis + 1] != size:
                x = context.emit(op.strided_slice(x, [axis + 1], [begin], [begin + size], assume_inbound=True))
        return x

    def outer(self, samples: int, channels: int, sizes: Pair) -> tuple[int, ...]:
        """Shape as the program knows it."""
        return (samples, channels, *sizes[2 - self.spatial :])


def _group(node: Node, x: tuple[int, ...], weight: tuple[int, ...], channels: int) -> int:
    group = int(node.attribute("group", 1))
    if x[1] != channels * group:
        raise node.fail(f"{x[1]} channels meet a weight of shape {weight} in {group} groups")
    return group


def _of_each_sample(context: ImportContext, weight: Any, samples: int, group: int) -> Any:
    """[group, ...] for every sample; one matrix without groups, which all samples share."""
    if group == 1:
        return weight
    shape = context.shape(weight)
    return context.emit(op.broadcast_to(context.reshape(weight, (1, *shape)), (samples, *shape)))


def _with_bias(context: ImportContext, result: Any, inputs: list[Any]) -> Any:
    if len(inputs) < 3 or inputs[2] is None:
        return result
    rank = len(context.shape(result))
    column = context.reshape(inputs[2], (1, context.shape(inputs[2])[0], *[1] * (rank - 2)))
    return context.emit(op.add(result, column))


@converter("Conv")
def conv(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    """out[n] = weight [F, values of a window] times columns [values of a window, places], for each sample n."""
    x, weight = inputs[:2]
    shape, filters = context.shape(x), context.shape(weight)
    geometry = _Geometry(node, shape, filters[2:])
    group = _group(node, shape, filters, filters[1])
    windows, samples = geometry.windows, geometry.samples
    depth, places = filters[1] * windows.size, windows.places[0] * windows.places[1]
    columns = geometry.padded(context, x)
    if windows.kernel != (1, 1) or windows.stride != (1, 1):
        (columns,) = emit_kernel(context, Im2Col(samples, geometry.channels, windows), [columns])
    each = filters[0] // group
    matrix = context.reshape(weight, (group, each, depth))
    kernel = Gemm(each, depth, places, batch=samples * group, batch_a=group > 1)
    args = [
        _of_each_sample(context, matrix, samples, group),
        context.reshape(columns, (samples * group, depth, places)),
    ]
    (result,) = emit_kernel(context, kernel, args)
    result = context.reshape(result, geometry.outer(samples, filters[0], windows.places))
    return _with_bias(context, result, inputs)


@converter("ConvTranspose")
def conv_transpose(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    """columns[n] = transposed weight [values of a window, C] times x[n] [C, places], added up where they overlap."""
    x, weight = inputs[:2]
    shape, filters = context.shape(x), context.shape(weight)
    if node.attribute("output_shape"):
        raise node.fail("output_shape is not built; give pads and output_padding")
    geometry = _Geometry(node, shape, filters[2:])
    group = _group(node, shape, filters, filters[0] // int(node.attribute("group", 1)))
    more = geometry._pair(tuple(node.attribute("output_padding") or (0,) * geometry.spatial), 0)
    full = [
        (n - 1) * s + (k - 1) * d + 1 + m
        for n, s, k, d, m in zip(
            geometry.image, geometry.stride, geometry.kernel, geometry.dilation, more, strict=True
        )
    ]  # fmt: skip
    windows = Windows((full[0], full[1]), geometry.kernel, geometry.stride, geometry.dilation)
    if windows.places != geometry.image:
        raise node.fail(f"output_padding {more} is not smaller than the stride {geometry.stride}")
    samples, made = geometry.samples, filters[1] * group
    depth, places = filters[1] * windows.size, windows.places[0] * windows.places[1]
    each = shape[1] // group
    matrix = context.reshape(weight, (group, each, depth))
    kernel = Gemm(depth, each, places, trans_a=True, batch=samples * group, batch_a=group > 1)
    args = [_of_each_sample(context, matrix, samples, group), context.reshape(x, (samples * group, each, places))]
    (columns,) = emit_kernel(context, kernel, args)
    columns = context.reshape(columns, (samples * made * windows.size, *windows.places))
    (image,) = emit_kernel(context, Col2Im(samples * made, windows), [columns])
    rows, across = (n - b - e for n, b, e in zip(full, geometry.begin, geometry.end, strict=True))
    result = geometry.cropped(context, image, samples * made, (rows, across))
    return _with_bias(context, context.reshape(result, geometry.outer(samples, made, (rows, across))), inputs)


@bucketmod("ConvWeightGrad")
def conv_weight_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    """(x, dy, shape of the weight): dy [F, samples * places] times columns [samples * places, values of a window]."""
    x, dy = inputs[:2]
    filters = tuple(int(d) for d in context.array(node, 2, "the shape"))
    geometry = _Geometry(node, context.shape(x), filters[2:])
    group, windows, samples = int(node.attribute("group", 1)), geometry.windows, geometry.samples
    places = windows.places[0] * windows.places[1]
    (columns,) = emit_kernel(
        context, Im2Col(samples, geometry.channels, windows, joined=True), [geometry.padded(context, x)]
    )
    dy = context.reshape(dy, (samples, filters[0], places))
    if samples > 1:
        dy = context.emit(op.permute_dims(dy, [1, 0, 2]))
    each, depth = filters[0] // group, filters[1] * windows.size
    kernel = Gemm(each, samples * places, depth, trans_b=True, batch=group)
    args = [
        context.reshape(dy, (group, each, samples * places)),
        context.reshape(columns, (group, depth, samples * places)),
    ]
    (result,) = emit_kernel(context, kernel, args)
    return context.reshape(result, filters)


def _pooled(context: ImportContext, node: Node, x: Any) -> _Geometry:
    return _Geometry(node, context.shape(x), tuple(node.attribute("kernel_shape")))


@converter("MaxPool")
def max_pool(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    if node.wants(1):
        raise node.fail("the positions of the maxima are not built")
    geometry = _pooled(context, node, inputs[0])
    image = geometry.padded(context, inputs[0], _LOWEST)
    (result,) = emit_kernel(context, Pool(geometry.planes, geometry.windows, maximum=True), [image])
    shape = geometry.outer(geometry.samples, geometry.channels, geometry.windows.places)
    return [context.reshape(result, shape)]


_LOWEST = float(np.finfo(np.float32).min)


@bucketmod("MaxPoolGrad")
def max_pool_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    dy, x, y = inputs
    geometry = _pooled(context, node, x)
    places = (geometry.planes, *geometry.windows.places)
    args = [context.reshape(dy, places), geometry.padded(context, x, _LOWEST), context.reshape(y, places)]
    (result,) = emit_kernel(context, MaxPoolGrad(geometry.planes, geometry.windows), args)
    return context.reshape(geometry.cropped(context, result, geometry.planes, geometry.image), context.shape(x))


@converter("AveragePool")
def average_pool(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    geometry = _pooled(context, node, inputs[0])
    image = geometry.padded(context, inputs[0])
    (result,) = emit_kernel(context, Pool(geometry.planes, geometry.windows, maximum=False), [image])
    result = _averaged(context, node, geometry, result)
    return context.reshape(result, geometry.outer(geometry.samples, geometry.channels, geometry.windows.places))


@bucketmod("AveragePoolGrad")
def average_pool_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    """(dy, shape of the image)."""
    shape = tuple(int(d) for d in context.array(node, 1, "the shape"))
    geometry = _Geometry(node, shape, tuple(node.attribute("kernel_shape")))
    share = context.reshape(inputs[0], (geometry.planes, *geometry.windows.places))
    share = _averaged(context, node, geometry, share)
    (result,) = emit_kernel(context, Col2Im(geometry.planes, geometry.windows, shared=True), [share])
    return context.reshape(geometry.cropped(context, result, geometry.planes, geometry.image), shape)


@converter("GlobalAveragePool", "GlobalMaxPool")
def global_pool(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    reduce = op.mean if node.op_type == "GlobalAveragePool" else op.max
    axes = list(range(2, len(context.shape(inputs[0]))))
    return context.emit(reduce(inputs[0], axes, keepdims=True))


def _averaged(context: ImportContext, node: Node, geometry: _Geometry, sums: Any) -> Any:
    """Divided by the values of a window: all of them, or those that are no padding."""
    windows = geometry.windows
    if node.attribute("count_include_pad", 0) or not any(geometry.begin + geometry.end):
        return context.emit(op.multiply(sums, const(1.0 / windows.size, sums, context)))
    counts = np.ones(windows.places, np.float32)
    for axis in (0, 1):
        place = np.arange(windows.places[axis])[:, None] * windows.stride[axis]
        spots = place + np.arange(windows.kernel[axis]) * windows.dilation[axis] - geometry.begin[axis]
        inside = ((spots >= 0) & (spots < geometry.image[axis])).sum(1).astype(np.float32)
        counts *= inside[:, None] if axis == 0 else inside
    return context.emit(op.multiply(sums, relax.const((1 / counts)[None], "float32")))
