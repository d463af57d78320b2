"""Records the batches that MXNet 1.9.1's CSVIter, MNISTIter, PrefetchingIter and ResizeIter make of small files.

The cases are functions of the package (``mx``) and a folder that ``write_files`` has filled. Run with MXNet's Python
3.9 environment: writes file_iterators.json beside this file.
"""

import json
import os
import pathlib
import struct
import tempfile

import numpy as np

CSV = {
    "no labels": {"data_shape": (4,), "batch_size": 3},
    "labels": {"data_shape": (2, 2), "label_csv": "labels.csv", "batch_size": 3},
    "whole batches": {"data_shape": (4,), "label_csv": "labels.csv", "label_shape": (1,), "batch_size": 5},
    "no rounding": {"data_shape": (4,), "label_csv": "labels.csv", "batch_size": 3, "round_batch": False},
    "matrix labels": {"data_shape": (4,), "label_csv": "data.csv", "label_shape": (2, 2), "batch_size": 4},
    "label shape without labels": {"data_shape": (4,), "label_shape": (2,), "batch_size": 4},
    "int32": {"data_shape": (4,), "batch_size": 4, "dtype": "int32", "label_csv": "labels.csv"},
    "int64": {"data_shape": (4,), "batch_size": 4, "dtype": "int64"},
    "names": {"data_shape": (4,), "batch_size": 5, "data_name": "x", "label_name": "y"},
    "blank lines and spaces": {"data_csv": "spaces.csv", "data_shape": (2,), "batch_size": 2},
    "special numbers": {"data_csv": "numbers.csv", "data_shape": (2,), "batch_size": 2},
    "two files": {"data_csv": "numbers.csv;spaces.csv", "data_shape": (2,), "batch_size": 3},
    "a folder": {"data_csv": "folder/", "data_shape": (2,), "batch_size": 3},
    "no batch size": {"data_shape": (4,)},
    "no data shape": {"batch_size": 3},
    "no file": {"data_csv": "nothing.csv", "data_shape": (4,), "batch_size": 3},
    "other width": {"data_shape": (3,), "batch_size": 3},
    "large batch": {"data_shape": (4,), "batch_size": 25},
    "half floats": {"data_shape": (4,), "batch_size": 5, "dtype": "float16"},
    "a header": {"data_csv": "header.csv", "data_shape": (2,), "batch_size": 2},
    "empty fields": {"data_csv": "fields.csv", "data_shape": (2,), "batch_size": 2},
    "a short row": {"data_csv": "short.csv", "data_shape": (2,), "batch_size": 3},
    "an empty file": {"data_csv": "empty.csv", "data_shape": (2,), "batch_size": 3},
    "few labels": {"data_shape": (4,), "label_csv": "few.csv", "batch_size": 3},
}

MNIST = {
    "images": {"batch_size": 4, "shuffle": False},
    "flat": {"batch_size": 4, "shuffle": False, "flat": True},
    "first part": {"batch_size": 3, "shuffle": False, "num_parts": 2, "part_index": 0},
    "second part": {"batch_size": 3, "shuffle": False, "num_parts": 2, "part_index": 1},
    "bytes": {"batch_size": 4, "shuffle": False, "dtype": "uint8"},
    "cut short": {"batch_size": 4, "shuffle": False, "image": "cut"},
    "no file": {"batch_size": 4, "image": "nothing"},
}


