"""Records, with MXNet 1.9.1 under Python 3.9, what every graph of operator_cases.py and more_operator_cases.py
gives in a forward pass, and the nodes in its JSON.

Run: python tests/recorded/record_operators.py. Writes operators_forward.npz and more_operators_forward.npz
(<case>/in/<name>, <case>/out/<index>), operators_graphs.json and more_operators_graphs.json (arguments, outputs and
nodes of each case).
"""

import json
import os
import zlib

import mxnet as mx
import numpy as np
from operator_cases import recorded_parts

HERE = os.path.dirname(os.path.abspath(__file__))


def values(kind, shape, rng):
    word, _, size = kind.partition(" ")
    if word == "positive":
        found = rng.uniform(0.3, 2.0, shape)
    elif word == "ties":
        found = rng.randint(-2, 3, shape)
    elif word == "index":
        found = rng.randint(-1, int(size) + 1, shape)
    elif word == "length":
        found = rng.randint(1, int(size) + 1, shape)
    elif word == "class":
        found = rng.randint(0, int(size), shape)
    else:
        found = rng.standard_normal(shape)
    return np.asarray(found, np.float32)


def nodes(symbol):
    """Operators, names, attributes and inputs: what MXNet writes into a file of the graph."""
    graph = json.loads(symbol.tojson())
    return [[n["op"], n["name"], n.get("attrs", {}), [i[:2] for i in n["inputs"]]] for n in graph["nodes"]]


def record(part, cases_of):
    arrays, graphs = {}, {}
    with mx.name.NameManager():
        cases = cases_of(mx)
    for name, (symbol, shapes, kinds) in cases.items():
        rng = np.random.RandomState(zlib.crc32(name.encode()) % 2**31)
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
        for argument, array in [*executor.arg_dict.items(), *executor.aux_dict.items()]:
            array[:] = values(kinds.get(argument, "normal"), array.shape, rng)
            arrays[f"{name}/in/{argument}"] = array.asnumpy()
        for index, output in enumerate(executor.forward(is_train=False)):
            arrays[f"{name}/out/{index}"] = output.asnumpy()
        graphs[name] = {
            "arguments": symbol.list_arguments(), "outputs": symbol.list_outputs(), "nodes": nodes(symbol),
        }  # fmt: skip
    np.savez_compressed(os.path.join(HERE, part + "_forward.npz"), **arrays)
    with open(os.path.join(HERE, part + "_graphs.json"), "w") as file:
        json.dump(graphs, file, separators=(",", ":"), sort_keys=True)
        file.write("\n")
    print(part, len(cases), "cases")


def main():
    for part, cases_of in recorded_parts().items():
        record(part, cases_of)


if __name__ == "__main__":
    main()
