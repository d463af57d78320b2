"""Recurrent cells, their checkpoints, and batches of sentences; names as in ``mxnet.rnn``."""

from bucketmod.rnn import io, rnn, rnn_cell
from bucketmod.rnn.io import BucketSentenceIter, encode_sentences
from bucketmod.rnn.rnn import do_rnn_checkpoint, load_rnn_checkpoint, rnn_unroll, save_rnn_checkpoint
from bucketmod.rnn.rnn_cell import (
    BaseRNNCell,
    BidirectionalCell,
    DropoutCell,
    FusedRNNCell,
    GRUCell,
    LSTMCell,
    ModifierCell,
    ResidualCell,
    RNNCell,
    RNNParams,
    SequentialRNNCell,
    ZoneoutCell,
)

__all__ = [
    "BaseRNNCell",
    "BidirectionalCell",
    "BucketSentenceIter",
    "DropoutCell",
    "FusedRNNCell",
    "GRUCell",
    "LSTMCell",
    "ModifierCell",
    "RNNCell",
    "RNNParams",
    "ResidualCell",
    "SequentialRNNCell",
    "ZoneoutCell",
    "do_rnn_checkpoint",
    "encode_sentences",
    "io",
    "load_rnn_checkpoint",
    "rnn",
    "rnn_cell",
    "rnn_unroll",
    "save_rnn_checkpoint",
]

_NOT_BUILT = ("BaseConvRNNCell", "ConvRNNCell", "ConvLSTMCell", "ConvGRUCell")


def __getattr__(name: str) -> object:
    if name in _NOT_BUILT:
        raise NotImplementedError(f"rnn.{name} (convolutional recurrence) is not built")
    raise AttributeError(f"module 'bucketmod.rnn' has no attribute {name!r}")
