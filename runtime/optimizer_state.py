"""What an optimizer remembers of each parameter (momentum, moments): one set for all buckets."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np


class OptimizerState(dict[Hashable, Any]):
    """The state of each parameter by its key: None, an array, or a tuple of states.

    A state is made at the parameter's first update, in memory that never moves, so kernels bind to it once.
    """

    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(_nbytes(state) for state in self.values())


def _nbytes(state: Any) -> int:
    if isinstance(state, tuple | list):
        return sum(_nbytes(each) for each in state)
    return 0 if state is None else state.size * np.dtype(state.dtype).itemsize
