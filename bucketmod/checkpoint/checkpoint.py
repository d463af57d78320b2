"""Whole checkpoints: all that training needs to go on as if it had never stopped, in one ``prefix-%04d.checkpoint``."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucketmod.base import MXNetError
from bucketmod.checkpoint import container, progress, tree
from bucketmod.ndarray import NDArray

FORMAT = 1
_ENDING = ".checkpoint"


@dataclass
class Checkpoint:
    """Training as it stands at the end of an epoch.

    ``epoch``: how many epochs are done. ``arg_params``, ``aux_params``: parameters by name, bit by bit as they were.
    ``progress``: what the module's ``get_progress`` gave. ``random``: states of the generators of random numbers.
    ``data``: the states of iterators, None for one that tells none. ``fname``: where it was read from.
    """

    epoch: int
    arg_params: dict[str, NDArray]
    aux_params: dict[str, NDArray]
    progress: Any = None
    random: Any = None
    data: list[Any] = field(default_factory=list)
    fname: str = ""

    @staticmethod
    def take(epoch: int, module: Any, data: Sequence[Any] = ()) -> Checkpoint:
        """Of a module (bound, initialised) and of the iterators in ``data`` (None among them stays None).

        Nothing is copied: write it before training goes on.
        """
        arg_params, aux_params = module.get_params()
        states = [getattr(each, "get_state", lambda: None)() for each in data]
        return Checkpoint(
            epoch, dict(arg_params), dict(aux_params), module.get_progress(), progress.get_random_states(), states
        )

    def write(self, fname: str) -> None:
        """Writes the file whole or not at all. TypeError for bucket keys or states that are no plain data, MXNetError
        when the file system refuses."""
        arrays: list[NDArray] = []
        parts = dict(args=self.arg_params, auxs=self.aux_params, progress=self.progress, random=self.random,
                     data=self.data)  # fmt: skip
        content = {name: tree.encode(part, arrays) for name, part in parts.items()}
        container.write(fname, {"format": FORMAT, "epoch": self.epoch, **content}, arrays)

    @staticmethod
    def read(fname: str) -> Checkpoint:
        """The checkpoint in a file. MXNetError when the file is missing, damaged or of another format."""
        content, arrays = container.read(fname)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise MXNetError(f"{fname}: a checkpoint of format {FORMAT} was expected")
        epoch = content.get("epoch")
        if type(epoch) is not int or epoch < 0:
            raise MXNetError(f"{fname}: {epoch!r} is no number of epochs")
        try:
            args, auxs, others, random_states, data = (
                tree.decode(content.get(name), arrays) for name in ("args", "auxs", "progress", "random", "data")
            )
        except MXNetError as error:
            raise MXNetError(f"{fname} is damaged: {error}") from None
        for params in (args, auxs):
            if not isinstance(params, dict) or not all(
                isinstance(name, str) and isinstance(array, NDArray) for name, array in params.items()
            ):
                raise MXNetError(f"{fname}: the parameters are no arrays by name")
        return Checkpoint(epoch, args, auxs, others, random_states, data if isinstance(data, list) else [], fname)

    def check_parameters(self, module: Any) -> None:
        """MXNetError unless the module (bound, initialised) has exactly these parameters, in these shapes."""
        for kind, ours, theirs in zip(("arg", "aux"), (self.arg_params, self.aux_params), module.get_params(),
                                      strict=True):  # fmt: skip
            if problem := _difference(ours, theirs):
                raise MXNetError(f"checkpoint {self.fname} does not fit the module: {kind}_params {problem}")

    def restore(self, module: Any, data: Sequence[Any] = ()) -> None:
        """Brings a module (bound, initialised, with its optimizer if it had one), the iterators in ``data`` and the
        generators of random numbers to where they were. MXNetError when the module or its optimizer is another one."""
        self.check_parameters(module)
        module.set_params(self.arg_params, self.aux_params)
        if self.progress is not None:
            module.set_progress(self.progress)
        for iterator, state in zip(data, self.data, strict=False):
            if iterator is not None and state is not None:
                self._restore_data(iterator, state)
        if self.random is not None:
            progress.set_random_states(self.random)

    def _restore_data(self, iterator: Any, state: Any) -> None:
        try:
            iterator.set_state(state)
        except MXNetError as error:
            raise MXNetError(
                f"the data are not those of checkpoint {self.fname} ({error}). To go on with other data, load the "
                "checkpoint, set its data to [] and give it to fit(resume=...)"
            ) from None


def _difference(ours: Mapping[str, NDArray], theirs: Mapping[str, NDArray]) -> str:
    """What is unlike, in words; empty when nothing is."""
    if missing := sorted(set(theirs) - set(ours)):
        return f"lack {', '.join(missing)}"
    if extra := sorted(set(ours) - set(theirs)):
        return f"have {', '.join(extra)}, which the module lacks"
    unlike = [name for name, array in ours.items() if tuple(array.shape) != tuple(theirs[name].shape)]
    return "".join(f"{name} of shape {ours[name].shape}, not {theirs[name].shape} " for name in sorted(unlike)).rstrip()


def file_name(prefix: str, epoch: int) -> str:
    """``prefix-0007.checkpoint`` for epoch 7."""
    return f"{prefix}-{epoch:04d}{_ENDING}"


def save(prefix: str, epoch: int, module: Any, data: Sequence[Any] = ()) -> str:
    """Writes ``prefix-<epoch>.checkpoint`` and returns its name.

    ``epoch``: how many epochs are done. ``data``: the iterators whose place and order belong to the checkpoint.
    """
    fname = file_name(prefix, epoch)
    Checkpoint.take(epoch, module, data).write(fname)
    logging.info('Saved checkpoint to "%s"', fname)
    return fname


def load(prefix: str, epoch: int) -> Checkpoint:
    """The checkpoint of an epoch. MXNetError when it is missing or damaged."""
    return Checkpoint.read(file_name(prefix, epoch))


def newest(prefix: str) -> Checkpoint | None:
    """The checkpoint with the highest epoch that is whole; None when there is none. Damaged ones are passed over, with
    a warning."""
    numbered = re.compile(re.escape(os.path.basename(prefix)) + r"-(\d{4,})" + re.escape(_ENDING))
    found = []
    for fname in glob.glob(f"{glob.escape(prefix)}-*{_ENDING}"):
        if match := numbered.fullmatch(os.path.basename(fname)):
            found.append((int(match[1]), fname))
    for epoch, fname in sorted(found, reverse=True):
        try:
            checkpoint = Checkpoint.read(fname)
            if checkpoint.epoch != epoch:
                raise MXNetError(f"{fname} was made at the end of epoch {checkpoint.epoch}")
        except MXNetError as error:
            logging.warning("Passing over a checkpoint: %s", error)
        else:
            return checkpoint
    return None
