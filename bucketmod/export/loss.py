"""Loss heads: outputs whose gradient is their own, whatever comes from above."""

from __future__ import annotations

from typing import Any

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import FUNCTION_DOMAIN, NodeExport, exporter


@exporter("SoftmaxOutput")
def softmax_output(node: NodeExport) -> Tensor:
    attrs = node.attrs
    attributes: dict[str, Any] = {name: float(attrs[name]) for name in ("grad_scale", "ignore_label", "smooth_alpha")}
    for name in ("use_ignore", "multi_output", "preserve_shape", "out_grad"):
        attributes[name] = int(attrs[name])
    attributes["normalization"] = attrs["normalization"]
    return node.result("SoftmaxOutput", node.inputs, domain=FUNCTION_DOMAIN, **attributes)


@exporter("MakeLoss")
def make_loss_layer(node: NodeExport) -> Tensor:
    return _make_loss(node, node.attrs["grad_scale"], node.attrs["valid_thresh"], node.attrs["normalization"])


@exporter("make_loss")
def make_loss(node: NodeExport) -> Tensor:
    return _make_loss(node, 1.0, 0.0, "null")


def _make_loss(node: NodeExport, grad_scale: float, valid_thresh: float, normalization: str) -> Tensor:
    return node.result(
        "MakeLoss",
        node.inputs,
        domain=FUNCTION_DOMAIN,
        grad_scale=float(grad_scale),
        valid_thresh=float(valid_thresh),
        normalization=normalization,
    )


@exporter("BlockGrad")
def block_grad(node: NodeExport) -> Tensor:
    return node.result("BlockGrad", node.inputs, domain=FUNCTION_DOMAIN)


@exporter("LinearRegressionOutput", "MAERegressionOutput", "LogisticRegressionOutput")
def regression_output(node: NodeExport) -> Tensor:
    grad_scale = float(node.attrs["grad_scale"])
    return node.result(node.op_name, node.inputs, domain=FUNCTION_DOMAIN, grad_scale=grad_scale)


@exporter("SVMOutput")
def svm_output(node: NodeExport) -> Tensor:
    return node.result(
        "SVMOutput",
        node.inputs,
        domain=FUNCTION_DOMAIN,
        margin=float(node.attrs["margin"]),
        regularization_coefficient=float(node.attrs["regularization_coefficient"]),
        use_linear=int(node.attrs["use_linear"]),
    )
