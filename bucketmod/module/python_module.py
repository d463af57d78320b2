"""Modules written in Python, without parameters: a base for own ones, and a loss made of a function."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from bucketmod import ndarray as nd
from bucketmod.initializer import Uniform
from bucketmod.module.base_module import Arrays, BaseModule
from bucketmod.ndarray import NDArray


class PythonModule(BaseModule):
    """A module without parameters. Subclasses write ``_compute_output_shapes``, ``forward``, ``get_outputs`` and, to
    train what comes before them, ``backward`` and ``get_input_grads``.

    ``data_names``, ``label_names``, ``output_names``: lists of names, tuples become lists; ``label_names`` may be None.
    """

    def __init__(
        self,
        data_names: Sequence[str],
        label_names: Sequence[str] | None,
        output_names: Sequence[str],
        logger: Any = logging,
    ) -> None:
        super().__init__(logger=logger)
        self._data_names = list(data_names) if isinstance(data_names, tuple) else data_names
        self._label_names = list(label_names) if isinstance(label_names, tuple) else label_names
        self._output_names = output_names
        self._data_shapes: Any = None
        self._label_shapes: Any = None
        self._output_shapes: Any = None

    @property
    def data_names(self) -> Any:
        """As given."""
        return self._data_names

    @property
    def output_names(self) -> Any:
        """As given."""
        return self._output_names

    @property
    def data_shapes(self) -> Any:
        """As bound; None before."""
        return self._data_shapes

    @property
    def label_shapes(self) -> Any:
        """As bound; None before, and without labels."""
        return self._label_shapes

    @property
    def output_shapes(self) -> Any:
        """What ``_compute_output_shapes`` gave; None before bind."""
        return self._output_shapes

    def get_params(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Two empty dicts."""
        return {}, {}

    def init_params(
        self,
        initializer: Any = Uniform(0.01),  # noqa: B008
        arg_params: Arrays | None = None,
        aux_params: Arrays | None = None,
        allow_missing: bool = False,
        force_init: bool = False,
        allow_extra: bool = False,
    ) -> None:
        """Nothing: there are no parameters."""

    def init_optimizer(
        self,
        kvstore: Any = "local",
        optimizer: Any = "sgd",
        optimizer_params: Any = (("learning_rate", 0.01),),
        force_init: bool = False,
    ) -> None:
        """Nothing: there is nothing to train."""

    def update(self) -> None:
        """Nothing: there is nothing to train."""

    def update_metric(self, eval_metric: Any, labels: Any, pre_sliced: bool = False) -> None:
        """Gives the metric the outputs, when bound with labels. RuntimeError for ``pre_sliced`` labels."""
        if self._label_shapes is None:
            return
        if pre_sliced:
            raise RuntimeError("PythonModule does not support presliced labels")
        eval_metric.update(labels, self.get_outputs())

    def bind(
        self,
        data_shapes: Sequence[Any],
        label_shapes: Sequence[Any] | None = None,
        for_training: bool = True,
        inputs_need_grad: bool = False,
        force_rebind: bool = False,
        shared_module: Any = None,
        grad_req: Any = "write",
    ) -> None:
        """Notes the shapes. The flag ``binded`` is left to subclasses (as in MXNet, where it stays False).

        AssertionError unless ``grad_req`` is "write" and names come in the order of the module's own.
        """
        if self.binded and not force_rebind:
            self.logger.warning("Already bound, ignoring bind()")
            return
        assert grad_req == "write", f"Python module only support write gradient, not {grad_req!r}"
        _check_names("data", self._data_names, data_shapes)
        if label_shapes is not None:
            assert self._label_names is not None, "labels are given, but this module has no label_names"
            _check_names("label", self._label_names, label_shapes)
        self.for_training, self.inputs_need_grad = for_training, inputs_need_grad
        self._data_shapes, self._label_shapes = data_shapes, label_shapes
        self._output_shapes = self._compute_output_shapes()

    def _compute_output_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """(name, shape) of the outputs, from ``data_shapes`` and ``label_shapes``. For subclasses to write."""
        raise NotImplementedError(f"{type(self).__name__}._compute_output_shapes")


def _check_names(kind: str, names: Sequence[str], shapes: Sequence[Any]) -> None:
    found = [described[0] for described in shapes]
    assert found == names, f"{kind}_shapes are given for {found}, but {kind}_names are {names}, in this order"


class PythonLossModule(PythonModule):
    """A loss on one input (the scores), which are its output too.

    ``name``: the output is ``<name>_output``. ``data_names``, ``label_names``: one name each (AssertionError).
    ``grad_func``: (scores, labels) -> gradient of the scores, as an NDArray or what ``nd.array`` takes; without it a
    subclass writes ``_backward_impl``, which sets ``_scores_grad`` from ``_scores`` and ``_labels``.
    """

    def __init__(
        self,
        name: str = "pyloss",
        data_names: Sequence[str] = ("data",),
        label_names: Sequence[str] = ("softmax_label",),
        logger: Any = logging,
        grad_func: Callable[[NDArray, NDArray], Any] | None = None,
    ) -> None:
        super().__init__(data_names, label_names, [f"{name}_output"], logger=logger)
        assert len(data_names) == 1, f"a loss has one input, got {data_names}"
        assert len(label_names) == 1, f"a loss has one label, got {label_names}"
        assert grad_func is None or callable(grad_func), f"grad_func must be a function, got {type(grad_func)}"
        self._name = name
        self._scores: Any = None
        self._labels: Any = None
        self._scores_grad: Any = None
        self._grad_func = grad_func

    def _compute_output_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(f"{self._name}_output", self._data_shapes[0][1])]

    def forward(self, data_batch: Any, is_train: bool | None = None) -> None:
        """Keeps the scores and, in training, the labels."""
        self._scores = data_batch.data[0]
        if self.for_training if is_train is None else is_train:
            self._labels = data_batch.label[0]

    def get_outputs(self, merge_multi_context: bool = True) -> list[Any]:
        """The scores. AssertionError unless ``merge_multi_context``."""
        assert merge_multi_context is True, "a PythonLossModule has one context: its outputs come merged"
        return [self._scores]

    def backward(self, out_grads: Any = None) -> None:
        """Computes the gradient of the scores. AssertionError unless bound for training, and for ``out_grads``."""
        assert out_grads is None, "For a loss module, out_grads should be None"
        assert self.for_training, "re-bind with for_training=True to run backward"
        self._backward_impl()

    def _backward_impl(self) -> None:
        if self._grad_func is None:
            raise NotImplementedError(f"{type(self).__name__} has no gradient: give grad_func or write _backward_impl")
        gradient = self._grad_func(self._scores, self._labels)
        self._scores_grad = gradient if isinstance(gradient, NDArray) else nd.array(gradient)

    def get_input_grads(self, merge_multi_context: bool = True) -> list[Any]:
        """The gradient of the scores. AssertionError unless ``merge_multi_context``."""
        assert merge_multi_context is True, "a PythonLossModule has one context: its gradients come merged"
        return [self._scores_grad]

    def install_monitor(self, mon: Any) -> None:
        """NotImplementedError: there is no executor to watch."""
        raise NotImplementedError("PythonLossModule.install_monitor: a loss in Python has no operators to watch")
