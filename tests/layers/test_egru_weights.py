"""Weights of EGRU from and for GRUs and EvNN's checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plugin_accel.errors import InputError
from plugin_accel.layers import (
    EGRU,
    EGRUState,
    egru_from_evnn,
    egru_from_gru,
    gru_from_egru,
    to_evnn_state_dict,
)
from tests.layers.test_egru_layer import D, data, make


@pytest.mark.parametrize("bias", [True, False])
def test_native_weights_are_those_of_a_gru(bias: bool) -> None:
    """With y = h before it, a step computes the GRU's, and only then decides on events."""
    gru = nn.GRU(3, 5, bias=bias, dtype=D)
    layer = egru_from_gru(gru, threshold=0.2)
    start, x = data(1, 2, 5).abs(), data(1, 2, 3)
    _, (h, o, _) = layer(x, EGRUState(start, start, torch.zeros_like(start)))
    want = gru(x, start)[0]
    torch.testing.assert_close(h + o * 0.2, want)
    assert o.equal((want > 0.2).to(D)) and 0 < float(o.detach().mean()) < 1
    back = gru_from_egru(layer)
    assert back.state_dict().keys() == gru.state_dict().keys()
    assert all(a.equal(b) for a, b in zip(back.state_dict().values(), gru.state_dict().values(), strict=True))


def test_gru_conversion_of_several_layers_and_what_it_refuses() -> None:
    gru = nn.GRU(3, 5, num_layers=3, batch_first=True).eval()
    layer = egru_from_gru(gru, threshold=torch.linspace(0, 1, 5), zoneout=0.1)
    assert layer.num_layers == 3 and layer.batch_first and not layer.training and layer.zoneout == 0.1
    assert all(a.equal(b) for a, b in zip(gru_from_egru(layer).parameters(), gru.parameters(), strict=True))
    with pytest.raises(InputError, match="unidirectional"):
        egru_from_gru(nn.GRU(3, 5, bidirectional=True))
    with pytest.raises(InputError, match="without dropout"):
        egru_from_gru(nn.GRU(3, 5, num_layers=2, dropout=0.1))
    with pytest.raises(InputError, match="within 0 and 1"):
        egru_from_gru(nn.GRU(3, 5), threshold=1.5)
    with pytest.raises(InputError, match="weight_hh: expected shape"):
        layer.from_native_weights(torch.zeros(15, 3), torch.zeros(15, 4))
    with pytest.raises(InputError, match="expected None for a layer without biases"):
        make(3, 5, bias=False).from_native_weights(torch.zeros(15, 3), torch.zeros(15, 5), torch.zeros(15))


def test_evnn_checkpoints_load_and_leave() -> None:
    """Keys and layouts as EvNN's layer stores them (measured on v0.2.0)."""
    stored = {
        "_max_norm": torch.tensor([0.25]),
        "kernel": torch.randn(3, 15),
        "recurrent_kernel": torch.randn(5, 15),
        "bias": torch.randn(15),
        "recurrent_bias": torch.randn(15),
        "dampening_factor": torch.tensor([0.5]),
        "pseudo_derivative_support": torch.tensor([1.7]),
        "thr": torch.rand(5),
    }
    layer = egru_from_evnn(stored, batch_first=True)
    assert (layer.input_size, layer.hidden_size, layer.grad_clip) == (3, 5, 0.25)
    left = to_evnn_state_dict(layer)
    assert list(left) == list(stored) and all(left[k].equal(stored[k]) for k in stored)
    other = EGRU(3, 5)
    other.load_state_dict(stored)
    x = torch.randn(4, 2, 3)
    assert other(x)[0].equal(layer(x.transpose(0, 1))[0].transpose(0, 1)) and other.grad_clip == 0.25
    without = to_evnn_state_dict(EGRU(3, 5, bias=False))
    assert list(without) == list(stored) and not without["bias"].any()
    assert egru_from_evnn(without).grad_clip is None
    with pytest.raises(InputError, match="expected the keys"):
        egru_from_evnn({"kernel": stored["kernel"]})
    with pytest.raises(InputError, match="expected kernel"):
        egru_from_evnn({**stored, "kernel": torch.randn(3, 12)})
