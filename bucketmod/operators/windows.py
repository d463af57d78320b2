"""Windows that slide over images [N, C, height, width] or sequences [N, C, width]: convolutions, pooling, resizing."""

from __future__ import annotations

from collections.abc import Sequence

from bucketmod.operators import parameters as p
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, unify

_LAYOUTS = ("NCDHW", "NCHW", "NCW", "NDHWC", "NHWC")
_CONVOLUTION = [
    p.lengths("kernel"),
    p.lengths("stride", ()),
    p.lengths("dilate", ()),
    p.lengths("pad", ()),
]
_HOW = [
    p.choice("cudnn_tune", ("fastest", "limited_workspace", "off"), None, optional=True),
    p.boolean("cudnn_off", False),
    p.choice("layout", _LAYOUTS, None, optional=True),
]


def along(attrs: Attrs, name: str, default: int, rank: int) -> tuple[int, ...]:
    """An attribute with one value for each spatial axis. Raises ValueError for another number of them."""
    given = attrs[name] or (default,) * rank
    if len(given) != rank:
        raise ValueError(f"{name}={given}: expected {rank} values, one for each spatial axis")
    return tuple(given)


def _spatial_rank(attrs: Attrs, data: Sequence[int]) -> int:
    rank = len(attrs["kernel"])
    if not 1 <= rank <= 3 or len(data) != rank + 2:
        raise ValueError(f"data {tuple(data)}: expected {rank + 2} axes (N, C, ...) for kernel={attrs['kernel']}")
    if (attrs["layout"] or "NC")[1] != "C":
        raise ValueError(f"layout={attrs['layout']}: channels must be the second axis")
    if min(attrs["kernel"]) < 1 or min(along(attrs, "stride", 1, rank)) < 1:
        raise ValueError(f"kernel={attrs['kernel']} stride={attrs['stride']}: expected 1 or more")
    return rank


