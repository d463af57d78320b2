"""Layers that normalise by statistics of their input."""

from __future__ import annotations

from bucketmod.operators import parameters as p
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, normal_axis, unify


def _batch_norm(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ins[0] = outs[0] = unify(ins[0], outs[0])
    data = ins[0]
    if data is None:
        return
    channels = (data[normal_axis(attrs["axis"], len(data))],)
    ins[1:] = [unify(shape, channels) for shape in ins[1:]]
    outs[1:] = [unify(shape, channels) for shape in outs[1:]]


register(
    "BatchNorm",
    ["data", "gamma", "beta"],
    [
        p.real("eps", 1e-3),
        p.real("momentum", 0.9),
        p.boolean("fix_gamma", True),
        p.boolean("use_global_stats", False),
        p.boolean("output_mean_var", False),
        p.integer("axis", 1),
        p.boolean("cudnn_off", False),
        p.real("min_calib_range", None, optional=True),
        p.real("max_calib_range", None, optional=True),
    ],
    aux=["moving_mean", "moving_var"],
    outputs=("output", "mean", "var"),
    visible=lambda a: 3 if a["output_mean_var"] else 1,
    variable_attrs={"moving_mean": {"__init__": '["zero", {}]'}, "moving_var": {"__init__": '["one", {}]'}},
    shape=_batch_norm,
    doc="(data - mean) / sqrt(variance + eps) * gamma + beta for each channel (``axis``): in training with the "
    "statistics of the batch, which also move moving_mean and moving_var (momentum * old + (1 - momentum) * new) in "
    "the backward pass; in inference, or with use_global_stats, with the moving ones. fix_gamma: gamma is 1. "
    "output_mean_var: also the mean and 1 / sqrt(variance + eps) that were used.",
)


def _instance_norm(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ins[0] = outs[0] = unify(ins[0], outs[0])
    data = ins[0]
    if data is None:
        return
    if len(data) < 3:
        raise ValueError(f"data {data}: expected (N, C, ...)")
    ins[1:] = [unify(shape, data[1:2]) for shape in ins[1:]]
    outs[1:] = [unify(shape, data[:2]) for shape in outs[1:]]


register(
    "InstanceNorm",
    ["data", "gamma", "beta"],
    [p.real("eps", 1e-3)],
    outputs=("output", "mean", "var"),
    visible=1,
    shape=_instance_norm,
    doc="(data - mean) / sqrt(variance + eps) * gamma + beta, for each channel of each sample of data (N, C, ...).",
)


def _group_norm(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ins[0] = outs[0] = unify(ins[0], outs[0])
    data, groups = ins[0], attrs["num_groups"]
    ins[1:] = [unify(shape, (groups,)) for shape in ins[1:]]
    if data is None:
        return
    if len(data) < 3 or data[1] % groups:
        raise ValueError(f"data {data}: expected (N, C, ...) with C divisible by num_groups={groups}")
    outs[1:] = [unify(shape, (data[0], groups)) for shape in outs[1:]]


register(
    "GroupNorm",
    ["data", "gamma", "beta"],
    [p.count("num_groups", 1), p.real("eps", 1e-5), p.boolean("output_mean_var", False)],
    outputs=("output", "mean", "std"),
    visible=lambda a: 3 if a["output_mean_var"] else 1,
    shape=_group_norm,
    doc="(data - mean) / sqrt(variance + eps) * gamma + beta, for each group of channels of each sample of data (N, C, "
    "...); gamma and beta (num_groups,).",
)


def _l2_normalization(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ins[0] = outs[0] = unify(ins[0], outs[0])
    if ins[0] is not None:
        if len(ins[0]) < (2 if attrs["mode"] == "instance" else 3):
            raise ValueError(f"data {ins[0]}: expected (N, C, ...) for mode={attrs['mode']}")
        axes = l2_axes(attrs["mode"], len(ins[0]))
        outs[1] = unify(outs[1], tuple([n for i, n in enumerate(ins[0]) if i not in axes]))


def l2_axes(mode: str, ndim: int) -> list[int]:
    """The axes that are normalised together."""
    return {"instance": list(range(1, ndim)), "channel": [1], "spatial": list(range(2, ndim))}[mode]


register(
    "L2Normalization",
    params=[p.real("eps", 1e-10), p.choice("mode", ("channel", "instance", "spatial"), "instance")],
    outputs=("output", "norm"),
    visible=1,
    shape=_l2_normalization,
    doc="data / sqrt(sum of squares + eps): the sum over a sample (instance), its channels at each place (channel), or "
    "the places of each channel (spatial).",
)


def _lrn(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    if attrs["nsize"] % 2 == 0:
        raise ValueError(f"nsize={attrs['nsize']} must be odd")
    if ins[0] is not None and len(ins[0]) != 4:
        raise ValueError(f"data {ins[0]}: expected (N, C, height, width)")
    ins[0] = outs[0] = unify(ins[0], outs[0])
    outs[1] = unify(outs[1], outs[0])


register(
    "LRN",
    params=[p.real("alpha", 1e-4), p.real("beta", 0.75), p.real("knorm", 2.0), p.count("nsize")],
    outputs=("output", "tmp_norm"),
    visible=1,
    shape=_lrn,
    doc="data / (knorm + alpha / nsize * sum of squares of nsize neighbouring channels) ** beta; data (N, C, H, W).",
)


def _softmax_activation(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ins[0] = outs[0] = unify(ins[0], outs[0])
    if ins[0] is not None and len(ins[0]) < (3 if attrs["mode"] == "channel" else 2):
        raise ValueError(f"data {ins[0]}: too few axes for mode={attrs['mode']}")


register(
    "SoftmaxActivation",
    params=[p.choice("mode", ("channel", "instance"), "instance")],
    shape=_softmax_activation,
    doc="Softmax over the last axis (instance), or over axis 1 (channel).",
)
