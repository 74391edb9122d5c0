"""Layers that several threads call at once, and replicas of DataParallel."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import plugin_accel
from plugin_accel.hosts import norse_step, sinabs_quick

norse = pytest.importorskip("norse.torch")
sl = pytest.importorskip("sinabs.layers")
snn = pytest.importorskip("snntorch")


def test_one_layer_in_several_threads() -> None:
    """What is known of a layer is made, used and dropped by all of them: shapes, options and gradients change."""
    torch.manual_seed(0)
    norse_lif, leaky = plugin_accel.convert(norse.LIF()), plugin_accel.convert(snn.Leaky(beta=0.9))
    xs = [torch.randn(5 + n % 3, 2 + n % 4, 6).mul_(3) for n in range(12)]
    host_lif, host_leaky = norse.LIF(), snn.Leaky(beta=0.9)

    def both(lif: Any, step: Any, x: Tensor, learns: bool) -> list[Tensor]:
        x = x.clone().requires_grad_(learns)
        out, state = lif(x)
        mem = torch.zeros_like(x[0])
        spikes, mem = step(x[0], mem)
        found = [out, state.v, spikes, mem]
        if learns:
            (out.sum() + spikes.sum()).backward()
            assert x.grad is not None
            found.append(x.grad)
        return [t.detach() for t in found]

    wanted = [both(host_lif, host_leaky, x, n % 2 == 0) for n, x in enumerate(xs)]

    def work(first: int) -> list[tuple[int, list[Tensor]]]:
        found = []
        for n in range(60):
            i = (first + 7 * n) % len(xs)
            found.append((i, both(norse_lif, leaky, xs[i], i % 2 == 0)))
        return found

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    for found in results:
        for i, got in found:
            for a, b in zip(got, wanted[i], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [norse.LIF, sl.IAF], ids=["Norse", "sinabs"])
def test_replicas_leave_no_plans(make: Any) -> None:
    """One of DataParallel lives for one call: to prepare anything for it would cost more than the call."""
    layer, x = plugin_accel.convert(make()), torch.rand(4, 2, 3)
    layer(x)
    plans = {**norse_step._sequences, **sinabs_quick._plans}
    replica = layer._replicate_for_data_parallel()
    replica._buffers = dict(layer._buffers)
    vars(replica).update(layer._parameters)  # as torch leaves them there
    replica(x)
    replica(x)
    after = {**norse_step._sequences, **sinabs_quick._plans}
    assert not after.get(replica)
    assert after.keys() >= plans.keys()
