"""What every kernel family provides: one instance of a family is a kernel specialised to shapes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

TUNED = "bucketmod.tuned"  # PrimFunc attribute: loops are final, no schedule may touch it

# PrimFunc attribute: a kernel family wrote the body. Its indices are int32, and no loop of it has parts with conditions
# of their own: what TVM has to find out about other functions is known.
WRITTEN = "bucketmod.written"

FLOPS = "bucketmod.flops"  # PrimFunc attribute: what ``Kernel.flops`` says, for profiles

# PrimFunc attribute: other programs are likely to have the same kernel, so its machine code is an object of its own.
COMMON = "bucketmod.common"

# PrimFunc attribute {output index: input index}: the output may be written over the input, in one place. The memory
# plan does so where nothing reads the input later; elsewhere, as in the tests of kernels, the two are apart.
IN_PLACE = "bucketmod.in_place"

TensorShape = tuple[tuple[int, ...], str]  # shape, dtype


class Kernel(ABC):
    """A family is a frozen dataclass of shapes and options that derives from this class.

    Both forms take the inputs, then the outputs, then the scratch buffers, each a ``T.Buffer`` of static shape
    (destination-passing), and compute the same function.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Symbol prefix for profiles, e.g. ``gemm_nt``."""

    @property
    @abstractmethod
    def outputs(self) -> list[TensorShape]:
        """Shape and dtype of each output."""

    @property
    def flops(self) -> int:
        """Floating-point operations of the matrix products in a call, 2 a multiply-add; 0 for kernels without one."""
        return 0

    @property
    def common(self) -> bool:
        """Whether the kernel is worth ``COMMON``: what takes long to compile, or does not depend on the bucket."""
        return self.flops > 0

    @property
    def in_place(self) -> dict[int, int]:
        """``IN_PLACE`` of the tuned form; input and output must have the same number of bytes."""
        return {}

    def with_packed_weight(self, cpu: CpuFeatures, once: bool) -> tuple[int, Kernel, Kernel] | None:
        """Where the tuned form first brings an input, a weight, into another order: the number of that input, the
        kernel that does so, and this kernel for an input that is in that order already.

        ``once``: the first of them will run once for many calls of the other. None where that is no gain.
        """
        return None

    def alternatives(self, cpu: CpuFeatures) -> Sequence[Kernel]:
        """This kernel with its tuned form cut in other ways that the model of cost holds for nearly as good: measuring
        may choose one of them. Families that have any keep the cut in a field ``cut``, None for what the model says."""
        return []

    def scratch(self, cpu: CpuFeatures) -> list[TensorShape]:
        """Buffers that only the tuned form needs; the memory planner places them in the workspace."""
        return []

    @abstractmethod
    def portable(self) -> Any:
        """A ``tirx.PrimFunc`` made of schedulable blocks that TVM's default schedules lower for any target."""

    def tuned(self, cpu: CpuFeatures) -> Any | None:
        """A ``tirx.PrimFunc`` for this CPU with the attribute ``TUNED``, or None where the portable form serves."""
        return None
