"""Records chains of modules in training with MXNet 1.9.1: module_chains.npz. Run with a Python that has it."""

import os

import mxnet
import numpy as np
from module_chain_cases import CHAINS, train

if __name__ == "__main__":
    found = {}
    for chain in CHAINS:
        found.update({"%s/%s" % (chain.__name__, name): array for name, array in train(mxnet, chain(mxnet)).items()})
    np.savez_compressed(os.path.join(os.path.dirname(os.path.abspath(__file__)), "module_chains.npz"), **found)
