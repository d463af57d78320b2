"""Records what monitors are shown by MXNet 1.9.1: monitor.json. Run with a Python that has it."""

import json
import os

import mxnet
from monitor_cases import CASES, logged, shown, watched_training

if __name__ == "__main__":
    found = {case.__name__: shown(mxnet, case, False) for case in CASES}
    found["classifier_all"] = shown(mxnet, CASES[0], True)
    found["watched_training"] = watched_training(mxnet)
    found["watched_sorted"] = watched_training(mxnet, sort=True)
    found["logged"] = logged(mxnet)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "monitor.json"), "w") as file:
        json.dump(found, file, separators=(",", ":"))
        file.write("\n")
