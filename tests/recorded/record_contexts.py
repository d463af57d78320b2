"""Records modules on several contexts with MXNet 1.9.1 (Python 3.9).

Run: python tests/recorded/record_contexts.py. Writes contexts.npz: ``values``, all numbers in one array, and ``index``,
JSON text: case -> name -> text, or [start in values, shape]. (A file an array would be mostly names.)
"""

import json
import os

import mxnet as mx
import numpy as np
from context_cases import CASES, run

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    index, values, start = {}, [], 0
    for case in CASES:
        index[case] = {}
        for name, value in run(mx, case).items():
            if isinstance(value, str):
                index[case][name] = value
                continue
            index[case][name] = [start, list(value.shape)]
            values.append(value.reshape(-1).astype(np.float32))
            start += value.size
        print(case, len(index[case]))
    path = os.path.join(HERE, "contexts.npz")
    np.savez_compressed(path, index=np.array(json.dumps(index)), values=np.concatenate(values))


if __name__ == "__main__":
    main()
