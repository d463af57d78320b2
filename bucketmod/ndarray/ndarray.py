"""NDArray: MXNet's array on top of a C-contiguous numpy buffer.

The buffer is 64-byte aligned when the array owns it, so compiled code can take it as it is. Slices along the first
axis and reshapes share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from bucketmod.base import MXNetError
from bucketmod.context import Context, current_context
from bucketmod.ndarray.arithmetic import SCALAR_TYPES, binary
from bucketmod.ndarray.shapes import resolve_reshape
from bucketmod.runtime.memory import aligned_empty

SUPPORTED_DTYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool")


def resolve_dtype(dtype: DTypeLike | None) -> np.dtype:
    """The numpy dtype that ``dtype`` means (None: float32). MXNetError when MXNet has no such dtype."""
    kind = np.dtype(np.float32 if dtype is None else dtype)
    if kind.name not in SUPPORTED_DTYPES:
        raise MXNetError(f"dtype {kind.name!r} is not supported; choose one of {', '.join(SUPPORTED_DTYPES)}")
    return kind


def resolve_context(ctx: Context | None) -> Context:
    """``ctx`` or the current context. MXNetError for a device other than the CPU, which arrays cannot live on yet."""
    context = current_context() if ctx is None else ctx
    if context.device_type not in ("cpu", "cpu_pinned", "cpu_shared"):
        raise MXNetError(f"arrays on {context} are not supported: this build keeps arrays in CPU memory only")
    return context


class NDArray:
    """An n-dimensional array: ``data`` (C-contiguous, not copied) seen as MXNet's NDArray on context ``ctx``."""

    __slots__ = ("_data", "_context", "__weakref__")
    __array_priority__ = 1000.0  # numpy scalars on the left leave the operation to this class

    def __init__(self, data: np.ndarray, ctx: Context | None = None) -> None:
        if not isinstance(data, np.ndarray):
            raise TypeError(f"NDArray wraps a numpy array, got {type(data)}; use nd.array() to convert other data")
        if not data.flags.c_contiguous:
            raise ValueError(f"NDArray wraps C-contiguous memory only, got strides {data.strides} for {data.shape}")
        resolve_dtype(data.dtype)
        self._data = data
        self._context = resolve_context(ctx)

    if TYPE_CHECKING:  # the fluent methods (sum, take, sqrt...) are attached by bucketmod.ndarray.operation

        def __getattr__(self, name: str) -> Any: ...

    # ---- properties

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def dtype(self) -> type[np.generic]:
        """A numpy scalar type such as ``numpy.float32`` (not a ``numpy.dtype``)."""
        return self._data.dtype.type

    @property
    def context(self) -> Context:
        return self._context

    ctx = context

    @property
    def stype(self) -> str:
        """Storage type; only dense arrays exist: always "default"."""
        return "default"

    @property
    def grad(self) -> None:
        """None: arrays are not attached to automatic differentiation."""
        return None

    @property
    def T(self) -> NDArray:
        """A copy with all axes reversed."""
        return self._like(np.transpose(self._data))

    def numpy_view(self) -> np.ndarray:
        """The numpy array underneath, without a copy: writing into it changes this array."""
        return self._data

    # ---- conversion

    def _like(self, data: np.ndarray) -> NDArray:
        """A new array on the same context holding a C-contiguous, aligned copy of ``data``."""
        copy = aligned_empty(data.shape, data.dtype)
        np.copyto(copy, data)
        return NDArray(copy, self._context)

    def asnumpy(self) -> np.ndarray:
        """A numpy copy."""
        return self._data.copy()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False and (dtype is None or np.dtype(dtype) == self._data.dtype):
            return self._data
        return self._data.astype(self._data.dtype if dtype is None else dtype)

    def asscalar(self) -> Any:
        """The only element, as a numpy scalar. ValueError when there is not exactly one."""
        if self.size != 1:
            raise ValueError(f"asscalar() needs exactly one element, this array has shape {self.shape}")
        return self._data.reshape(-1)[0]

    def astype(self, dtype: DTypeLike, copy: bool = True) -> NDArray:
        """A copy with another dtype; with ``copy=False`` the array itself when it has this dtype already."""
        kind = resolve_dtype(dtype)
        if not copy and kind == self._data.dtype:
            return self
        target = aligned_empty(self.shape, kind)
        with np.errstate(invalid="ignore"):
            np.copyto(target, self._data, casting="unsafe")
        return NDArray(target, self._context)

    def copy(self) -> NDArray:
        """A copy on the same context."""
        return self._like(self._data)

    def copyto(self, other: NDArray | Context) -> NDArray:
        """Copies into an array of the same shape (returned), or to a new array on a Context."""
        if isinstance(other, Context):
            copy = self._like(self._data)
            copy._context = resolve_context(other)
            return copy
        if not isinstance(other, NDArray):
            raise TypeError(f"copyto() needs an NDArray or a Context, got {type(other)}")
        if other.shape != self.shape:
            raise MXNetError(f"copyto(): cannot copy shape {self.shape} into shape {other.shape}")
        np.copyto(other._data, self._data, casting="unsafe")
        return other

    def as_in_context(self, context: Context) -> NDArray:
        """The array itself when it is on ``context`` already, else a copy there."""
        return self if self._context == context else self.copyto(context)

    as_in_ctx = as_in_context

    def tostype(self, stype: str) -> Any:
        """The array itself for "default", its rows that are not 0 for "row_sparse"; NotImplementedError for "csr"."""
        if stype == "row_sparse":
            from bucketmod.ndarray.sparse import row_sparse_array  # which is made of this class

            return row_sparse_array(self)
        if stype != "default":
            raise NotImplementedError(f"storage type {stype!r}: arrays are dense (default) or row_sparse")
        return self

    def detach(self) -> NDArray:
        """A view of the same memory."""
        return NDArray(self._data, self._context)

    def attach_grad(self, grad_req: str = "write", stype: str | None = None) -> None:
        raise NotImplementedError("attach_grad: automatic differentiation of NDArrays is not supported; bind a Symbol")

    def wait_to_read(self) -> None:
        """Returns at once: arrays are always ready."""

    wait_to_write = wait_to_read

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (np.ascontiguousarray(self._data), self._context.device_type, self._context.device_id)

    def __repr__(self) -> str:
        return f"\n{self._data}\n<NDArray {'x'.join(map(str, self.shape))} @{self._context}>"

    # ---- shape

    def reshape(self, *shape: Any, **kwargs: Any) -> NDArray:
        """A view with another shape: ``reshape(2, -1)``, ``reshape((2, -1))`` or ``reshape(shape=(2, -1))``.

        Codes 0, -1, -2, -3, -4 and ``reverse=True`` as in MXNet; MXNetError when the sizes disagree.
        """
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            shape = tuple(shape[0])
        if not shape:
            shape = kwargs.pop("shape", ())
        reverse = kwargs.pop("reverse", False)
        if kwargs:
            raise TypeError(f"reshape() got unexpected arguments {sorted(kwargs)}; it takes shape and reverse")
        target = (shape,) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
        return NDArray(self._data.reshape(resolve_reshape(self.shape, target, reverse)), self._context)

    def expand_dims(self, axis: int, inplace: bool = False) -> NDArray:
        """One more axis of size 1 at ``axis``; a view with ``inplace=True``, else a copy."""
        view = np.expand_dims(self._data, axis)
        return NDArray(view, self._context) if inplace else self._like(view)

    def flatten(self, inplace: bool = False) -> NDArray:
        """(first axis, everything else); a view with ``inplace=True``, else a copy."""
        view = self._data.reshape((self.shape[0], -1))
        return NDArray(view, self._context) if inplace else self._like(view)

    def squeeze(self, axis: int | tuple[int, ...] | None = None, inplace: bool = False) -> NDArray:
        """Without the axes of size 1 (all, or those named); at least one axis stays."""
        view = np.squeeze(self._data, axis)
        view = view.reshape(1) if view.ndim == 0 else view
        return NDArray(view, self._context) if inplace else self._like(view)

    # ---- indexing

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an NDArray without axes")
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> NDArray:
        key, basic = _index_key(key)
        if not basic:
            return self._like(_at_least_1d(self._data[key]))
        found = _at_least_1d(self._data[(*key, ...) if Ellipsis not in key else key])
        return NDArray(found, self._context) if found.flags.c_contiguous else self._like(found)

    def __setitem__(self, key: Any, value: Any) -> None:
        key, _ = _index_key(key)
        if isinstance(value, NDArray):
            value = value._data
        elif not isinstance(value, np.ndarray):
            try:
                value = np.asarray(value, dtype=self._data.dtype)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"cannot assign {value!r} of {type(value)} to an array of {self.dtype.__name__}"
                ) from error
        with np.errstate(invalid="ignore"):
            self._data[key] = value

    # ---- operators

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"the truth value of an NDArray of shape {self.shape} is not defined; it needs one element"
            )
        return bool(self.asscalar())

    __hash__ = object.__hash__

    def _operate(self, name: str, other: Any, swapped: bool = False, out: np.ndarray | None = None) -> NDArray:
        if isinstance(other, NDArray):
            operand: Any = other._data
        elif isinstance(other, SCALAR_TYPES):
            operand = other
        else:
            raise TypeError(f"type {type(other)} not supported: {name} needs an NDArray or a number")
        lhs, rhs = (operand, self._data) if swapped else (self._data, operand)
        result = binary(name, lhs, rhs, out)
        return self if out is not None else NDArray(result, self._context)

    def __add__(self, other: Any) -> NDArray:
        return self._operate("add", other)

    def __radd__(self, other: Any) -> NDArray:
        return self._operate("add", other, swapped=True)

    def __iadd__(self, other: Any) -> NDArray:
        return self._operate("add", other, out=self._data)

    def __sub__(self, other: Any) -> NDArray:
        return self._operate("subtract", other)

    def __rsub__(self, other: Any) -> NDArray:
        return self._operate("subtract", other, swapped=True)

    def __isub__(self, other: Any) -> NDArray:
        return self._operate("subtract", other, out=self._data)

    def __mul__(self, other: Any) -> NDArray:
        return self._operate("multiply", other)

    def __rmul__(self, other: Any) -> NDArray:
        return self._operate("multiply", other, swapped=True)

    def __imul__(self, other: Any) -> NDArray:
        return self._operate("multiply", other, out=self._data)

    def __truediv__(self, other: Any) -> NDArray:
        return self._operate("divide", other)

    def __rtruediv__(self, other: Any) -> NDArray:
        return self._operate("divide", other, swapped=True)

    def __itruediv__(self, other: Any) -> NDArray:
        return self._operate("divide", other, out=self._data)

    def __mod__(self, other: Any) -> NDArray:
        return self._operate("modulo", other)

    def __rmod__(self, other: Any) -> NDArray:
        return self._operate("modulo", other, swapped=True)

    def __imod__(self, other: Any) -> NDArray:
        return self._operate("modulo", other, out=self._data)

    def __pow__(self, other: Any) -> NDArray:
        return self._operate("power", other)

    def __rpow__(self, other: Any) -> NDArray:
        return self._operate("power", other, swapped=True)

    def __ipow__(self, other: Any) -> NDArray:
        return self._operate("power", other, out=self._data)

    def __eq__(self, other: Any) -> NDArray:  # type: ignore[override]
        return self._operate("equal", other)

    def __ne__(self, other: Any) -> NDArray:  # type: ignore[override]
        return self._operate("not_equal", other)

    def __gt__(self, other: Any) -> NDArray:
        return self._operate("greater", other)

    def __ge__(self, other: Any) -> NDArray:
        return self._operate("greater_equal", other)

    def __lt__(self, other: Any) -> NDArray:
        return self._operate("lesser", other)

    def __le__(self, other: Any) -> NDArray:
        return self._operate("lesser_equal", other)

    def __neg__(self) -> NDArray:
        return self._like(np.negative(self._data))

    def __abs__(self) -> NDArray:
        return self._like(np.abs(self._data))


