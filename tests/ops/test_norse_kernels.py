"""The C++ kernels of Norse's neurons against the plain-torch reference: kinds, surrogates, parameters, sets."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.backends import cpu, reference
from plugin_accel.neurons import ALL, Kernels, Neuron, NorseConfig, Result, run
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.norse_config import KINDS
from plugin_accel.surrogates import Surrogate

SUPER = Surrogate("fast_sigmoid", (1.0, -torch.inf))
SURROGATES = [
    SUPER,
    Surrogate("triangle", (0.75,)),
    Surrogate("tanh", (1.5,)),
    Surrogate("circle", (0.5,)),
    Surrogate("erfc", (1.25,)),
]
VARIANTS = [(name, kind) for name, kinds in KINDS.items() for kind in kinds]
EXPONENTIAL = ("lif_ex", "adex", "adex_refrac")
VALUES = {
    "k_mem": 0.25, "k_syn": -0.375, "k_ada": 0.125, "v_leak": 0.0625, "v_th": 0.5, "v_reset": -0.125, "delta_t": 0.5,
    "a_current": 0.75, "a_spike": 0.25, "beta": 0.5, "rho_reset": 2.0, "slope": 1.0, "recurrent": 0.125,
    "sq": 0.0625, "mn": 0.5, "bias": 0.25, "k": 0.25, "k_a": 0.125, "b": 0.25, "c": -0.25, "d": 0.125,
    "k_e": -0.25, "k_i": -0.125, "g_l": 0.5, "e_exc": 2.0, "e_inh": -1.0, "v_rest": 0.125,
}  # fmt: skip


def parameters(neuron: Neuron, config: NorseConfig, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    made = []
    for name in neuron.params(config):
        jitter = torch.randint(-8, 9, shape).to(dtype) / 256
        made.append(VALUES[name] + jitter if shape and name != "slope" else torch.tensor(VALUES[name], dtype=dtype))
    return made


def run_all(
    kernels: Kernels, neuron: Neuron, config: NorseConfig, tensors: list[Tensor], record: bool
) -> tuple[Result, list[Tensor | None]]:
    """Result and the gradients of everything that has one, under a loss that uses everything."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    states = len(neuron.states(config))
    if "slope" in neuron.params(config):
        leaves[1 + states + neuron.params(config).index("slope")].requires_grad_(False)
    result = run(
        neuron, kernels, config, leaves[0], leaves[1 : 1 + states], leaves[1 + states :], keep=record, record=record
    )
    generator = torch.Generator().manual_seed(1)
    used = [result.out, *result.last, *result.records, *([] if result.kept is None else [result.kept])]
    loss = torch.stack(
        [(t * torch.randn(t.shape, dtype=t.dtype, generator=generator)).sum().double() for t in used]
    ).sum()
    return result, list(torch.autograd.grad(loss, [t for t in leaves if t.requires_grad], allow_unused=True))


def assert_same(got: Result, want: Result, exact: bool) -> None:
    for a, b in zip((got.out, *got.last, *got.records), (want.out, *want.last, *want.records), strict=True):
        assert a.dtype == b.dtype
        if exact:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def assert_close(got: list[Tensor | None], want: list[Tensor | None], rtol: float) -> None:
    for a, b in zip(got, want, strict=True):
        if a is None or b is None:
            assert not (torch.zeros(()) if a is None else a).any() and not (torch.zeros(()) if b is None else b).any()
            continue
        assert a.shape == b.shape and a.dtype == b.dtype and torch.isfinite(b).all()
        tolerance = 10 * rtol if b.dtype is torch.float32 and b.numel() < want[0].numel() else rtol  # type: ignore[union-attr]
        assert (a - b).abs().max() <= tolerance * max(b.abs().max().item(), 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_equals_the_reference(variant: tuple[str, str], dtype: torch.dtype) -> None:
    name, kind = variant
    neuron = ALL[name]
    torch.manual_seed(0)
    surrogates = [None] if kind in ("li", "li_box") else SURROGATES[:1] if "refrac" in kind else SURROGATES
    for surrogate, shape, record in itertools.product(surrogates, [(), (37,), (3, 37)], [False, True]):
        config = NorseConfig(kind, False, surrogate, time_dim=0)
        x = torch.randn(11, 3, 37, dtype=dtype)
        first = [(torch.randn(3, 37) * 0.5).to(dtype) for _ in neuron.states(config)]
        tensors = [x, *first, *parameters(neuron, config, shape, dtype)]
        want = run_all(reference.BACKEND, neuron, config, tensors, record)
        for isa in _C.isas() if dtype is torch.float32 and shape == () and not record else _C.isas()[-1:]:
            _C.set_isa(isa)
            try:
                got = run_all(cpu.BACKEND, neuron, config, tensors, record)
            finally:
                _C.set_isa(_C.isas()[-1])
            assert_same(got[0], want[0], exact=kind not in EXPONENTIAL)
            assert_close(got[1], want[1], (2e-5 if dtype is torch.float32 else 1e-10))


@pytest.mark.parametrize(
    "kind",
    ["lif_detached", "lif_ex", "adex", "lsnn_detached", "izhikevich", "refrac_detached", "adex_refrac"],
    ids=str,
)
def test_recurrent_steps_equal_the_reference(kind: str) -> None:
    neuron = next(ALL[name] for name, kinds in KINDS.items() if kind in kinds)
    torch.manual_seed(0)
    config = NorseConfig(kind, True, SUPER, time_dim=STEP)
    x = torch.randn(3, 37)
    first = [torch.randn(3, 37) * 0.5 for _ in neuron.states(config)]
    tensors = [x, *first, *parameters(neuron, config, (37,), torch.float32)[:-1], torch.randn(3, 37)]
    got = run_all(cpu.BACKEND, neuron, config, tensors, False)
    want = run_all(reference.BACKEND, neuron, config, tensors, False)
    assert_same(got[0], want[0], exact=kind not in EXPONENTIAL)
    assert_close(got[1], want[1], 2e-5)
