"""Records what MXNet 1.9.1 says of the symbols in symbol_cases.py: python record_symbols.py (with mxnet installed)."""

import json
import os
import warnings

import mxnet as mx
import symbol_cases

FOLDER = os.path.dirname(os.path.abspath(__file__))


def record(expression, shapes):
    try:
        symbol = symbol_cases.build(mx, expression)
        if not isinstance(symbol, mx.sym.Symbol):
            return {"value": repr(symbol)}
        found = {
            "name": symbol.name,
            "graph": json.loads(symbol.tojson()),
            "arguments": symbol.list_arguments(),
            "auxiliary": symbol.list_auxiliary_states(),
            "outputs": symbol.list_outputs(),
        }
        if len(found["graph"]["nodes"]) < 40:  # the file is to stay small
            found.update(internals=symbol.get_internals().list_outputs(), attributes=symbol.attr_dict())
    except Exception as error:
        return {"error": type(error).__name__}
    for key, infer in (("shapes", symbol.infer_shape), ("partial", symbol.infer_shape_partial)):
        try:
            found[key] = infer(**shapes)
        except mx.base.MXNetError:
            found[key] = "MXNetError"
    try:
        types = symbol.infer_type(**{name: "float32" for name in symbol.list_arguments()[:1]})
        found["types"] = [None if part is None else [t.__name__ for t in part] for part in types]
    except mx.base.MXNetError:
        found["types"] = "MXNetError"
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    records = [
        {"expression": expression, "given": shapes, **record(expression, shapes)}
        for expression, shapes in symbol_cases.cases()
    ]
    with open(os.path.join(FOLDER, "symbols.json"), "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(r, sort_keys=True, separators=(",", ":")) for r in records) + "\n]\n")
    print(len(records), "cases")