def _rebuild(data: np.ndarray, device_type: str, device_id: int) -> NDArray:
    """Unpickles an NDArray (a function, so that the pickle holds plain values only)."""
    return NDArray(data, Context(device_type, device_id))


def _at_least_1d(found: Any) -> np.ndarray:
    """Element reads have shape (1,): MXNet knows no arrays without axes."""
    array: np.ndarray = np.asarray(found)
    return array.reshape(1) if array.ndim == 0 else array


def _index_key(key: Any) -> tuple[tuple[Any, ...], bool]:
    """The numpy index for ``key`` as a tuple, and whether it is basic (integers, slices, None and Ellipsis only).

    Arrays of numbers index by their values, floats included. ValueError for boolean masks (MXNet reads them as 0, 1).
    """
    parts: list[Any] = []
    basic = True
    for part in key if isinstance(key, tuple) else (key,):
        if part is None or part is Ellipsis or isinstance(part, slice):
            parts.append(part)
        elif isinstance(part, (int, np.integer)) and not isinstance(part, bool):
            parts.append(int(part))
        elif isinstance(part, (NDArray, np.ndarray, list, tuple, range)):
            parts.append(_index_array(part))
            basic = False
        else:
            raise IndexError(f"cannot index an NDArray with {part!r} of {type(part)}")
    return tuple(parts), basic


def _index_array(values: ArrayLike | NDArray) -> np.ndarray:
    indices: np.ndarray = values._data if isinstance(values, NDArray) else np.asarray(values)
    if indices.dtype == np.bool_:
        raise ValueError("boolean masks cannot index an NDArray; use nd.where() or indices from numpy.nonzero()")
    return indices.astype(np.int64)
