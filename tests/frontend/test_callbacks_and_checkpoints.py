"""Callbacks' log lines as MXNet 1.9.1 writes them, and checkpoints of a model."""

import io
import logging
import pathlib
import sys
import types
from typing import Any

import pytest
from recorded_cases import recorded, recorder

import bucketmod as mx
from bucketmod.model import BatchEndParam

RECORDED = recorded("training_parts")["callbacks"]


@pytest.mark.parametrize("with_metric", [True, False])
@pytest.mark.parametrize("case", RECORDED)
def test_log_lines_are_those_of_mxnet(case: str, with_metric: bool) -> None:
    assert recorder("training_parts").run_callback(mx, case, with_metric) == RECORDED[case][0 if with_metric else 1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_moves_on_a_terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = mx.callback.ProgressBar(total=3, length=100)
    metric = mx.metric.Loss()
    metric.update([], [mx.nd.ones((1,))])
    for epoch in range(2):
        for nbatch in range(3):
            bar(BatchEndParam(epoch, nbatch, metric, None))
    assert "Epoch[0]" in terminal.getvalue()
    assert "Epoch[1]" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
    assert "loss=1" in terminal.getvalue()
    assert not caplog.messages


def test_progress_bar_ends_early_and_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = mx.callback.ProgressBar(total=10, length=60)
    bar(BatchEndParam(0, 0, None, None))
    bar(BatchEndParam(0, 1, None, None))
    bar(BatchEndParam(1, 0, None, None))  # an epoch of two batches only
    bar.close()
    bar.close()
    assert "2/10" in terminal.getvalue() and "Epoch[1]" in terminal.getvalue()


class Writer:
    """What the callback needs of a SummaryWriter."""

    def __init__(self, logdir: str) -> None:
        self.logdir, self.written, self.closed = logdir, [], False

    def add_scalar(self, tag: str, value: float, global_step: int) -> None:
        self.written.append((tag, value, global_step))

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("prefix", [None, "train"])
def test_tensorboard_gets_the_values_of_the_metric(prefix: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    callback = mx.contrib.tensorboard.LogMetricsCallback("logs/train", prefix)
    metric = mx.metric.create(["loss", "mae"])
    metric.update([mx.nd.zeros((2,))], [mx.nd.ones((2,))])
    callback(BatchEndParam(3, 7, None, None))
    callback(BatchEndParam(3, 7, metric, None))
    callback.close()
    before = "" if prefix is None else "train-"
    assert callback.summary_writer.logdir == "logs/train" and callback.summary_writer.closed
    assert callback.summary_writer.written == [(f"{before}loss", 1.0, 3), (f"{before}mae", 1.0, 3)]


def test_tensorboard_without_a_writer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboardX", "torch.utils.tensorboard", "mxboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="bucketmod\\[tensorboard\\]"):
        mx.contrib.tensorboard.LogMetricsCallback("logs")


def test_tensorboard_event_files(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("tensorboardX", reason="needs the extra bucketmod[tensorboard]")
    callback = mx.contrib.tensorboard.LogMetricsCallback(str(tmp_path))
    metric = mx.metric.Loss()
    metric.update([], [mx.nd.ones((2,))])
    callback(BatchEndParam(0, 0, metric, None))
    callback.close()
    (events,) = tmp_path.glob("events.*")
    assert b"loss" in events.read_bytes()


def test_speedometer_logs_samples_a_second(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = iter([0.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr("time.time", lambda: next(clock, 2.0))
    speedometer = mx.callback.Speedometer(10, frequent=1)
    for nbatch in range(3):
        speedometer(BatchEndParam(0, nbatch, None, None))
    assert [r.getMessage() for r in caplog.records] == [
        "Iter[0] Batch [1]\tSpeed: 5.00 samples/sec",
        "Iter[0] Batch [2]\tSpeed: inf samples/sec",
    ]


def model() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    symbol = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="fc")
    return (
        symbol,
        {"fc_weight": mx.nd.array([[1, 2, 3], [4, 5, 6]]), "fc_bias": mx.nd.zeros((2,))},
        {"m": mx.nd.ones((1,))},
    )


def test_checkpoint_survives_a_round_trip(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    prefix = str(tmp_path / "model")
    symbol, args, auxs = model()
    mx.model.save_checkpoint(prefix, 7, symbol, args, auxs)
    assert caplog.messages == [f'Saved checkpoint to "{prefix}-0007.params"']
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-0007.params", "model-symbol.json"]
    again, arg_params, aux_params = mx.model.load_checkpoint(prefix, 7)
    assert again.tojson() == symbol.tojson()
    assert arg_params["fc_weight"].asnumpy().tolist() == [[1, 2, 3], [4, 5, 6]]
    assert list(aux_params) == ["m"]


def test_a_failed_write_leaves_the_last_checkpoint(tmp_path: pathlib.Path) -> None:
    prefix = str(tmp_path / "model")
    mx.model.save_checkpoint(prefix, 1, *model())
    before = (tmp_path / "model-0001.params").read_bytes()
    symbol, args, auxs = model()
    args["bad"] = "no array"
    with pytest.raises(AttributeError):
        mx.model.save_checkpoint(prefix, 1, symbol, args, auxs)
    assert (tmp_path / "model-0001.params").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_damaged_checkpoints_are_errors(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    prefix = str(tmp_path / "model")
    with pytest.raises(mx.MXNetError, match="symbol"):
        mx.model.load_checkpoint(prefix, 0)
    with pytest.raises(mx.MXNetError, match="model-0000.params"):
        mx.model.load_params(prefix, 0)
    mx.nd.save(f"{prefix}-0000.params", [mx.nd.zeros((1,))])
    with pytest.raises(mx.MXNetError, match="list"):
        mx.model.load_params(prefix, 0)
    mx.nd.save(f"{prefix}-0000.params", {"unnamed": mx.nd.zeros((1,))})
    with pytest.raises(mx.MXNetError, match="unnamed"):
        mx.model.load_params(prefix, 0)
    mx.nd.save(f"{prefix}-0000.params", {})
    assert mx.model.load_params(prefix, 0) == ({}, {})
    assert "is empty" in caplog.messages[-1]


def test_checkpoint_callbacks_write_every_period(tmp_path: pathlib.Path) -> None:
    save = mx.callback.do_checkpoint(str(tmp_path / "m"), period=2)
    for epoch in range(4):
        save(epoch, *model())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m-0002.params", "m-0004.params", "m-symbol.json"]

    class Module:
        calls: list[tuple[Any, ...]] = []

        def save_checkpoint(self, *arguments: Any) -> None:
            self.calls.append(arguments)

    save_module = mx.callback.module_checkpoint(Module(), "p", period=3, save_optimizer_states=True)
    for epoch in range(6):
        save_module(epoch)
    assert Module.calls == [("p", 3, True), ("p", 6, True)]
