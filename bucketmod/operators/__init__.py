"""What each operator takes and gives: arguments, attributes, shapes and types. No numbers are computed here.

One file a family; importing a family registers its operators. ``get_op(name)`` finds one.
"""

from bucketmod.operators import (  # noqa: F401  (imported for what they register)
    alignment,
    creation,
    elementwise,
    indexing,
    loss,
    matrix,
    nn,
    normalization,
    recurrent,
    reduction,
    sequences,
    shaping,
    windows,
)
from bucketmod.operators.registry import OpDef, Param, get_op, op_names, register

__all__ = ["OpDef", "Param", "get_op", "op_names", "register"]
