"""A sinabs layer and its converted twin under the same use: the same numbers, or the same error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import sinabs.layers as sl
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts.sinabs import last_fallback

NAN, INF = math.nan, math.inf
LAYERS: dict[str, Callable[..., Any]] = {
    "LIF": lambda **k: sl.LIF(**{"tau_mem": 9.0, **k}),
    "LIF-synapse": lambda **k: sl.LIF(
        **{"tau_mem": 9.0, "tau_syn": 4.0, "norm_input": False, "min_v_mem": -0.5, "record_states": True, **k}
    ),
    "IAF": sl.IAF,
    "ExpLeak": lambda **k: sl.ExpLeak(**{"tau_mem": 9.0, **k}),
    "ALIF": lambda **k: sl.ALIF(**{"tau_mem": 9.0, "tau_adapt": 7.0, "tau_syn": 3.0, "record_states": True, **k}),
    "LIFRecurrent": lambda **k: sl.LIFRecurrent(**{"tau_mem": 9.0, "rec_connect": nn.Linear(3, 3), **k}),
}
SEQUENCE = ["LIF", "LIF-synapse", "IAF", "ExpLeak", "ALIF"]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4


X = normal(2, 4, 3)


def marked(value: float) -> Tensor:
    x = X.clone()
    x.view(-1)[5] = x.view(-1)[13] = value
    return x


def _equal(a: Any, b: Any, exact: bool) -> bool:
    if not isinstance(b, Tensor):
        return type(a) is type(b)
    if a.dtype is not b.dtype or a.shape != b.shape or a.device != b.device:
        return False
    if b.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    # a mean is summed in another order than torch's
    tolerance = {"rtol": 0.0, "atol": 0.0} if exact and b.dim() else {"rtol": 1e-5, "atol": 1e-6}
    return torch.allclose(a, b, equal_nan=True, **tolerance)


def _outcome(layer: Any, use: Callable[[Any], Any]) -> tuple[Exception | None, list[Any], list[Any]]:
    """(error, what the layer gave and left behind, gradients)."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own about what it is given here
            made = use(layer)
    except Exception as error:
        return error, [], []
    given, grads = made if isinstance(made, tuple) else (made, [])
    left = [*layer._buffers.values(), *layer.recordings.values(), layer.firing_rate]
    return None, [given, *left], grads


def compare(make: Callable[[], Any], use: Callable[[Any], Any]) -> str | None:
    """Host and converted layer agree: on every number, or on the error. Gives why the host's own forward ran."""
    torch.manual_seed(0)
    want = _outcome(make(), use)
    torch.manual_seed(0)
    layer = plugin_accel.convert(make())
    got = _outcome(layer, use)
    assert type(got[0]) is type(want[0]) and str(got[0]) == str(want[0])
    exactly = not hasattr(layer, "rec_connect")  # whose sums have an order of our own
    for exact, (a, b) in zip((exactly, False), zip(got[1:], want[1:], strict=True), strict=True):
        assert len(a) == len(b)
        assert all(_equal(x, y, exact) for x, y in zip(a, b, strict=True))
    return last_fallback(layer)
