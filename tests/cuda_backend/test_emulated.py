"""The CUDA kernels' own sources, run on the host, give what the `cpu` backend gives: bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from plugin_accel.backends import Backend, cpu, cuda, cuda_step
from plugin_accel.backends.cuda import CudaBackend
from plugin_accel.backends.cuda_run import static
from plugin_accel.backends.cuda_source import FROM_INPUT, NO_REPLAY, ON_CHIP, Backward
from plugin_accel.neurons import Config, run_unchecked
from plugin_accel.neurons.layout import STEP
from plugin_accel.surrogates import Surrogate

from .cases import CASES, LIF, SURROGATES, Case
from .comparison import BOTH, INNER, OUTER, assert_same, param, results
from .emulated import COMPILER, EmulatedDevice

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to emulate with"),
    pytest.mark.usefixtures("baseline"),
]

# (outer, time, inner): odd, single, without steps, narrow with many samples, chunks that end within and at their end
SIZES = [(3, 37, 31), (1, 7, 1), (2, 0, 5), (1, 1, 33), (150, 9, 2), (2, 32, 8), (0, 4, 3), (1, 64, 130)]


@pytest.fixture(scope="module")
def narrow(folder: Path) -> CudaBackend:
    """One column per thread."""
    return CudaBackend(EmulatedDevice(folder))


@pytest.fixture(scope="module")
def wide(folder: Path) -> CudaBackend:
    """Four columns per thread wherever that is possible."""
    return CudaBackend(EmulatedDevice(folder, threads=1))


def compare(
    backend: CudaBackend,
    case: Case,
    size: tuple[int, int, int],
    *,
    per: str | None = None,
    dtype: torch.dtype = torch.float32,
    record: bool = True,
    learn: bool | tuple[str, ...] = True,
    summed: bool = False,
    x: Tensor | None = None,
    surrogate_fn: object = None,
    sums: bool = False,
) -> None:
    outer, time, inner = size
    torch.manual_seed(outer * 1000 + time * 10 + inner)
    neuron, config = case.neuron, case.config
    if config.time_dim == 0:
        batch: tuple[int, ...] = ()
        shape, neurons = (time, outer, inner), (outer, inner)
    else:
        batch, shape, neurons = (outer,), (outer, time, inner), (inner,)
    if x is None:
        x = torch.randn(shape, dtype=dtype) * 1.5 + 0.3
    first = [torch.randn(*batch, *neurons, dtype=dtype) for _ in neuron.states(config)]
    first = [
        s.abs() if n == "b" else s for n, s in zip(neuron.states(config), first, strict=True)
    ]  # thresholds above 0
    params = [param(n, None if n == "tau" else per, batch, neurons, dtype) for n in neuron.params(config)]
    options = {"record": record, "learn": learn, "summed": summed, "surrogate_fn": surrogate_fn}
    given = x.float() if x.itemsize == 2 else x
    wanted = results(neuron, cpu.BACKEND, config, given, first, params, **options)  # type: ignore[arg-type]
    got = results(neuron, backend, config, x, first, params, **options)  # type: ignore[arg-type]
    if given is not x:  # the gradient is rounded once, here by torch where it comes in fp32
        wanted["g x"] = wanted["g x"].to(x.dtype)  # type: ignore[union-attr]
    shared = [f"g {n}" for n, p in zip(neuron.params(config), params, strict=True) if p.numel() == 1 or per == OUTER]
    assert_same(got, wanted, [*shared, *(["mean"] if config.surrogate is None or sums else [])])


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_every_neuron_on_awkward_sizes(narrow: CudaBackend, case: Case) -> None:
    for size in SIZES:
        if size[1] or case.config.time_dim:  # the host of time-first layers refuses to do nothing
            compare(narrow, case, size)


@pytest.mark.parametrize("per", [OUTER, INNER, BOTH])
def test_parameters_that_vary(narrow: CudaBackend, per: str) -> None:
    for case in (CASES[1], CASES[6]):
        if case.config.time_dim or per == INNER:
            for size in ((3, 11, 5), (1, 8, 1), (40, 3, 3)):
                compare(narrow, case, size, per=per)


def test_four_columns_per_thread(wide: CudaBackend) -> None:
    for case in (LIF, CASES[6]):
        for size in ((2, 37, 32), (1, 4, 4), (300, 5, 4), (1, 64, 130), (2, 1, 12)):
            compare(wide, case, size)
    forward, backward = ([s for s in wide.runner._kernels if s[0].call.startswith(k)] for k in ("Forw", "Backw"))
    assert {s.width for s, _ in forward} == {s.width for s, _ in backward} == {1, 4}  # type: ignore[attr-defined]


def test_four_columns_want_aligned_memory(wide: CudaBackend) -> None:
    base = torch.randn(2 * 5 * 8 + 1)
    compare(wide, LIF, (2, 5, 8), x=base[1:].view(2, 5, 8))
    odd = torch.randn(2, 5, 10)[:, :, :8]
    compare(wide, LIF, (2, 5, 8), x=odd)


def test_a_plan_serves_other_tensors_of_the_same_shape(folder: Path) -> None:
    """Memory that is not aligned takes the same plan another way; other strides, options or wishes make another."""
    backend = CudaBackend(EmulatedDevice(folder, threads=1))
    odd = torch.randn(2 * 5 * 8 + 1)[1:].view(2, 5, 8)
    for x in (torch.randn(2, 5, 8), odd, torch.randn(2, 5, 8)):
        compare(backend, LIF, (2, 5, 8), x=x)
    plans = [*backend._forward.values(), *backend._backward.values()]
    assert [sorted(plan._ways) for plan in plans] == [[1, 4], [1]]
    compare(backend, LIF, (2, 5, 8), x=torch.randn(2, 8, 5).transpose(1, 2))
    compare(backend, LIF, (2, 5, 8), learn=False)
    compare(backend, LIF, (2, 5, 8), per=INNER)
    compare(backend, LIF, (2, 5, 8), dtype=torch.float64)
    assert len(backend._forward) == 4
    assert len(backend._backward) == 5


def test_plans_are_not_kept_for_ever(narrow: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_MOST_PLANS", 2)
    for time in range(1, 5):
        compare(narrow, LIF, (1, time, 3))
    assert len(narrow._forward) <= 2
    assert len(narrow._backward) <= 2


@pytest.mark.parametrize("backend", ["narrow", "wide"])
def test_strides(backend: str, request: pytest.FixtureRequest) -> None:
    device: CudaBackend = request.getfixturevalue(backend)
    constant = torch.randn(3, 1, 16).expand(3, 19, 16)
    compare(device, LIF, (3, 19, 16), x=constant)
    compare(device, LIF, (3, 19, 16), x=torch.randn(3, 16, 19).transpose(1, 2))
    compare(device, LIF, (3, 19, 16), x=torch.randn(3, 19, 1).expand(3, 19, 16))
    compare(device, LIF, (3, 19, 16), summed=True, record=False)


@pytest.mark.parametrize("case", [LIF, CASES[5], CASES[6]], ids=lambda c: c.name)
def test_a_constant_input_has_its_gradient_summed(narrow: CudaBackend, case: Case) -> None:
    def gradient(backend: Backend) -> Tensor:
        torch.manual_seed(3)
        neuron, config = case.neuron, case.config
        leaf = torch.randn(3, 17, requires_grad=True)
        states = neuron.states(config)
        first = [torch.rand(3, 17) for _ in states]
        params = [param(n, None, (3,), (17,), leaf.dtype) for n in neuron.params(config)]
        x = (leaf * 1.0).unsqueeze(config.time_dim)
        shape = [*x.shape]
        shape[config.time_dim] = 45
        result = run_unchecked(neuron, backend, config, x.expand(shape), first, params)
        (result.out * torch.randn(result.out.shape)).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    assert torch.equal(gradient(narrow), gradient(cpu.BACKEND))


def test_the_trial_before_first_use_passes(narrow: CudaBackend) -> None:
    assert narrow.refuses(LIF.neuron.name, torch.device("cpu"), torch.float32) is None


def test_the_trial_does_not_mind_what_the_first_use_is_within(folder: Path) -> None:
    """torch.compile traces with fake tensors; a default dtype or inference mode of the user's changes nothing."""

    def why() -> str | None:
        return CudaBackend(EmulatedDevice(folder)).refuses(LIF.neuron.name, torch.device("cpu"), torch.float32)

    with FakeTensorMode():
        assert why() is None
    with torch.inference_mode(), torch.device("meta"):
        assert why() is None
    torch.set_default_dtype(torch.float64)
    try:
        assert why() is None
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_trial_waits_for_when_it_can_be_made(folder: Path) -> None:
    """While a graph is captured nothing can be compared: the kernels are used, and tried at the next occasion."""
    device = EmulatedDevice(folder)
    backend = CudaBackend(device)
    tried: list[bool] = []
    for possible in (False, True, True):
        device.holds_data = lambda _, now=possible: tried.append(now) or now  # type: ignore[method-assign, misc]
        assert backend.refuses(LIF.neuron.name, torch.device("cpu"), torch.float32) is None
    assert tried == [False, True]


