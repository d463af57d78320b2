"""The gradient of two devices together, added up by the kernel that uses it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bucketmod.compiler.update_formulas import OF_TWO
from bucketmod.context import Context
from bucketmod.ndarray import NDArray


class GradientSum(NDArray):
    """The sum of two arrays of one shape and dtype: compiled updates take the ``parts``, anybody else has it made.

    ``add_up(first, second)`` makes it, when somebody first looks at it. Valid until the parts change, so for as long as
    the update that it is for.
    """

    __slots__ = ("_made", "add_up", "parts")

    def __init__(
        self,
        parts: tuple[NDArray, NDArray],
        add_up: Callable[[NDArray, NDArray], np.ndarray],
        context: Context,
    ) -> None:
        self.parts, self.add_up, self._context = parts, add_up, context
        self._made: np.ndarray | None = None

    @property
    def _data(self) -> np.ndarray:  # type: ignore[override]  # the base has a plain attribute
        if self._made is None:
            self._made = self.add_up(*self.parts)
        return self._made

    @_data.setter
    def _data(self, data: np.ndarray) -> None:
        self._made = data

    def joins(self, name: str, weight: NDArray) -> str | None:
        """The kernel that does what ``name`` does, but by both parts. None when the sum exists, or no such kernel does:
        there is none for an update that changes its gradient."""
        if self._made is not None or weight.dtype != np.float32 or self.parts[0].dtype != np.float32:
            return None
        return OF_TWO.get(name)
