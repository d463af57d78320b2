"""Symbol -> ONNX. One file a family of operators, as in ``bucketmod.operators``; importing a family registers it."""

from bucketmod.export import (  # noqa: F401  (imported for what they register)
    activation,
    alignment,
    channels,
    creation,
    elementwise,
    indexing,
    linear,
    loss,
    normalization,
    recurrent,
    reduction,
    sequences,
    shaping,
    windows,
)
from bucketmod.export.forward import export_symbol

__all__ = ["export_symbol"]
