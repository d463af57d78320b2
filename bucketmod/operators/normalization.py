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
