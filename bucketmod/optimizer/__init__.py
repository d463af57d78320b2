"""``mx.optimizer`` (``mx.opt``): optimizers, and the updater that applies one to many parameters."""

from bucketmod.optimizer import contrib
from bucketmod.optimizer.adam import Adam, Adamax, Nadam
from bucketmod.optimizer.adaptive import FTML, AdaDelta, AdaGrad, Ftrl, RMSProp
from bucketmod.optimizer.kernels import REFERENCE, CompiledKernels, ReferenceKernels, UpdateKernels
from bucketmod.optimizer.large_batch import LAMB, LARS, LBSGD
from bucketmod.optimizer.optimizer import Optimizer, create, register
from bucketmod.optimizer.plain_sum import Test
from bucketmod.optimizer.sgd import DCASGD, NAG, SGD, SGLD, Signum, ccSGD
from bucketmod.optimizer.updater import Updater, get_updater

__all__ = [
    "AdaDelta", "AdaGrad", "Adam", "Adamax", "CompiledKernels", "DCASGD", "FTML", "Ftrl", "LAMB", "LARS", "LBSGD",
    "NAG", "Nadam", "Optimizer", "REFERENCE", "RMSProp", "ReferenceKernels", "SGD", "SGLD", "Signum", "Test",
    "UpdateKernels", "Updater", "ccSGD", "contrib", "create", "get_updater", "register",
]  # fmt: skip