def _convolution(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, filters, group = ins[0], attrs["num_filter"], attrs["num_group"]
    if not attrs["no_bias"]:
        ins[2] = unify(ins[2], (filters,))
    if data is None:
        return
    rank = _spatial_rank(attrs, data)
    if filters % group or data[1] % group:
        raise ValueError(f"{data[1]} channels and num_filter={filters} do not divide into num_group={group}")
    ins[1] = unify(ins[1], (filters, data[1] // group, *attrs["kernel"]))
    steps = zip(*(along(attrs, n, d, rank) for n, d in (("stride", 1), ("dilate", 1), ("pad", 0))), strict=True)
    sizes, back = [], []
    out = outs[0] or (0,) * (rank + 2)
    if len(out) != rank + 2:
        raise ValueError(f"output {out}: expected {rank + 2} axes")
    for size, kernel, (stride, dilate, pad), made in zip(data[2:], attrs["kernel"], steps, out[2:], strict=True):
        reach = dilate * (kernel - 1) + 1
        if size and reach > size + 2 * pad:
            raise ValueError(f"a kernel that spans {reach} exceeds the input, {size} + 2 * {pad}")
        sizes.append((size + 2 * pad - reach) // stride + 1 if size else 0)
        back.append(made + reach - 1 - 2 * pad if made and stride == 1 else 0)
    outs[0] = out = unify(outs[0], (data[0], filters, *sizes)) or ()
    ins[0] = unify(data, (out[0], 0, *(max(size, 0) for size in back)))


def _with_bias(attrs: Attrs) -> list[str]:
    return ["data", "weight"] if attrs["no_bias"] else ["data", "weight", "bias"]


register(
    "Convolution",
    ["data", "weight", "bias"],
    [
        *_CONVOLUTION,
        p.count("num_filter"),
        p.count("num_group", 1),
        p.integer("workspace", 1024),
        p.boolean("no_bias", False),
        *_HOW,
    ],
    inputs_of=_with_bias,
    shape=_convolution,
    doc="Each of num_filter filters, weight (num_filter, C / num_group, kernel), slides over data (N, C, ...) and "
    "gives one channel of the output; bias (num_filter,).",
)


def _deconvolution(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, filters, group = ins[0], attrs["num_filter"], attrs["num_group"]
    if not attrs["no_bias"]:
        ins[2] = unify(ins[2], (filters,))
    if data is None:
        return
    _spatial_rank(attrs, data)
    if filters % group or data[1] % group:
        raise ValueError(f"{data[1]} channels and num_filter={filters} do not divide into num_group={group}")
    ins[1] = unify(ins[1], (data[1], filters // group, *attrs["kernel"]))
    sizes = deconvolved(attrs, data[2:])
    if any(size < 1 for size, given in zip(sizes, data[2:], strict=True) if given):
        raise ValueError(f"pad={attrs['pad']} leaves nothing of the output")
    outs[0] = unify(outs[0], (data[0], filters, *(s if n else 0 for s, n in zip(sizes, data[2:], strict=True))))


def deconvolved(attrs: Attrs, sizes: Sequence[int]) -> list[int]:
    """Spatial sizes of the output of a Deconvolution. ValueError for ``adj`` that is not below ``stride``."""
    rank = len(sizes)
    names = (("stride", 1), ("dilate", 1), ("pad", 0), ("adj", 0))
    columns = zip(sizes, attrs["kernel"], *(along(attrs, name, default, rank) for name, default in names), strict=True)
    made = []
    for size, kernel, stride, dilate, pad, adj in columns:
        if adj >= stride:
            raise ValueError(f"adj={attrs['adj']} must be below stride={attrs['stride']}")
        made.append(stride * (size - 1) + dilate * (kernel - 1) + 1 - 2 * pad + adj)
    return made


register(
    "Deconvolution",
    ["data", "weight", "bias"],
    [
        *_CONVOLUTION,
        p.lengths("adj", ()),
        p.lengths("target_shape", ()),
        p.count("num_filter"),
        p.count("num_group", 1),
        p.integer("workspace", 512),
        p.boolean("no_bias", True),
        *_HOW,
    ],
    inputs_of=_with_bias,
    shape=_deconvolution,
    doc="The transpose of a convolution: each value of data (N, C, ...) adds its multiple of weight (C, num_filter / "
    "num_group, kernel) to the output; adj adds to the output's end.",
)


def _pooling(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data = ins[0]
    if data is None:
        return
    if (attrs["layout"] or "NC")[1] != "C":
        raise ValueError(f"layout={attrs['layout']}: channels must be the second axis")
    if not 3 <= len(data) <= 5:
        raise ValueError(f"data {data}: expected (N, C) and one to three spatial axes")
    outs[0] = unify(outs[0], (*data[:2], *pooled(attrs, data[2:])))


def pooled(attrs: Attrs, sizes: Sequence[int]) -> list[int]:
    """Spatial sizes of the output of a Pooling; 0 where the input's is unknown."""
    if attrs["global_pool"]:
        return [1] * len(sizes)
    rank = len(sizes)
    if len(attrs["kernel"]) != rank or min(attrs["kernel"]) < 1:
        raise ValueError(f"kernel={attrs['kernel']}: expected {rank} sizes, one for each spatial axis")
    strides, pads = along(attrs, "stride", 1, rank), along(attrs, "pad", 0, rank)
    made = []
    for size, kernel, stride, pad in zip(sizes, attrs["kernel"], strides, pads, strict=True):
        if stride < 1 or pad >= kernel:
            raise ValueError(f"stride={strides} must be 1 or more, pad={pads} smaller than kernel={attrs['kernel']}")
        if size and kernel > size + 2 * pad:
            raise ValueError(f"kernel size {kernel} exceeds the input, {size} + 2 * {pad}")
        spare = size + 2 * pad - kernel
        steps = -(-spare // stride) if attrs["pooling_convention"] == "full" else spare // stride
        made.append(steps + 1 if size else 0)
    return made


register(
    "Pooling",
    params=[
        p.lengths("kernel", ()),
        p.choice("pool_type", ("avg", "lp", "max", "sum"), "max"),
        p.boolean("global_pool", False),
        p.boolean("cudnn_off", False),
        p.choice("pooling_convention", ("full", "same", "valid"), "valid"),
        p.lengths("stride", ()),
        p.lengths("pad", ()),
        p.integer("p_value", None, optional=True),
        p.flag_or_none("count_include_pad"),
        p.choice("layout", (*_LAYOUTS, "NWC"), None, optional=True),
    ],
    shape=_pooling,
    doc="The greatest value (max), mean (avg) or sum of each window of data (N, C, ...). pooling_convention full: a "
    "last window may reach beyond the end. avg divides by the whole window, padding included, unless "
    "count_include_pad=False. global_pool: one window, the whole image.",
)


def _up_sampling(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    if ins[0] is None:
        return
    if len(ins[0]) != 4:
        raise ValueError(f"data {ins[0]}: expected (N, C, height, width)")
    batch, channels, *sizes = ins[0]
    outs[0] = unify(outs[0], (batch, channels, *(size * attrs["scale"] for size in sizes)))


register(
    "UpSampling",
    [],
    [
        p.count("scale"),
        p.integer("num_filter", 0),
        p.choice("sample_type", ("nearest",)),
        p.choice("multi_input_mode", ("concat", "sum"), "concat"),
        p.count("num_args", most=1),
        p.integer("workspace", 512),
    ],
    variadic="num_args",
    shape=_up_sampling,
    doc="Every pixel of data (N, C, H, W) repeated scale times down and across. One input, sample_type nearest.",
)


def _pad(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, widths = ins[0], attrs["pad_width"]
    if data is None:
        return
    if len(widths) != 2 * len(data) or len(data) not in (4, 5) or any(widths[:4]):
        raise ValueError(
            f"pad_width={widths} for data {data}: expected a begin and an end for each of 4 or 5 axes, 0 for the first "
            "two axes"
        )
    made = [n + widths[2 * i] + widths[2 * i + 1] if n else 0 for i, n in enumerate(data)]
    outs[0] = unify(outs[0], tuple(made))


register(
    "Pad",
    params=[
        p.choice("mode", ("constant", "edge", "reflect")),
        p.lengths("pad_width"),
        p.real("constant_value", 0.0),
    ],
    aliases=["pad"],
    shape=_pad,
    doc="Wider along the axes behind the channels: by a constant, the edge's values, or mirrored without the edge.",
)


def _depth_to_space(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    _regrouped(attrs, ins, outs, 1)


def _space_to_depth(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    _regrouped(attrs, ins, outs, -1)


def _regrouped(attrs: Attrs, ins: list[Shape], outs: list[Shape], direction: int) -> None:
    if ins[0] is None:
        return
    block = attrs["block_size"]
    if len(ins[0]) != 4:
        raise ValueError(f"data {ins[0]}: expected (N, C, height, width)")
    batch, channels, *sizes = ins[0]
    if direction > 0:
        if channels % block**2:
            raise ValueError(f"{channels} channels are no multiple of block_size**2 = {block**2}")
        made = (batch, channels // block**2, *(n * block for n in sizes))
    else:
        if any(n % block for n in sizes):
            raise ValueError(f"data {ins[0]}: height and width must be multiples of block_size={block}")
        made = (batch, channels * block**2, *(n // block for n in sizes))
    outs[0] = unify(outs[0], made)


_BLOCKS = [p.count("block_size", most=2**15)]
register(
    "depth_to_space",
    params=_BLOCKS,
    shape=_depth_to_space,
    doc="Blocks of channels become squares of pixels: (N, b * b * C, H, W) as (N, C, b * H, b * W).",
)
register(
    "space_to_depth",
    params=_BLOCKS,
    shape=_space_to_depth,
    doc="Squares of pixels become blocks of channels: (N, C, b * H, b * W) as (N, b * b * C, H, W).",
)
