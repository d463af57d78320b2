"""Compiles the buckets of a model ahead of time: what ``scripts/precompile_buckets.py`` and training scripts call."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from bucketmod.binding import OnnxModel, get_cache, is_model, make_bucket, place, update_request
from bucketmod.compiler.service import TUNED, CompileRequest, CompileResult, compile_requests
from bucketmod.compiler.target import parse_target
from bucketmod.context import Context, cpu
from bucketmod.name import NameManager
from bucketmod.runtime.cache import ArtifactCache

MODES = ("train", "infer")


@dataclass(frozen=True)
class Plan:
    """A bucketed model for the compiler.

    ``sym_gen``: bucket key -> (symbol, data names, label names), as for BucketingModule. ``keys``: the buckets.
    ``shapes``: bucket key -> (data shapes, label shapes), each a list of DataDesc or (name, shape), as for ``bind``.
    ``group2ctx``: contexts by ``ctx_group``, for a module on ``cpu()`` that places parts of its graph elsewhere.
    """

    sym_gen: Callable[[Any], Any]
    keys: Sequence[Any]
    shapes: Callable[[Any], tuple[Sequence[Any], Sequence[Any] | None]]
    name: str = "model"
    fixed_param_names: Sequence[str] = ()
    state_names: Sequence[str] = ()
    group2ctx: Mapping[str, Context] | None = None


@dataclass
class Row:
    """The outcome for one bucket in one mode, or for the optimizer kernels of all buckets (key "optimizer", mode
    "update"). ``seconds``: spent compiling; ``hit``: it was in the cache already; ``nodes``: kernel calls; ``bytes``:
    size of the artifact; ``error``: readable text, empty when all is well."""

    key: Any
    mode: str
    target: str
    seconds: float = 0.0
    hit: bool = False
    nodes: int = 0
    bytes: int = 0
    error: str = ""
    info: dict[str, Any] = field(default_factory=dict, repr=False)


def load_plan(model: str) -> Plan:
    """``file.py:function`` or ``package.module:function``; the function takes nothing and returns a Plan.

    Raises ValueError that says what was found instead.
    """
    place, _, attribute = model.rpartition(":")
    if not place or not attribute:
        raise ValueError(f"MODEL {model!r}: expected file.py:function or package.module:function")
    function = getattr(_load_module(place), attribute, None)
    if not callable(function):
        raise ValueError(f"MODEL {model!r}: {place} has no function {attribute!r}")
    plan = function()
    if not isinstance(plan, Plan):
        raise ValueError(f"MODEL {model!r}: {attribute}() returned {type(plan).__name__}, expected a "
                         "bucketmod.precompile.Plan")  # fmt: skip
    return plan


def _load_module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ImportError as error:
            raise ValueError(f"cannot import {place!r}: {error}") from error
    path = Path(place)
    if not path.is_file():
        raise ValueError(f"no such file: {place}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # what the file imports from beside itself
    try:
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    except Exception as error:  # the user's file: any error of it is the answer
        raise ValueError(f"{place} cannot be loaded: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def bucket_requests(plan: Plan, key: Any, target: str, modes: Sequence[str]) -> list[list[CompileRequest]]:
    """The compile requests of one bucket in each mode, the very ones that a module with this model makes: one, or one
    for each part of a graph that is cut over contexts."""
    with NameManager():
        generated = plan.sym_gen(key)
    graph, data_names, label_names = _named_graph(generated)
    data_shapes, label_shapes = plan.shapes(key)
    bucket = make_bucket(graph, data_shapes, label_shapes, data_names=data_names, label_names=label_names,
                         state_names=plan.state_names, key=key)  # fmt: skip
    trained = [a.name for a in bucket.by_role("parameter") if a.name not in plan.fixed_param_names]
    bucket = place(bucket, cpu(), plan.group2ctx)
    return [
        bucket.requests(mode == "train", wrt=trained if mode == "train" else (), target=target, model=plan.name)
        for mode in modes
    ]


def _named_graph(generated: Any) -> tuple[Any, Sequence[str], Sequence[str]]:
    """What sym_gen returned: a graph alone, or with the names of data and labels."""
    graph, data_names, label_names = generated if isinstance(generated, tuple | list) else (generated, None, None)
    if is_model(graph):
        graph = OnnxModel(graph, data_names, label_names)
        return graph, graph.data_names, graph.label_names
    return graph, data_names or (), label_names or ()


def precompile(
    plan: Plan,
    buckets: Sequence[Any] | None = None,
    target: str = "cpu",
    modes: Sequence[str] = MODES,
    jobs: int = 1,
    cache: str | None = None,
    show_progress: bool = True,
    tune: bool = False,
) -> list[Row]:
    """Compiles every bucket in every mode, ``jobs`` at a time, and returns a row for each. For training the optimizer
    kernels are compiled too; their row is the last.

    ``tune``: how matrix products are cut is measured on this machine, one artifact at a time, and not left to the
    models of cost. What the cache has is compiled again, unless it is tuned already; modules find the new artifact.

    A bucket whose graph cannot be made or compiled gives a row with an error; the others still compile. Raises
    ValueError for an unknown mode or target, and for ``tune`` with one that this machine cannot run.
    """
    for mode in modes:
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    parsed = parse_target(target)
    target = parsed.name
    if tune:
        parsed.check_host()
    store = ArtifactCache(cache) if cache is not None else get_cache()
    rows: dict[tuple[Any, str], Row] = {}
    requests: list[tuple[Row, CompileRequest]] = []
    for key in plan.keys if buckets is None else buckets:
        made = {mode: Row(key, mode, target) for mode in modes}
        rows.update({(key, mode): row for mode, row in made.items()})
        try:
            for row, parts in zip(made.values(), bucket_requests(plan, key, target, modes), strict=True):
                requests += [(row, replace(request, tune=tune)) for request in parts]
        except Exception as error:  # the user's sym_gen or shapes: the message is the bucket's result
            for row in made.values():
                row.error = f"{type(error).__name__}: {error}"
    if "train" in modes:
        row = rows["optimizer", "update"] = Row("optimizer", "update", target)
        requests.append((row, update_request(target)))
    _compile(requests, store, 1 if tune else jobs, show_progress)
    return list(rows.values())


def _compile(requests: list[tuple[Row, CompileRequest]], store: ArtifactCache, jobs: int, show: bool) -> None:
    from tqdm import tqdm

    if not requests:
        return
    often = 0.1 if sys.stderr.isatty() else 30  # seconds: a log file wants few lines
    by_request = {id(request): row for row, request in requests}
    with tqdm(total=len(requests), desc="compiling", unit="artifact", disable=not show, mininterval=often) as bar:

        def progress(result: CompileResult) -> None:
            _note(by_request[id(result.request)], result, store)
            bar.update()

        compile_requests([request for _, request in requests], store, jobs, progress)


def _note(row: Row, result: CompileResult, store: ArtifactCache) -> None:
    """Several artifacts of one row count together."""
    row.hit = result.hit and (row.hit or not row.nodes)
    row.seconds += result.seconds
    if not result.ok:
        row.error = result.error or "failed"
        return
    entry = store.find(result.request.request_digest)
    if entry is not None:
        row.info = entry.info
        row.nodes += int(entry.info.get("nodes", 0))
        row.bytes += int(entry.info.get("bytes", 0))


def print_table(rows: Sequence[Row], file: Any = None) -> None:
    """A line for each bucket and mode: key, target, kernels, compile seconds, size; then the errors."""
    header = ("bucket", "mode", "target", "nodes", "seconds", "kB", "")
    lines = [header]
    for row in rows:
        state = "FAILED" if row.error else "cached" if row.hit else "tuned" if row.info.get(TUNED) else "compiled"
        lines.append((str(row.key), row.mode, row.target, str(row.nodes), f"{row.seconds:.2f}",
                      f"{row.bytes / 1000:.0f}", state))  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        print("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)).rstrip(), file=file)
    for row in rows:
        if row.error:
            print(f"bucket {row.key!r} ({row.mode}): {row.error}", file=file)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain dictionaries."""
    return [asdict(row) for row in rows]