def write_files():
    """Into the current folder."""
    rows = [",".join(str(10 * row + column) for column in range(4)) for row in range(10)]
    texts = {
        "data.csv": "\n".join(rows) + "\n", "labels.csv": "\n".join(str(row) for row in range(10)),
        "spaces.csv": "1,2\n\n3,4\r\n 5 , 6 \n7,8", "numbers.csv": "nan,inf\n-inf,+3\n1e2,-1.5e-3\n0.1,16777217\n",
        "header.csv": "a,b\n1,2\n", "fields.csv": "1,\n,4\n", "short.csv": "1,2\n3\n4,5\n", "empty.csv": "",
        "few.csv": "1\n2\n", "folder/a.csv": "1,2\n3,4\n5,6\n",
    }  # fmt: skip
    os.makedirs("folder", exist_ok=True)
    for name, text in texts.items():
        pathlib.Path(name).write_bytes(text.encode())
    images = np.random.RandomState(0).randint(0, 256, (11, 3, 2)).astype(np.uint8)
    pathlib.Path("images").write_bytes(struct.pack(">IIII", 2051, 11, 3, 2) + images.tobytes())
    pathlib.Path("cut").write_bytes(struct.pack(">IIII", 2051, 11, 3, 2) + images.tobytes()[:20])
    pathlib.Path("labels").write_bytes(struct.pack(">II", 2049, 11) + bytes(range(11)))


def described(descs):
    return [[desc.name, list(desc.shape), np.dtype(desc.dtype).name, desc.layout] for desc in descs]


def listed(array):
    """Numbers as text, so that nan and infinity can be written."""
    return [format(float(value), ".8g") for value in array.asnumpy().ravel()]


def epochs(iterator, count=3):
    """Shapes and the batches of some epochs."""
    found = [described(iterator.provide_data), described(iterator.provide_label), iterator.batch_size]
    for _ in range(count):
        batches = []
        for batch in iterator:
            arrays = [[list(array.shape), listed(array)] for array in list(batch.data) + list(batch.label)]
            index = None if batch.index is None else [int(row) for row in batch.index]
            batches.append([arrays, batch.pad, index])
        found.append(batches)
        iterator.reset()
    return found


def run_csv(mx, case):
    try:
        return epochs(mx.io.CSVIter(**dict({"data_csv": "data.csv"}, **CSV[case])))
    except Exception as error:
        return type(error).__name__


def run_mnist(mx, case):
    try:
        return epochs(mx.io.MNISTIter(**dict({"image": "images", "label": "labels", "silent": True}, **MNIST[case])), 2)
    except Exception as error:
        return type(error).__name__


def arrays(mx, rows, **keywords):
    return mx.io.NDArrayIter(np.arange(2 * rows).reshape(rows, 2), np.arange(rows), 3, **keywords)


PREFETCHING = {
    "one": lambda mx: mx.io.PrefetchingIter(arrays(mx, 7)),
    "two": lambda mx: mx.io.PrefetchingIter(
        [arrays(mx, 7), arrays(mx, 7, data_name="other", label_name="label")],
        rename_data=[{"data": "a"}, {"other": "b"}], rename_label=[{"softmax_label": "c"}, {"label": "d"}]),
    "rolling over": lambda mx: mx.io.PrefetchingIter(arrays(mx, 7, last_batch_handle="roll_over")),
    "other lengths": lambda mx: mx.io.PrefetchingIter([arrays(mx, 6), arrays(mx, 9)]),
    "other padding": lambda mx: mx.io.PrefetchingIter([arrays(mx, 7), arrays(mx, 9)]),
    "none": lambda mx: mx.io.PrefetchingIter([]),
    "resized": lambda mx: mx.io.ResizeIter(arrays(mx, 7), 4),
    "resized without reset": lambda mx: mx.io.ResizeIter(arrays(mx, 7), 4, reset_internal=False),
}  # fmt: skip


def run_prefetching(mx, case):
    try:
        return epochs(PREFETCHING[case](mx), 2)
    except Exception as error:
        return type(error).__name__


if __name__ == "__main__":
    import mxnet

    target = pathlib.Path(__file__).resolve().with_name("file_iterators.json")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_files()
        recorded = {
            "csv": {case: run_csv(mxnet, case) for case in CSV},
            "mnist": {case: run_mnist(mxnet, case) for case in MNIST},
            "prefetching": {case: run_prefetching(mxnet, case) for case in PREFETCHING},
        }
        os.chdir("/")
    target.write_text(json.dumps(recorded))
