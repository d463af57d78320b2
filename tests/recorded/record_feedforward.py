"""Records FeedForward models of MXNet 1.9.1: feedforward.npz. Run with a Python that has it."""

import os

import mxnet
import numpy as np
from feedforward_cases import CASES, log_lines

if __name__ == "__main__":
    found = {"log": np.array(log_lines(mxnet))}
    for case in CASES:
        found.update({"%s/%s" % (case.__name__, name): array for name, array in case(mxnet).items()})
    np.savez_compressed(os.path.join(os.path.dirname(os.path.abspath(__file__)), "feedforward.npz"), **found)
