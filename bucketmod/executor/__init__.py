"""``mx.executor``: a Symbol bound to arrays. Modules are built on the same programs, for data parallel training."""

from bucketmod.executor.binding import bind, evaluate, simple_bind
from bucketmod.executor.executor import Executor

__all__ = ["Executor", "bind", "evaluate", "simple_bind"]