def test_channels_last_is_not_copied(narrow: CudaBackend) -> None:
    x = torch.randn(2, 6, 3, 4, 5).permute(0, 1, 4, 2, 3)
    config = LIF.config
    first, params = [torch.randn(2, 5, 3, 4)], [torch.tensor(v) for v in (0.9, 1.0, 0.8)]
    wanted = results(LIF.neuron, cpu.BACKEND, config, x, first, params, record=True, learn=False, summed=False)
    got = results(LIF.neuron, narrow, config, x, first, params, record=True, learn=False, summed=False)
    assert_same(got, wanted)
    assert got["out"].stride() == x.stride()  # type: ignore[union-attr]


@pytest.mark.parametrize("case", [CASES[2], CASES[5], CASES[8]], ids=lambda c: c.name)
def test_double(narrow: CudaBackend, case: Case) -> None:
    for size in ((3, 37, 31), (1, 8, 4)):
        compare(narrow, case, size, dtype=torch.float64)


def _with(config: Config, surrogate: Surrogate | None) -> Config:
    return dataclasses.replace(config, surrogate=surrogate)  # type: ignore[type-var]


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.name)
def test_every_surrogate(narrow: CudaBackend, surrogate: Surrogate) -> None:
    compare(narrow, LIF._replace(config=_with(LIF.config, surrogate)), (2, 21, 16), learn=False)


