"""What a layer keeps for backward, and the recycled memory that results live in."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sinabs.layers as sl
import torch
from torch import Tensor

import plugin_accel
from plugin_accel import _C
from plugin_accel.backends.cpu_memory import granted_bytes

SHAPE = (8, 100, 256)
STEPS = 8 * 100 * 256
STATE_BYTES = 4 * 8 * 256


@pytest.fixture(autouse=True)
def _empty_pool() -> Iterator[None]:
    plugin_accel.empty_cache()
    yield
    plugin_accel.empty_cache()


def _saved(layer: Any, x: Tensor) -> tuple[Tensor, int]:
    """The output, and the bytes of the distinct memory that is saved for backward beyond input and output."""
    saved: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = layer(x)
    for t in (x, out):
        saved.pop(t.untyped_storage().data_ptr(), None)
    return out, sum(saved.values())


LAYERS: dict[str, Callable[[], Any]] = {
    "LIF": lambda: sl.LIF(tau_mem=20.0),
    "LIF-synapse": lambda: sl.LIF(tau_mem=20.0, tau_syn=5.0),
    "LIF-record": lambda: sl.LIF(tau_mem=20.0, record_states=True),
    "IAF": lambda: sl.IAF(min_v_mem=-1.0),
    "ExpLeak": lambda: sl.ExpLeak(tau_mem=20.0),
    "ALIF": lambda: sl.ALIF(tau_mem=20.0, tau_adapt=20.0, tau_syn=4.0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_four_bytes_per_step_are_kept_for_backward(name: str) -> None:
    """The membrane before the reset; besides, states and parameters, which have no time."""
    layer = plugin_accel.convert(LAYERS[name]())
    for _ in range(2):
        out, saved = _saved(layer, torch.randn(SHAPE, requires_grad=True))
        assert 4 * STEPS <= saved <= 4 * STEPS + 3 * STATE_BYTES + 256
    assert out.requires_grad


def test_nothing_else_is_made() -> None:
    """Beyond what is saved: output, states, and a workspace that is given back."""
    layer = plugin_accel.convert(sl.LIF(tau_mem=20.0))
    x = torch.randn(SHAPE, requires_grad=True)
    before = _C.pool_used_bytes()
    out = layer(x)
    used = _C.pool_used_bytes() - before
    assert 2 * 4 * STEPS <= used <= 2 * 4 * STEPS * 9 / 8 + 2 * STATE_BYTES + 2**16
    out.sum().backward()
    del out
    layer.reset_states()
    assert _C.pool_used_bytes() - before <= 4 * STEPS * 9 / 8 + STATE_BYTES + 2**16  # x.grad
    x.grad = layer.v_mem = None
    assert _C.pool_used_bytes() == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", LAYERS)
def test_inference_keeps_nothing(name: str, mode: Callable[[], Any]) -> None:
    layer = plugin_accel.convert(LAYERS[name]())
    before = _C.pool_used_bytes()
    with mode():
        out, saved = _saved(layer, torch.randn(SHAPE, requires_grad=True))
    assert saved == 0 and not out.requires_grad
    recorded = len(layer.recordings)
    states = len(layer._buffers)
    most = (1 + recorded) * 4 * STEPS * 9 / 8 + states * (STATE_BYTES + 2**16)
    assert _C.pool_used_bytes() - before <= most


def test_frozen_parameters_and_input_keep_nothing() -> None:
    layer = plugin_accel.convert(sl.LIF(tau_mem=20.0))
    layer.tau_mem.requires_grad_(False)
    out, saved = _saved(layer, torch.randn(SHAPE))
    assert saved == 0 and not out.requires_grad


def test_memory_is_recycled_and_given_back() -> None:
    layer = plugin_accel.convert(sl.IAF())
    x = torch.randn(SHAPE)
    with torch.no_grad():
        first = layer(x)
        address = first.data_ptr()
        del first
        assert _C.pool_kept_bytes() >= 4 * STEPS
        layer.reset_states()
        again = layer(x)
        assert again.data_ptr() == address
        del again
    plugin_accel.empty_cache()
    assert _C.pool_kept_bytes() == 0


def test_results_outlive_the_cache() -> None:
    layer = plugin_accel.convert(sl.LIF(tau_mem=20.0))
    x = torch.randn(SHAPE, requires_grad=True)
    out = layer(x)
    values = out.detach().clone()
    plugin_accel.empty_cache()
    others = [torch.full(SHAPE, 7.0) for _ in range(3)]
    assert torch.equal(out, values)
    out.sum().backward()
    view = out.detach()[0, 3]
    del out, others
    plugin_accel.empty_cache()
    plugin_accel.convert(sl.IAF())(torch.randn(SHAPE))
    assert torch.equal(view, values[0, 3])


def test_results_are_ordinary_tensors() -> None:
    layer = plugin_accel.convert(sl.LIF(tau_mem=20.0))
    out = layer(torch.randn(4, 50, 40000)).detach()
    assert out.is_contiguous() and out.untyped_storage().nbytes() == 4 * out.numel()
    assert torch.equal(copy.deepcopy(out), out)
    assert torch.equal(pickle.loads(pickle.dumps(out)), out)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    assert torch.equal(torch.load(file)["v_mem"], layer.v_mem)
    assert torch.equal(torch.from_numpy(out.numpy()), out)
    assert out.share_memory_().is_shared()
    assert out.add_(1).min() >= 1
    assert layer.v_mem._base is None and layer.v_mem.untyped_storage().nbytes() == 4 * layer.v_mem.numel()


@pytest.mark.parametrize(("megabytes", "kept"), [("0", 0), ("1", 1 << 20), (None, 4 * STEPS)])
def test_the_bound_of_the_pool(megabytes: str | None, kept: int) -> None:
    script = f"""
import torch, sinabs.layers as sl, plugin_accel
from plugin_accel import _C
from plugin_accel.backends.cpu_memory import granted_bytes
layer = plugin_accel.convert(sl.IAF())
with torch.no_grad():
    layer(torch.randn{SHAPE})
print(_C.pool_kept_bytes())
"""
    made = _python(script, megabytes)
    assert made.returncode == 0, made.stderr
    bytes_kept = int(made.stdout)
    assert bytes_kept >= kept if megabytes is None else bytes_kept <= kept


def test_a_bound_that_is_none() -> None:
    made = _python("import plugin_accel.backends.cpu", "many")
    assert made.returncode == 1
    assert "PLUGIN_ACCEL_POOL_MB: expected a whole number of megabytes, got 'many'" in made.stderr


def _python(script: str, megabytes: str | None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PLUGIN_ACCEL_POOL_MB"}
    if megabytes is not None:
        environment["PLUGIN_ACCEL_POOL_MB"] = megabytes
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "4096"}, 4096),
        ("0::/\n", {"memory.max": "max"}, None),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "8192", "memory.max": "9000"}, 8192),
        ("0::/elsewhere/b\n", {"memory.max": "4096"}, 4096),  # as a container sees the path outside of it
        ("4:cpu,memory:/job\n0::/\n", {"memory/job/memory.limit_in_bytes": "4096"}, 4096),
        ("4:cpuset:/job\n", {"memory/job/memory.limit_in_bytes": "4096"}, None),
        ("nonsense", {}, None),
        (None, {}, None),
    ],
)
def test_what_a_container_grants(
    groups: str | None, files: dict[str, str], expected: int | None, tmp_path: Path
) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    own = tmp_path / "self"
    if groups is not None:
        own.write_text(groups)
    assert granted_bytes(own, root) == expected
