"""Records, with MXNet 1.9.1 under Python 3.9, how cells cut up and name their weights, and which batches sentences
become.

Run: python tests/recorded/record_rnn.py. Writes rnn.json.
"""

import json
import os

import mxnet as mx
from rnn_cases import OPTIONS, batches, unpacked

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    found = {"unpacked": unpacked(mx), "batches": {name: batches(mx, **options) for name, options in OPTIONS.items()}}
    with open(os.path.join(HERE, "rnn.json"), "w") as file:
        json.dump(found, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
