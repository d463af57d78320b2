"""The base of the optimizers: registry, learning rates and weight decays by parameter, update counts."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bucketmod.lr_scheduler import LRScheduler
from bucketmod.ndarray import NDArray
from bucketmod.ndarray.sparse import RowSparseNDArray
from bucketmod.optimizer.gradient_array import GradientArray
from bucketmod.optimizer.gradient_sum import GradientSum
from bucketmod.optimizer.kernels import REFERENCE, UpdateKernels
from bucketmod.runtime.memory import aligned_copy


class Optimizer:
    """Base class: subclasses write ``create_state`` and ``update``.

    ``rescale_grad``: factor on every gradient, often 1 / batch size. ``clip_gradient``: bound on each element of it.
    ``learning_rate``: None means the scheduler's, or 0.01; given beside a scheduler it becomes the scheduler's base.
    ``wd``: weight decay. ``param_idx2name``: names for parameters that are updated by index. ``sym``: where the
    attributes ``__lr_mult__`` and ``__wd_mult__`` of parameters are. ``begin_num_update``: where counting starts.
    ``multi_precision``: float32 copies for float16 parameters. ``param_dict``: index -> object with lr_mult, wd_mult.

    ``kernels`` does the arithmetic in place: numpy at first; a module attaches compiled kernels to optimizers whose
    class says that it ``uses_kernels``.
    """

    uses_kernels: ClassVar[bool] = False
    opt_registry: ClassVar[dict[str, type[Optimizer]]] = {}

    def __init__(
        self,
        rescale_grad: float = 1.0,
        param_idx2name: Mapping[Hashable, str] | None = None,
        wd: float = 0.0,
        clip_gradient: float | None = None,
        learning_rate: float | None = None,
        lr_scheduler: LRScheduler | None = None,
        sym: Any = None,
        begin_num_update: int = 0,
        multi_precision: bool = False,
        param_dict: Mapping[Hashable, Any] | None = None,
    ) -> None:
        assert param_idx2name is None or isinstance(param_idx2name, dict), (
            f"param_idx2name must be a dict from index to name, got {type(param_idx2name)}"
        )
        self.rescale_grad = rescale_grad
        self.lr_scheduler = lr_scheduler
        self.lr = 0.01 if lr_scheduler is None and learning_rate is None else learning_rate
        if lr_scheduler is not None and learning_rate is not None and lr_scheduler.base_lr != learning_rate:
            print(UserWarning("the optimizer's learning_rate replaces the base learning rate of its lr_scheduler"))
            lr_scheduler.base_lr = learning_rate
        self.wd = wd
        self.lr_mult: dict[Hashable, float] = {}
        self.wd_mult: dict[Hashable, float] = {}
        self.begin_num_update = begin_num_update
        self.num_update = begin_num_update
        self._all_index_update_counts: dict[int, dict[Hashable, int]] = {0: {}}
        self._index_update_count = self._all_index_update_counts[0]
        self.clip_gradient = clip_gradient
        self.multi_precision = multi_precision
        self.aggregate_num = 0
        self.idx2name = dict(param_idx2name or {})
        self.sym_info: tuple[Any, ...] = (sym.attr_dict(), sym.list_arguments()) if sym is not None else ()
        self.param_dict = param_dict or {}
        self.allow_np_array = False
        self.kernels: UpdateKernels = REFERENCE
        self.set_lr_mult({})
        self.set_wd_mult({})

    # ---- registry

    @staticmethod
    def register(klass: type[Optimizer]) -> type[Optimizer]:
        """Class decorator: makes ``klass`` known to ``create`` by its lower-case name; warns when that was taken."""
        assert isinstance(klass, type), f"register() takes a class, got {klass!r}"
        name = klass.__name__.lower()
        old = Optimizer.opt_registry.get(name)
        if old is not None:
            warnings.warn(
                f"optimizer {name!r} is now {klass.__module__}.{klass.__name__}, no longer {old.__module__}."
                f"{old.__name__}",
                stacklevel=2,
            )
        Optimizer.opt_registry[name] = klass
        return klass

    @staticmethod
    def create_optimizer(name: str, **kwargs: Any) -> Optimizer:
        """The optimizer registered as ``name`` (case does not matter). ValueError when there is none."""
        klass = Optimizer.opt_registry.get(name.lower())
        if klass is None:
            raise ValueError(f"Cannot find optimizer {name}; known are {', '.join(sorted(Optimizer.opt_registry))}")
        return klass(**kwargs)

    # ---- what subclasses write

    def create_state(self, index: Hashable, weight: NDArray) -> Any:
        """The state of a parameter before its first update: None, an NDArray or a tuple of them."""
        return None

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        """Changes ``weight`` (and ``state``) in place by the gradient ``grad``; ``index`` is the parameter's key."""
        raise NotImplementedError(f"{type(self).__name__}.update")

    def _is_lazy(self) -> bool:
        """Whether a row_sparse gradient changes its own rows only. Otherwise it counts as a dense one."""
        return False

    def update_rows(self, index: Hashable, weight: NDArray, grad: RowSparseNDArray, state: Any) -> None:
        """As ``update_multi_precision``, by a row_sparse gradient of a dense parameter.

        A lazy optimizer leaves rows that the gradient lacks as they are: neither decay nor momentum moves them.
        """
        if not self._is_lazy() or weight.dtype == np.float16:
            self.update_multi_precision(index, weight, grad.tostype("default"), state)
            return
        rows = grad.indices.numpy_view()
        whole = [weight, *_arrays_of(state)]
        parts = [NDArray(aligned_copy(array.numpy_view()[rows]), array.context) for array in whole]
        self.update(index, parts[0], grad.data, _rebuilt(state, iter(parts[1:])))
        for array, part in zip(whole, parts, strict=True):
            array.numpy_view()[rows] = part.numpy_view()

    # ---- float16

    def _needs_master_copy(self, weight: NDArray) -> bool:
        if weight.dtype != np.float16:
            return False
        if not self.multi_precision:
            warnings.warn(
                f"{type(self).__name__} adds up in float16, which loses small updates; multi_precision=True keeps "
                "float32 copies of the parameters",
                stacklevel=3,
            )
        return self.multi_precision

    def create_state_multi_precision(self, index: Hashable, weight: NDArray) -> Any:
        """As ``create_state``; with a float32 copy of a float16 parameter before it when ``multi_precision``."""
        if not self._needs_master_copy(weight):
            return self.create_state(index, weight)
        master = weight.astype(np.float32)
        return master, self.create_state(index, master)

    def update_multi_precision(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        """As ``update``, on the float32 copy where there is one."""
        if not (self.multi_precision and weight.dtype == np.float16):
            self.update(index, weight, grad, state)
            return
        master, inner = state
        self.update(index, master, grad.astype(np.float32), inner)
        weight[:] = master

    # ---- learning rates and weight decays

    @property
    def learning_rate(self) -> float:
        """The learning rate now, before multipliers."""
        rate = self.lr if self.lr_scheduler is None else self.lr_scheduler(self.num_update)
        assert rate is not None
        return rate

    def set_learning_rate(self, lr: float) -> None:
        """Replaces the learning rate. Raises UserWarning when a scheduler decides it."""
        if self.lr_scheduler is not None:
            raise UserWarning("the learning rate is decided by lr_scheduler; change the scheduler instead")
        self.lr = lr

    def set_lr_scale(self, args_lrscale: Any) -> None:
        """Raises DeprecationWarning: ``set_lr_mult`` took its place."""
        raise DeprecationWarning("set_lr_scale is gone; use set_lr_mult")

    def set_lr_mult(self, args_lr_mult: Mapping[Any, float]) -> None:
        """Factors on the learning rate by parameter name (or index), over those in the symbol's attributes."""
        self.lr_mult = {**self._attribute("__lr_mult__"), **args_lr_mult}

    def set_wd_mult(self, args_wd_mult: Mapping[Any, float]) -> None:
        """Factors on the weight decay, as ``set_lr_mult``.

        Named parameters that end neither in _weight nor in _gamma have 0 unless an attribute or this call says more.
        """
        plain = {name: 0.0 for name in self.idx2name.values() if not name.endswith(("_weight", "_gamma"))}
        self.wd_mult = {**plain, **self._attribute("__wd_mult__"), **args_wd_mult}

    def _attribute(self, key: str) -> dict[Hashable, float]:
        if not self.sym_info:
            return {}
        attributes, arguments = self.sym_info
        return {name: float(attributes[name][key]) for name in arguments if key in attributes.get(name, {})}

    def _multiplier(self, index: Hashable, kind: str) -> float:
        table = self.lr_mult if kind == "lr_mult" else self.wd_mult
        if index in self.param_dict:
            return getattr(self.param_dict[index], kind)
        if index in table:
            return table[index]
        return table.get(self.idx2name[index], 1.0) if index in self.idx2name else 1.0

    def _get_lrs(self, indices: Iterable[Hashable]) -> list[float]:
        rate = self.learning_rate
        return [rate * self._multiplier(index, "lr_mult") for index in indices]

    def _get_wds(self, indices: Iterable[Hashable]) -> list[float]:
        return [self.wd * self._multiplier(index, "wd_mult") for index in indices]

    def _get_lr(self, index: Hashable) -> float:
        return self._get_lrs([index])[0]

    def _get_wd(self, index: Hashable) -> float:
        return self._get_wds([index])[0]

    # ---- the pieces of an update

    def _bound(self) -> float:
        """``clip_gradient`` for kernels, where a negative bound means none."""
        return -1.0 if self.clip_gradient is None else self.clip_gradient

    def _bound_or_none(self) -> float:
        """As ``_bound``, but 0 means none too, as it does in MXNet for the optimizers that call this."""
        return self.clip_gradient or -1.0

    def _check_arrays(self, *arrays: Any) -> None:
        for each in arrays:
            assert isinstance(each, NDArray), f"{type(self).__name__} updates NDArrays, got {type(each)}"

    def _begin(self, index: Hashable, weight: Any, grad: Any) -> tuple[float, float, int]:
        """Counts an update of one parameter: its (learning rate, weight decay, count)."""
        self._check_arrays(weight, grad)
        self._update_count(index)
        return self._get_lr(index), self._get_wd(index), self._index_update_count[index]

    def _apply(self, name: str, arrays: Sequence[NDArray], *scalars: float) -> tuple[float, ...]:
        """Runs a kernel in place; returns its sums. The second array may be a ``GradientSum`` or ``GradientArray``."""
        if len(arrays) > 1 and isinstance(arrays[1], GradientSum):
            weight, gradient, *states = arrays
            if several := gradient.joins(name, weight):
                views = [array.numpy_view() for array in (weight, *gradient.parts, *states)]
                return self.kernels.run(several, views, *scalars)
        if len(arrays) > 1 and isinstance(arrays[1], GradientArray) and arrays[1].is_kept_by(name):
            weight, gradient, *states = arrays
            views = [weight.numpy_view(), gradient.gradient, *(state.numpy_view() for state in states)]
            return self.kernels.run(name, views, *scalars, rows=gradient.rows)
        return self.kernels.run(name, [array.numpy_view() for array in arrays], *scalars)

    # ---- counting

    def _set_current_context(self, device_id: int) -> None:
        """Chooses the counts of device ``device_id``; devices count on their own."""
        self._index_update_count = self._all_index_update_counts.setdefault(device_id, {})

    def _update_count(self, index: Hashable | Sequence[Hashable]) -> None:
        """Counts an update of one or several parameters; ``num_update`` is the largest count of all."""
        for each in index if isinstance(index, (list, tuple)) else [index]:
            count = self._index_update_count.get(each, self.begin_num_update) + 1
            self._index_update_count[each] = count
            self.num_update = max(count, self.num_update)

    # ---- copies

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the parameters' objects and the kernels, which belong to this process."""
        return {key: value for key, value in self.__dict__.items() if key not in ("param_dict", "kernels")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.param_dict = {}
        self.kernels = REFERENCE


def _arrays_of(state: Any) -> list[NDArray]:
    if isinstance(state, (list, tuple)):
        return [array for each in state for array in _arrays_of(each)]
    return [] if state is None else [state]


def _rebuilt(state: Any, arrays: Iterator[NDArray]) -> Any:
    """``state`` with other arrays in place of its own."""
    if isinstance(state, (list, tuple)):
        return type(state)(_rebuilt(each, arrays) for each in state)
    return None if state is None else next(arrays)


register = Optimizer.register
create = Optimizer.create_optimizer
