"""Bad and unusual input: what sinabs computes is computed, what it refuses is refused with its own error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .comparison import INF, LAYERS, NAN, SEQUENCE, X, compare, marked, normal

INPUTS: dict[str, Any] = {
    "0-d": torch.tensor(1.0),
    "1-d": torch.randn(3),
    "no neurons' dimension": normal(2, 4),
    "no time": torch.zeros(2, 0, 3),
    "no samples": torch.zeros(0, 4, 3),
    "no neurons": torch.zeros(2, 4, 0),
    "complex64": X.to(torch.complex64),
    "complex128": X.to(torch.complex128),
    "float8": X.to(torch.float8_e4m3fn),
    "bool": X > 0,
    "int32": X.int(),
    "uint16": X.abs().to(torch.uint16),
    "float64": X.double(),
    "NaN": marked(NAN),
    "inf": marked(INF),
    "-inf": marked(-INF),
    "huge": X * 1e38,
    "denormal": X * 1e-42,
    "sparse": X.to_sparse(),
    "meta": X.to("meta"),
    "list": [1.0],
    "None": None,
    "numpy": X.numpy(),
    "Parameter": nn.Parameter(X.clone()),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_input(name: str, kind: str) -> None:
    compare(LAYERS[name], lambda layer: layer(INPUTS[kind]))


STRIDES: dict[str, Callable[[], Tensor]] = {
    "time first": lambda: normal(4, 2, 3).transpose(0, 1),
    "time last": lambda: normal(2, 3, 4).transpose(1, 2),
    "reversed": lambda: normal(3, 4, 2).permute(2, 1, 0),
    "sliced": lambda: normal(4, 8, 6)[::2, ::2, ::2],
    "every second step": lambda: normal(2, 8, 3)[:, ::2],
    "constant in time": lambda: normal(2, 1, 3).expand(2, 4, 3),
    "one sample": lambda: normal(1, 4, 3).expand(2, 4, 3),
    "one neuron": lambda: normal(2, 4, 1).expand(2, 4, 3),
    "one value": lambda: normal(1).expand(2, 4, 3),
    "offset": lambda: normal(30)[1:25].view(2, 4, 3),
    "overlapping": lambda: normal(12).as_strided((2, 4, 3), (1, 2, 1)),
    "negated": lambda: torch.conj(normal(2, 4, 3, 2).view(2, 4, 3, 2).contiguous().view(torch.complex64)[..., 0]).imag,
    "negated, one neuron": lambda: torch.conj(torch.view_as_complex(normal(2, 4, 1, 2))).imag,
    "channels last": lambda: normal(2, 4, 5, 6, 3).permute(0, 1, 4, 2, 3),
    "channels last, squeezed": lambda: normal(8, 3, 5, 6).to(memory_format=torch.channels_last).view(2, 4, 3, 5, 6),
    "channels between": lambda: normal(2, 3, 4, 5).transpose(1, 2),
}


@pytest.mark.parametrize("kind", STRIDES)
@pytest.mark.parametrize("name", SEQUENCE)
def test_input_strides(name: str, kind: str) -> None:
    """Whatever the order in memory: the host's numbers, the layout of elementwise operations, gradients of a leaf."""

    def use(layer: Any) -> tuple[Tensor, list[Tensor]]:
        x = STRIDES[kind]()
        out = layer(x)
        leaf = x.detach().requires_grad_()
        layer(leaf).square().sum().backward()
        assert leaf.grad is not None
        return out, [leaf.grad]

    assert compare(LAYERS[name], use) is None


UPSTREAM: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded": lambda out: out.sum(),
    "expanded in time": lambda out: (out.sum(1) * torch.arange(3)).sum(),
    "expanded over samples": lambda out: (out.sum(0) * torch.arange(3)).sum(),
    "transposed": lambda out: (out.permute(2, 1, 0).contiguous() * normal(3, 4, 2)).sum(),
    "sliced": lambda out: (torch.nn.functional.pad(out, (1, 2, 1, 1))[:, ::2] * 2).square().sum(),
    "float64": lambda out: (out.double() * normal(2, 4, 3).double()).sum(),
    "16 bits": lambda out: (out.half() * 3).float().sum(),
    "zero": lambda out: (out * 0).sum(),
    "of one step": lambda out: out[:, 2].square().sum(),
    "negated": lambda out: (torch.complex(out, out).conj() * (1 + 2j)).imag.sum(),
    "NaN": lambda out: (out * marked(NAN)).sum(),
    "in place": lambda out: out.mul_(3).add_(1).square().sum(),
    "in place on a part": lambda out: out[:, 1:3].zero_().sum() + out.square().sum(),
}


