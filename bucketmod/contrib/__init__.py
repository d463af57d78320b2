"""``mx.contrib``: what needs more than this package."""

from bucketmod.contrib import tensorboard

__all__ = ["tensorboard"]
