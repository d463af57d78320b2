"""``mx.checkpoint``: whole checkpoints, from which training goes on with the numbers it would have had.

Beside MXNet's files (``mx.model.save_checkpoint``), which hold a graph and parameters: these hold the optimizer with
its counts and schedule, the order of the data and the random numbers too, in one file that is whole or not there.
"""

from bucketmod.checkpoint.checkpoint import Checkpoint, file_name, load, newest, save

__all__ = ["Checkpoint", "file_name", "load", "newest", "save"]
