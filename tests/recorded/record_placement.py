"""Records graphs over several contexts with MXNet 1.9.1: placement.npz. Run with a Python that has it."""

import os

import mxnet
import numpy as np
from placement_cases import CASES, executed, train, two_sided

if __name__ == "__main__":
    found = {}
    for case in CASES:
        placed = train(mxnet, case, CASES[case][1](mxnet))
        found.update({"%s/%s" % (case, name): array for name, array in placed.items()})
    found.update({"zigzag/" + name: array for name, array in executed(mxnet, two_sided(mxnet)).items()})
    np.savez_compressed(os.path.join(os.path.dirname(os.path.abspath(__file__)), "placement.npz"), **found)