@pytest.mark.parametrize("case", [LIF, CASES[4]], ids=lambda c: c.name)
def test_any_callable_as_surrogate(narrow: CudaBackend, case: Case) -> None:
    def slope(v: Tensor, threshold: Tensor) -> Tensor:
        return torch.exp(-((v - threshold) ** 2))

    compare(narrow, case._replace(config=_with(case.config, None)), (2, 21, 6), surrogate_fn=slope, learn=("gain_mem",))


def test_single_steps(narrow: CudaBackend) -> None:
    for case in (LIF, CASES[6]._replace(config=dataclasses.replace(CASES[6].config, recurrent=True))):  # type: ignore[type-var]
        neuron, config = case.neuron, dataclasses.replace(case.config, time_dim=STEP)  # type: ignore[type-var]
        x = torch.randn(7, 5)
        first = [torch.randn(7, 5) for _ in neuron.states(config)]
        params = [param(n, BOTH if n == "recurrent" else None, (7,), (5,), x.dtype) for n in neuron.params(config)]
        options = {"record": False, "learn": True, "summed": False}
        wanted = results(neuron, cpu.BACKEND, config, x, first, params, **options)  # type: ignore[arg-type]
        got = results(neuron, narrow, config, x, first, params, **options)  # type: ignore[arg-type]
        assert_same(got, wanted, [f"g {n}" for n, p in zip(neuron.params(config), params, strict=True) if not p.dim()])


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_the_input_alone_is_kept(narrow: CudaBackend, wide: CudaBackend, case: Case) -> None:
    """Of 16 bits, or where backward reads it anyway: the whole step runs forward again.

    Of few steps the membranes stay on the chip, where they are all that backward needs.
    """
    low = torch.bfloat16 if CASES.index(case) % 2 else torch.float16
    for backend, size, dtype, learn in (
        (narrow, (3, 37, 31), low, True),
        (narrow, (1, 1, 33), low, True),
        (narrow, (3, 37, 31), torch.float32, True),
        (wide, (2, 101, 32), low, True),
        (wide, (150, 9, 2), low, True),
        (wide, (1, 37, 32), low, False),
    ):
        shape = (size[1], size[0], size[2]) if case.config.time_dim == 0 else size
        x = (torch.randn(shape) * 1.5 + 0.3).to(dtype)
        compare(backend, case, size, x=x, learn=learn, record=False)
    step = static(case.neuron, case.config, torch.float32).step
    back = [s for s, _ in wide.runner._kernels if isinstance(s, Backward) and s.step == step]
    ways = {(s.replay, s.width) for s in back if s.x is low}
    assert (FROM_INPUT, 2 if step.states <= 2 else 1) in ways
    assert ((ON_CHIP, 2) in ways) is not case.neuron.replays(case.config)


