"""``mx.optimizer`` (``mx.opt``): optimizers, and the updater that applies one to many parameters."""

from bucketmod.optimizer.adam import Adam
from bucketmod.optimizer.kernels import REFERENCE, CompiledKernels, ReferenceKernels, UpdateKernels
from bucketmod.optimizer.optimizer import Optimizer, create, register
from bucketmod.optimizer.plain_sum import Test
from bucketmod.optimizer.sgd import SGD, ccSGD
from bucketmod.optimizer.updater import Updater, get_updater

__all__ = [
    "Adam", "CompiledKernels", "Optimizer", "REFERENCE", "ReferenceKernels", "SGD", "Test", "UpdateKernels", "Updater",
    "ccSGD", "create", "get_updater", "register",
]  # fmt: skip
