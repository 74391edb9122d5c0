"""EGRU's CUDA kernels, run on the host, against the reference in plain torch; what they cost on every architecture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from plugin_accel import plugins
from plugin_accel.backends import cuda_compile
from plugin_accel.backends.cuda import CudaBackend
from plugin_accel.backends.cuda_source import Egru
from plugin_accel.layers import EGRU
from plugin_accel.layers.egru_call import Inputs, Options
from plugin_accel.layers.egru_ops import choose, run

from .egru_shared import CASES, RESULTS, case, differentiate, upstream
from .emulated import COMPILER, EmulatedDevice
from .fake import META, FakeDevice, Plugin
from .kernel_table import ARCHITECTURES, needs_of

MISSING = cuda_compile.missing()
emulated = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to emulate with")


@pytest.fixture(scope="module")
def name(folder: Path) -> Iterator[str]:
    """Of a backend that runs the kernels on the host."""
    backend = CudaBackend(EmulatedDevice(folder))
    backend.name = "emulated"

    plugin = Plugin(backend)
    plugins.manager().register(plugin)
    yield backend.name
    plugins.manager().unregister(plugin)


@emulated
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("shape", [(9, 5, 4, 7), (9, 5, 1, 50)], ids=str)
def test_double_equals_the_reference(shape: tuple[int, int, int, int], options: dict[str, Any], name: str) -> None:
    inputs, rest = case(*shape, **options)
    want, want_grads = differentiate(inputs, rest, "reference")
    got, grads = differentiate(inputs, rest, name)
    assert got.o.equal(want.o)
    assert 0.02 < float(want.o.detach().mean()) < 0.9
    assert got.counts.tolist() == want.counts.tolist()
    for field in RESULTS:
        torch.testing.assert_close(getattr(got, field), getattr(want, field), rtol=1e-11, atol=1e-12)
    for field, g, w in zip(Inputs._fields, grads, want_grads, strict=True):
        assert float(w.abs().max()) > 0, field
        assert float((g - w).abs().max() / w.abs().max()) < 1e-10, field


@emulated
@pytest.mark.parametrize("only", [(r,) for r in RESULTS], ids=str)
def test_losses_on_each_output(only: tuple[str, ...], name: str) -> None:
    inputs, rest = case(12, 3, 4, 20, zoneout=0.2, lengths=[12, 5, 8])
    _, want = differentiate(inputs, rest, "reference", only)
    _, got = differentiate(inputs, rest, name, only)
    for field, g, w in zip(Inputs._fields, got, want, strict=True):
        assert float((g - w).abs().max()) <= 1e-10 * max(float(w.abs().max()), 1e-3), field


@emulated
def test_float32_agrees(name: str) -> None:
    inputs, rest = case(40, 12, 16, 64, dtype=torch.float32, support=2.0)
    wide = Inputs(*(t.detach().double().requires_grad_() for t in inputs))
    wide_rest = rest._replace(dampening=rest.dampening.double(), support=rest.support.double())
    got, want = (
        run(i, r, record=True, backend=b) for i, r, b in ((inputs, rest, name), (wide, wide_rest, "reference"))
    )
    alike = (got.o == want.o).flatten(2).all(2).all(0)
    assert int(alike.sum()) >= 11
    for field in RESULTS[:4]:
        a, b = getattr(got, field)[:, alike], getattr(want, field)[:, alike]
        assert float(((a - b).abs().max() / b.abs().max()).detach()) < 1e-5, field
    weight = torch.randn(got.y.shape, generator=torch.Generator().manual_seed(2)) * alike[None, :, None]
    grads = torch.autograd.grad(sum((t * weight).sum() for t in got[:4]), inputs[:6])  # type: ignore[call-overload]
    wants = torch.autograd.grad(sum((t * weight.double()).sum() for t in want[:4]), wide[:6])  # type: ignore[call-overload]
    for field, g, w in zip(Inputs._fields, grads, wants, strict=False):
        assert float((g - w).abs().max() / w.abs().max()) < 1e-4, field


@emulated
@pytest.mark.parametrize("shape", [(0, 3, 2, 4), (3, 0, 2, 4), (1, 1, 1, 1), (2, 1, 300, 3)], ids=str)
def test_edges(shape: tuple[int, int, int, int], name: str) -> None:
    inputs, rest = case(*shape)
    want, want_grads = differentiate(inputs, rest, "reference")
    result, grads = differentiate(inputs, rest, name)
    assert result.y.shape == want.y.shape
    torch.testing.assert_close(grads, want_grads, rtol=1e-10, atol=1e-12)
    if not shape[0]:
        assert result.h_n.equal(inputs.h)
        assert result.h_n.data_ptr() != inputs.h.data_ptr()


@emulated
def test_what_lies_behind_the_last_step_has_no_influence(name: str) -> None:
    inputs, rest = case(6, 3, 2, 5, lengths=[6, 2, 4])
    x = inputs.x.detach().clone()
    x[2:, 1] = float("nan")
    want = differentiate(inputs, rest, name)
    got = differentiate(inputs._replace(x=x.requires_grad_()), rest, name)
    for a, b in zip((*got[0][:8], *got[1]), (*want[0][:8], *want[1]), strict=True):
        assert a.equal(b)


@emulated
def test_only_what_is_wanted(name: str) -> None:
    """Each gradient alone is the one that comes with all others."""
    inputs, rest = case(5, 3, 2, 6)
    _, every = differentiate(inputs, rest, "reference")
    for i in range(len(inputs)):
        some = Inputs(*(t.detach().requires_grad_(k == i) for k, t in enumerate(inputs)))
        result = run(some, rest, record=True, backend=name)
        _, wanted = differentiate(inputs, rest, name)
        pairs = [(t, g) for t, g in zip(result[:7], _upstream(inputs, rest, name), strict=True) if t.requires_grad]
        (got,) = torch.autograd.grad([t for t, _ in pairs], [some[i]], [g for _, g in pairs])
        torch.testing.assert_close(got, every[i], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(got, wanted[i], rtol=1e-12, atol=1e-13)


def _upstream(inputs: Inputs, rest: Options, name: str) -> list[torch.Tensor]:
    with torch.no_grad():
        return [g for g in upstream(run(inputs, rest, record=True, backend=name)) if g is not None]


@emulated
def test_the_layer_with_all_its_options(name: str) -> None:
    """Dropconnect, zoneout, clipping, lengths and two layers, by the layer's own attribute."""
    layer = EGRU(3, 10, num_layers=2, dropout=0.2, zoneout=0.1, grad_clip=0.05, dtype=torch.float64)
    x = torch.randn(7, 4, 3, dtype=torch.float64)
    found = []
    for backend in ("reference", name):
        torch.manual_seed(0)
        layer.backend = backend
        layer.zero_grad()
        y, (h, o, trace) = layer(x, lengths=[7, 3, 5, 1])
        (y.sum() + h.sin().sum() + o.sum() + trace.sum()).backward()
        found.append([y, h, o, trace, *[p.grad for p in layer.parameters()]])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@emulated