@pytest.mark.parametrize("kind", UPSTREAM)
@pytest.mark.parametrize("name", SEQUENCE)
def test_upstream_gradients(name: str, kind: str) -> None:
    """However gradients arrive; for a leaf, and for an input that is the result of another operation."""

    def use(layer: Any) -> tuple[Tensor, list[Tensor]]:
        leaf = X.clone().requires_grad_()
        first = UPSTREAM[kind](layer(leaf))
        second = UPSTREAM[kind](layer(leaf.transpose(0, 1).contiguous().transpose(0, 1) * 2))
        loss = first + second + sum(b.sum() for b in layer._buffers.values() if b.requires_grad)
        loss.backward()
        return loss.detach(), [p.grad for p in (leaf, *layer.parameters()) if p.grad is not None]

    assert compare(LAYERS[name], use) is None


@pytest.mark.parametrize("name", SEQUENCE)
def test_strides_beyond_31_bits(name: str, tmp_path: Path) -> None:
    """Elements further apart than 32 bits count, in a file of which only a few pages exist."""
    far = 2**31 + 7
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=far + 4096, dtype=torch.float32)
    for strides in ((far, 100, 1), (100, far, 1), (100, 10, far)):
        x = memory.as_strided((2, 2, 2), strides)
        x.copy_(normal(2, 2, 2))

        def use(layer: Any, x: Tensor = x) -> tuple[Tensor, list[Tensor]]:
            out, leaf = layer(x), x.detach().requires_grad_()
            layer(leaf).square().sum().backward()
            return out, [leaf.grad]  # type: ignore[list-item]

        assert compare(LAYERS[name], use) is None


STATES: dict[str, Callable[[], Tensor | None]] = {
    "float64": lambda: torch.ones(2, 3, dtype=torch.float64),
    "float16": lambda: torch.ones(2, 3).half(),
    "int64": lambda: torch.ones(2, 3, dtype=torch.int64),
    "bool": lambda: torch.ones(2, 3) > 0,
    "complex": lambda: torch.ones(2, 3, dtype=torch.complex64),
    "meta": lambda: torch.ones(2, 3, device="meta"),
    "None": lambda: None,
    "0-d": lambda: torch.tensor(1.0),
    "not initialised": lambda: torch.zeros(0),
    "no batch": lambda: torch.ones(3),
    "fewer samples": lambda: torch.ones(1, 3),
    "more samples": lambda: torch.arange(15.0).view(5, 3),
    "no samples": lambda: torch.ones(0, 3),
    "other neurons": lambda: torch.ones(2, 4),
    "one neuron": lambda: torch.ones(2, 1),
    "one dimension more": lambda: torch.ones(2, 3, 1),
    "transposed": lambda: normal(3, 2).t(),
    "expanded": lambda: normal(1, 3).expand(2, 3),
    "one value": lambda: normal(1).expand(2, 3),
    "sliced": lambda: normal(4, 6)[::2, ::2],
    "negated": lambda: torch.conj(torch.view_as_complex(normal(2, 3, 2))).imag,
    "leaf": lambda: normal(2, 3).requires_grad_(),
    "transposed leaf": lambda: normal(3, 2).requires_grad_().t(),
    "NaN": lambda: torch.full((2, 3), NAN),
    "inf": lambda: torch.full((2, 3), INF),
}


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("name", LAYERS)
def test_state_set_by_the_user(name: str, kind: str) -> None:
    for state in LAYERS[name]()._buffers:

        def use(layer: Any, state: str = state) -> tuple[Tensor, list[Tensor]]:
            layer(X)
            layer.reset_states()
            given = layer._buffers[state] = STATES[kind]()
            leaf = X.clone().requires_grad_()
            out = layer(leaf)
            grads = []
            if out.requires_grad:
                out.sum().backward()
                grads = [leaf.grad, given.grad if given is not None and given.is_leaf else None]
            return out.detach(), grads

        compare(LAYERS[name], use)


@pytest.mark.parametrize("name", LAYERS)
def test_batches_of_any_size_one_after_the_other(name: str) -> None:
    """States of another batch size are drawn from the old ones, or zero: as in the host, with its random numbers."""

    def use(layer: Any) -> tuple[Tensor, list[Tensor]]:
        return layer(X), [layer(X[:1]), layer(torch.cat([X, X])), layer(X[1:])]

    assert compare(LAYERS[name], use) is None


@pytest.mark.parametrize("name", LAYERS)
def test_buffers_besides_the_states(name: str) -> None:
    def with_another(layer: Any) -> Tensor:
        layer.register_buffer("mine", torch.ones(2, 3))
        return layer(X)  # type: ignore[no-any-return]

    def without_one(layer: Any) -> Tensor:
        layer(X)
        del layer.v_mem
        return layer(X)  # type: ignore[no-any-return]

    assert "buffers" in str(compare(LAYERS[name], with_another))
    assert "buffers" in str(compare(LAYERS[name], without_one))
