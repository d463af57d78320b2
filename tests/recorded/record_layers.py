"""Records a few training steps of the models of layer_cases.py with MXNet 1.9.1 (Python 3.9).

Run: python tests/recorded/record_layers.py. Writes layers.npz: model/array.
"""

import os

import mxnet as mx
import numpy as np
from layer_cases import MODELS, train

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    arrays = {}
    for model in MODELS:
        arrays.update({"%s/%s" % (model, name): value for name, value in train(mx, model).items()})
    np.savez_compressed(os.path.join(HERE, "layers.npz"), **arrays)
    print("%d arrays" % len(arrays))


if __name__ == "__main__":
    main()
