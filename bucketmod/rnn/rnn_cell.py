"""All cells under the module name that MXNet scripts import them from."""

from bucketmod.rnn.base_cell import BaseRNNCell, RNNParams
from bucketmod.rnn.basic_cells import GRUCell, LSTMCell, RNNCell
from bucketmod.rnn.container_cells import BidirectionalCell, DropoutCell, SequentialRNNCell
from bucketmod.rnn.convolutional_cells import BaseConvRNNCell, ConvGRUCell, ConvLSTMCell, ConvRNNCell
from bucketmod.rnn.fused_cell import FusedRNNCell
from bucketmod.rnn.modifier_cells import ModifierCell, ResidualCell, ZoneoutCell

__all__ = [
    "BaseConvRNNCell",
    "BaseRNNCell",
    "BidirectionalCell",
    "ConvGRUCell",
    "ConvLSTMCell",
    "ConvRNNCell",
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
]