@pytest.mark.parametrize("save", [True, False])
def test_opcheck(save: bool, name: str) -> None:
    inputs, rest = case(4, 3, 2, 5, zoneout=0.2, lengths=[4, 2, 3])
    if not save:
        inputs = Inputs(*(t.detach() for t in inputs))
    torch.library.opcheck(torch.ops.plugin_accel.egru.default, (*inputs, *rest, True, save, name))


def test_one_launch_for_each_step_and_nothing_waits(fake: FakeDevice) -> None:
    """On torch's "meta" device, which gives no value back to Python."""
    found, kernels = choose(META, torch.float32)
    assert found == "fake"
    inputs, rest = case(5, 2, 3, 4, dtype=torch.float32, zoneout=0.1, lengths=[5, 2])
    inputs = Inputs(*(t.detach().to(META) for t in inputs))
    rest = rest._replace(dampening=rest.dampening.to(META), support=rest.support.to(META), mask=rest.mask.to(META))
    result = kernels.forward(inputs, rest, record=True, save=True)
    assert fake.launches == 5
    grads = kernels.backward(inputs, rest, result.saved, result[:7], [True] * len(inputs))
    assert fake.launches == 10
    assert fake.loads == 2 + 1  # and the trial's
    for t, g in zip(inputs, grads, strict=True):
        assert g is not None
        assert (g.shape, g.dtype, g.device) == (t.shape, t.dtype, t.device)


def test_the_layer_on_the_meta_device(fake: FakeDevice) -> None:
    layer = EGRU(3, 8, zoneout=0.1, dropout=0.1, grad_clip=1.0).to(META)
    y, _ = layer(torch.empty(5, 2, 3, device=META))
    y.sum().backward()
    assert y.shape == (5, 2, 8)
    assert all(p.grad is not None and p.grad.is_meta for p in layer.parameters())


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_without_spills(arch: str) -> None:
    for way in ("forward", "backward"):
        for fp64 in (False, True):
            found = needs_of(Egru(None, way, fp64), arch)
            assert found.spilled == found.stack == 0, (way, fp64, found)
