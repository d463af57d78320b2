"""Records fifty training steps over mixed buckets with MXNet 1.9.1 (Python 3.9).

Run: python tests/recorded/record_training.py. Writes training.npz: case/moment/array.
"""

import os

import mxnet as mx
import numpy as np
from training_cases import CASES, train

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    arrays = {}
    for model, optimizer in CASES:
        for name, value in train(mx, model, optimizer).items():
            arrays["%s_%s/%s" % (model, optimizer, name)] = value
        shown = arrays["%s_%s/perplexity" % (model, optimizer)]
        print(model, optimizer, "perplexity %.3f -> %.3f" % (shown[0], shown[-1]))
    np.savez_compressed(os.path.join(HERE, "training.npz"), **arrays)


if __name__ == "__main__":
    main()
