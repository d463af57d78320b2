"""Between graphs and the runtime: shapes are inferred, requests named by content, artifacts found or compiled."""

from bucketmod.binding.artifacts import (
    CompilationError,
    MissingArtifactError,
    compile_seconds,
    compiled_count,
    default_target,
    get_cache,
    obtain,
    set_cache,
)
from bucketmod.binding.bucket import Argument, Bucket, make_bucket
from bucketmod.binding.monitored import monitored
from bucketmod.binding.onnx_model import OnnxModel, is_model
from bucketmod.binding.placement import place, prepare_group2ctxs
from bucketmod.binding.updates import update_kernels, update_request

__all__ = [
    "Argument",
    "Bucket",
    "CompilationError",
    "MissingArtifactError",
    "OnnxModel",
    "compile_seconds",
    "compiled_count",
    "default_target",
    "get_cache",
    "is_model",
    "make_bucket",
    "monitored",
    "obtain",
    "place",
    "prepare_group2ctxs",
    "set_cache",
    "update_kernels",
    "update_request",
]
