"""EGRU with the rest of torch: compile, autocast, 16 bits, DDP, checkpointing, conversion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.errors import InputError, PluginAccelWarning
from plugin_accel.layers import EGRU

RANK = Path(__file__).with_name("egru_rank.py")


def make(**options: object) -> EGRU:
    torch.manual_seed(0)
    return EGRU(3, 12, weight_initialization_gain=2.0, **options)  # type: ignore[arg-type]


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "return_state_sequence": False}, {"grad_clip": 0.1}, {"use_custom_cuda": False}],
    ids=str,
)
def test_compiles_whole(options: dict[str, object]) -> None:
    torch.compiler.reset()
    layer, x = make(**options), data(6, 2, 3).requires_grad_()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    seen = []
    for f in (layer, compiled):
        y, (h, _, trace) = f(x, lengths=torch.tensor([6, 4]))
        seen.append((y, h, *torch.autograd.grad(y.sum() + h.sum() + trace.sum(), [x, *layer.parameters()])))
    for a, b in zip(*seen, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor_takes_it() -> None:
    torch.compiler.reset()
    layer = make(zoneout=0.2, dropout=0.2).eval()
    x = data(6, 2, 3)
    with torch.no_grad():
        assert torch.compile(layer, fullgraph=True)(x)[0].equal(layer(x)[0])


def test_exports() -> None:
    layer, x = make().eval(), data(6, 2, 3)
    program = torch.export.export(layer, (x,))
    assert program.module()(x)[0].equal(layer(x)[0])


def test_autocast_computes_in_float32() -> None:
    """A cast to 16 bits would flip events."""
    layer, x = make(), data(6, 2, 3)
    want = layer(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x)[0]
        low = layer(x.bfloat16())[0]
    assert got.dtype is low.dtype is torch.float32 and got.equal(want)
    got.sum().backward()
    assert layer.kernel.grad is not None and layer.kernel.grad.dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_layers_compute_in_float32(dtype: torch.dtype) -> None:
    layer, x = make(num_layers=2).to(dtype), data(6, 2, 3).to(dtype)
    y, (h, o, _), state = layer(x, return_state=True)
    wide = make(num_layers=2)
    wide.load_state_dict(layer.state_dict())
    want, (want_h, want_o, _) = wide(x.float())
    assert y.dtype is h.dtype is dtype and state.h.dtype is torch.float32
    assert y.equal(want.to(dtype)) and h.equal(want_h.to(dtype)) and o.equal(want_o.to(dtype))
    y.sum().backward()
    assert layer.kernel.grad is not None and layer.kernel.grad.dtype is dtype


def test_checkpointing() -> None:
    layer, x = make(), data(6, 2, 3).requires_grad_()
    want = torch.autograd.grad(layer(x)[0].sum(), [x, *layer.parameters()])
    y = torch.utils.checkpoint.checkpoint(lambda t: layer(t)[0], x, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(y.sum(), [x, *layer.parameters()]), want, strict=True):
        assert a.equal(b)


def test_two_calls_before_one_backward() -> None:
    """The clamp of the thresholds in the second call must not invalidate what the first one saved."""
    layer, x = make(), data(6, 2, 3)
    (layer(x)[0].sum() + layer(x)[0].sum()).backward()
    assert layer.thr.grad is not None


def test_ddp_gives_both_processes_the_mean_gradient(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, str(RANK), str(rank), str(tmp_path)],
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [p.communicate(timeout=120)[0] for p in ranks]
    finally:
        for p in ranks:
            p.kill()
            p.wait()
    assert [p.returncode for p in ranks] == [0, 0], said
    seen = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, together in seen[0]["together"].items():
        assert together.equal(seen[1]["together"][name])
        torch.testing.assert_close(together, (seen[0]["alone"][name] + seen[1]["alone"][name]) / 2)


class Classifier(nn.Module):
    """A model as users write it around an `nn.GRU`."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 12, batch_first=True)
        self.read = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x)
        return self.read(y[:, -1])


def test_convert_replaces_grus_only_when_asked() -> None:
    model = Classifier()
    with pytest.warns(PluginAccelWarning, match="nothing to convert"):
        plugin_accel.convert(model)
    assert type(model.gru) is nn.GRU
    changed = plugin_accel.convert(model, copy=True, gru_to_egru={"threshold": 0.1, "zoneout": 0.2})
    assert type(model.gru) is nn.GRU
    assert isinstance(changed.gru, EGRU) and changed.gru.zoneout == 0.2 and changed.gru.thr.eq(0.1).all()
    assert changed(data(4, 5, 3)).shape == (4, 2)
    assert plugin_accel.convert(model, gru_to_egru=True) is model and isinstance(model.gru, EGRU)
    with pytest.raises(InputError, match="unidirectional"):
        plugin_accel.convert(nn.Sequential(nn.GRU(3, 4), nn.GRU(3, 4, bidirectional=True)), gru_to_egru=True)


def test_convert_does_both_in_one_model() -> None:
    import sinabs.layers as sl

    model = nn.ModuleDict({"gru": nn.GRU(3, 4), "lif": sl.LIF(tau_mem=9.0)})
    plugin_accel.convert(model, gru_to_egru=True)
    assert isinstance(model["gru"], EGRU) and type(model["lif"]) is not sl.LIF
    assert len(plugin_accel.report(model).accelerated) == 1
