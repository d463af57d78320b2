"""Records, with MXNet 1.9.1 under Python 3.9, the gradients of every input of the recorded graphs.

Run after record_operators.py, whose inputs it reads: python tests/recorded/record_gradients.py. Writes
operators_gradients.npz and more_operators_gradients.npz (<case>/<input>, and auxiliary states after the step
<case>/next/<state>). The gradients of the outputs are those of head_gradient() below; graphs without a gradient, or
with random masks, are left out.
"""

import os

import mxnet as mx
import numpy as np
from operator_cases import recorded_parts

HERE = os.path.dirname(os.path.abspath(__file__))


def head_gradient(shape, index):
    """What flows into output number ``index``."""
    return np.cos(np.arange(int(np.prod(shape))) * 1.7 + index).reshape(shape).astype(np.float32)


def has_gradient(symbol):
    """Dropout draws at random, and two operators have no gradient in MXNet, not even zero."""
    names = ('"op": "Dropout"', '"op": "argmax_channel"', '"op": "batch_take"')
    return not any(name in symbol.tojson() for name in names)


def record(part, cases_of):
    given = np.load(os.path.join(HERE, part + "_forward.npz"))
    with mx.name.NameManager():
        cases = cases_of(mx)
    arrays = {}
    for name, (symbol, shapes, kinds) in cases.items():
        if not has_gradient(symbol):
            continue
        indices = {argument for argument, kind in kinds.items() if kind.startswith(("index", "class", "length"))}
        wanted = {argument: "null" if argument in indices else "write" for argument in symbol.list_arguments()}
        executor = symbol.simple_bind(mx.cpu(), grad_req=wanted, **shapes)
        for argument, array in [*executor.arg_dict.items(), *executor.aux_dict.items()]:
            array[:] = given[f"{name}/in/{argument}"]
        outputs = executor.forward(is_train=True)
        executor.backward([mx.nd.array(head_gradient(output.shape, i)) for i, output in enumerate(outputs)])
        for argument, gradient in executor.grad_dict.items():
            if gradient is not None:
                arrays[f"{name}/{argument}"] = gradient.asnumpy()
        for state, array in executor.aux_dict.items():
            arrays[f"{name}/next/{state}"] = array.asnumpy()
    np.savez_compressed(os.path.join(HERE, part + "_gradients.npz"), **arrays)
    print(part, len(arrays), "gradients and states")


def main():
    for part, cases_of in recorded_parts().items():
        record(part, cases_of)


if __name__ == "__main__":
    main()