@pytest.mark.parametrize("time", [1, 8, 40, 41, 80, 81])
def test_large_sequences_of_few_steps(folder: Path, time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_step, "LARGE", 2 * time * 64)
    backend = CudaBackend(EmulatedDevice(folder, threads=1))
    compare(backend, LIF, (2, time, 64), learn=False, record=False)
    (back,) = {s for s, _ in backend.runner._kernels if isinstance(s, Backward)}
    if time == 81:
        assert (back.replay, back.width) == (NO_REPLAY, 4)
    else:
        assert (back.replay, back.width, back.steps) == (ON_CHIP, 2 if time <= 40 else 1, -(-time // 8) * 8)
    backend = CudaBackend(EmulatedDevice(folder, threads=1))
    compare(backend, LIF, (1, time, 64), learn=False, record=False)
    assert {s.replay for s, _ in backend.runner._kernels if isinstance(s, Backward)} == {NO_REPLAY}


@pytest.mark.parametrize("threshold", [1.0, 0.3, 1e-40, 3e38, 0.0, -0.5, float("inf"), float("nan")])
def test_several_spikes_in_a_step_of_any_size(narrow: CudaBackend, threshold: float) -> None:
    """The same to the last bit, signs of zeros included."""
    sizes = torch.tensor([0.0, 1e-45, 1e-40, 0.3, 0.5, 1.0, 2.0, 3.0, 7.5, 1e6, 2e19, 3e38, 3.4e38, float("inf")])
    x = torch.cat((sizes, -sizes, torch.tensor([float("nan")]), torch.nextafter(sizes, torch.zeros(())))).view(1, 1, -1)
    given = ([torch.zeros(1, x.shape[2])], [torch.tensor(v) for v in (0.5, 1.0, threshold)])
    wanted, got = [b.forward(LIF.neuron, LIF.config, x, *given, keep=True, record=False) for b in (cpu.BACKEND, narrow)]
    for expected, found in ((wanted.out, got.out), (wanted.kept, got.kept), (wanted.last[0], got.last[0])):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(found.nan_to_num().signbit(), expected.nan_to_num().signbit())


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["narrow", "wide"])
def test_input_of_16_bits(backend: str, low: torch.dtype, request: pytest.FixtureRequest) -> None:
    """It is read as it is, computed with in fp32, and its gradient rounded once."""
    device: CudaBackend = request.getfixturevalue(backend)
    x = (torch.randn(3, 19, 16) * 2).to(low)
    x[0, 0, :4] = torch.tensor([float("inf"), float("nan"), 65504.0, 1e-7]).to(low)
    first, params = [torch.randn(3, 16)], [torch.tensor(v) for v in (0.9, 0.5, 0.8)]
    options = {"record": True, "learn": True, "summed": False}
    wanted = results(LIF.neuron, cpu.BACKEND, LIF.config, x.float(), first, params, **options)  # type: ignore[arg-type]
    got = results(LIF.neuron, device, LIF.config, x, first, params, **options)  # type: ignore[arg-type]
    wanted["g x"] = wanted["g x"].to(low)  # type: ignore[union-attr]
    assert_same(got, wanted, [f"g {n}" for n in LIF.neuron.params(LIF.config)])


def test_only_wanted_gradients_are_computed(narrow: CudaBackend) -> None:
    before = len(narrow.runner._kernels)
    compare(narrow, LIF, (2, 9, 4), learn=("threshold",))
    compare(narrow, LIF, (2, 9, 4), learn=False, record=False)
    masks = {s.mask for s, _ in list(narrow.runner._kernels)[before:] if hasattr(s, "mask")}
    assert 1 << 3 in masks


def test_sums_do_not_depend_on_what_ran_before(narrow: CudaBackend) -> None:
    def gradients() -> list[Tensor | None]:
        torch.manual_seed(0)
        x, first = torch.randn(5, 40, 333), [torch.zeros(5, 333)]
        params = [torch.tensor(v) for v in (0.9, 0.5, 0.8)]
        found = results(LIF.neuron, narrow, LIF.config, x, first, params, record=False, learn=True, summed=False)
        return [found[f"g {n}"] for n in LIF.neuron.params(LIF.config)]

    once, again = gradients(), gradients()
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))  # type: ignore[arg-type]
