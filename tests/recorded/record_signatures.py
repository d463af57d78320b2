"""Records the public members of MXNet 1.9.1's metrics, iterators, callbacks, schedules and modules, with arguments.

Run with MXNet's Python 3.9 environment: writes signatures.json beside this file.
"""

import inspect
import json
import pathlib

# module of the package: names to look at, None for all classes and functions that it defines or imports as its own
PLACES = {
    "metric": None,
    "callback": None,
    "lr_scheduler": None,
    "registry": None,
    "io": ["CSVIter", "DataBatch", "DataDesc", "DataIter", "ImageRecordIter", "LibSVMIter", "MNISTIter", "NDArrayIter",
           "PrefetchingIter", "ResizeIter"],
    "model": ["BatchEndParam", "FeedForward", "load_checkpoint", "load_params", "save_checkpoint"],
    "mod": ["BaseModule", "BucketingModule", "Module", "PythonLossModule", "PythonModule", "SequentialModule"],
    "rnn": None,
    "init": None,
    "optimizer": None,
    "kv": ["KVStore", "KVStoreBase", "create"],
    "mon": ["Monitor"],
    "name": ["NameManager", "Prefix"],
    "attribute": ["AttrScope"],
    "context": ["Context", "cpu", "current_context", "gpu", "num_gpus"],
    "random": ["normal", "seed", "uniform"],
}  # fmt: skip
_LEFT_OUT = {
    "CachedOp", "DataBatch", "DataDesc", "DataIter", "NDArray", "NDabs", "Number", "OrderedDict", "array", "c_array",
    "clip", "cos", "deepcopy", "is_np_array", "load", "load_checkpoint", "mp_adamw_update", "namedtuple", "ones",
    "py_str", "save_checkpoint", "sqrt", "square", "zeros",
}  # fmt: skip  # imports from elsewhere


def default_of(parameter):
    """As text; objects other than plain data by the name of their class."""
    value = parameter.default
    if value is inspect.Parameter.empty:
        return None
    plain = value is None or isinstance(value, (bool, int, float, str, tuple, list, dict))
    return repr(value) if plain else "<" + type(value).__name__ + ">"


def arguments(function):
    """[[name, kind, default or None], ...] without self; None where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return [[p.name, p.kind.name, default_of(p)] for p in parameters if p.name not in ("self", "cls")]


def members(klass):
    found = {}
    for name in dir(klass):
        if name.startswith("_") and name not in ("__init__", "__call__", "__str__", "__iter__", "__next__"):
            continue
        member = inspect.getattr_static(klass, name)
        if isinstance(member, property):
            found[name] = "property"
        elif callable(getattr(klass, name)) and not isinstance(member, type(object.__init__)):
            found[name] = arguments(getattr(klass, name))
    return found


def names_of(module):
    public = (name for name in dir(module) if not name.startswith("_") and name not in _LEFT_OUT)
    own = (name for name in public if not name.endswith(("_update", "_types")))  # operators that it imports
    return [name for name in own if callable(getattr(module, name))]


def look(mx):
    """{module: {name: members of a class, or arguments of a function}}."""
    found = {}
    for place, names in PLACES.items():
        module = getattr(mx, place)
        own = {}
        for name in names or names_of(module):
            thing = getattr(module, name)
            if isinstance(thing, type) and not issubclass(thing, tuple):
                own[name] = members(thing)
            elif not inspect.isclass(thing) or issubclass(thing, tuple):
                own[name] = arguments(thing)
        found[place] = own
    return found


if __name__ == "__main__":
    import mxnet

    pathlib.Path(__file__).with_name("signatures.json").write_text(json.dumps(look(mxnet), indent=0))
