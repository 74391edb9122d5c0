"""Compares a fused forward with the user's own: results, gradients, buffers, random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def step(call: Callable[[], Any], inputs: list[torch.Tensor], nets: list[nn.Module], seed: int) -> dict[str, Any]:
    """One forward, and a backward with a fixed upstream gradient where there is a graph."""
    torch.manual_seed(seed)
    result = call()
    after = torch.random.get_rng_state()
    outputs = tensors(result)
    with_graph = [out for out in outputs if out.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    if with_graph:
        upstream = [torch.rand(out.shape, generator=generator).to(out.dtype) for out in with_graph]
        torch.autograd.backward(with_graph, upstream)
    parameters = {f"{i}.{name}": p.grad for i, net in enumerate(nets) for name, p in net.named_parameters()}
    gradients = {**parameters, **{f"input {i}": x.grad for i, x in enumerate(inputs)}}
    found = {
        "structure": tree_flatten(result)[1],
        "constants": [leaf for leaf in tree_flatten(result)[0] if not isinstance(leaf, torch.Tensor)],
        "outputs": [out.detach().clone() for out in outputs],
        "graph": [out.requires_grad for out in outputs],
        "strides": [out.stride() for out in outputs],
        "gradients": {name: None if g is None else g.clone() for name, g in gradients.items()},
        "buffers": {f"{i}.{n}": b.detach().clone() for i, net in enumerate(nets) for n, b in net.named_buffers()},
        "random": after,
    }
    for net in nets:
        net.zero_grad()
        for part in net.modules():
            for name, buffer in part._buffers.items():
                if buffer is not None and buffer.requires_grad:
                    part._buffers[name] = buffer.detach()
    for x in inputs:
        x.grad = None
    return found


def assert_same(mine: dict[str, Any], theirs: dict[str, Any], note: str = "", exact: bool = True) -> None:
    assert mine["structure"] == theirs["structure"], note
    assert mine["constants"] == theirs["constants"], note
    assert mine["graph"] == theirs["graph"], note
    assert torch.equal(mine["random"], theirs["random"]), f"random numbers {note}"
    for index, (a, b) in enumerate(zip(mine["outputs"], theirs["outputs"], strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape, (index, note)
        if exact:
            assert torch.equal(a, b), f"output {index}: {(a - b).abs().max()} {note}"
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=lambda text: f"output {index} {note}: {text}")
    # Gradients that are differences of large terms (a bias before a norm) are as exact as those terms.
    largest = max(
        (float(g.abs().max()) for g in theirs["gradients"].values() if g is not None and g.numel()), default=0.0
    )
    for part, scale in (("gradients", largest), ("buffers", 0.0)):
        assert mine[part].keys() == theirs[part].keys(), note
        for name, a in mine[part].items():
            b = theirs[part][name]
            if b is None and a is not None and ".lif" in name:
                b = torch.zeros_like(a)  # a kernel gives zeros where a neuron's parameter has no part in the result
            assert (a is None) == (b is None), (part, name, note, a, b)
            if a is not None:
                assert a.shape == b.shape and a.dtype == b.dtype, (part, name, note)
                tolerance = 1e-5 * max(scale, float(b.abs().max()) if b.numel() else 0.0) + 1e-7
                assert a.numel() == 0 or float((a - b).abs().max()) <= tolerance, (part, name, note, a - b)
