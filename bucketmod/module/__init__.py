"""``mx.mod`` (``mx.module``): bind a graph, give it parameters and an optimizer, run it."""

from bucketmod.module.base_module import BaseModule
from bucketmod.module.bucketing_module import BucketingModule
from bucketmod.module.module import Module
from bucketmod.module.python_module import PythonLossModule, PythonModule
from bucketmod.module.sequential_module import SequentialModule

__all__ = ["BaseModule", "BucketingModule", "Module", "PythonLossModule", "PythonModule", "SequentialModule"]
