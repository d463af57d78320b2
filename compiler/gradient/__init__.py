"""Training programs from forward programs."""

from bucketmod.compiler.errors import UnsupportedGradientError
from bucketmod.compiler.gradient.differentiate import differentiate
from bucketmod.compiler.graph.parts import is_backward

__all__ = ["UnsupportedGradientError", "differentiate", "is_backward"]
