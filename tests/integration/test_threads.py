"""Threads, instruction sets and forks: the numbers do not depend on them, and nothing hangs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import sinabs.activation as sa
import sinabs.layers as sl
import torch

import plugin_accel
from plugin_accel import _C

from .networks import assert_accelerated, assert_equal

THREADS = (1, 2, 3)
# Enough neuron steps that the kernels take a second thread.
CASES = {
    "LIF": lambda: sl.LIF(tau_mem=20.0, min_v_mem=-1.0, record_states=True),
    "LIF-synapse": lambda: sl.LIF(tau_mem=torch.linspace(3, 30, 500), tau_syn=5.0, surrogate_grad_fn=sa.Gaussian()),
    "LIF-multi-gaussian": lambda: sl.LIF(tau_mem=9.0, train_alphas=True, surrogate_grad_fn=sa.MultiGaussian()),
    "LIF-periodic": lambda: sl.LIF(tau_mem=9.0, norm_input=False, surrogate_grad_fn=sa.PeriodicExponential()),
    "IAF": lambda: sl.IAF(spike_fn=sa.SingleSpike, reset_fn=sa.MembraneReset(0.1)),
    "ExpLeak": lambda: sl.ExpLeak(tau_mem=10.0),
    "ALIF": lambda: sl.ALIF(tau_mem=9.0, tau_adapt=30.0, tau_syn=4.0, adapt_scale=0.5, record_states=True),
}


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    threads, isa = torch.get_num_threads(), _C.isa()
    yield
    torch.set_num_threads(threads)
    _C.set_isa(isa)


def _run(name: str, shape: tuple[int, ...] = (8, 67, 500)) -> dict[str, list[torch.Tensor]]:
    """Two carried calls: outputs, states and the gradients of inputs, taus or alphas, threshold and bound."""
    layer = plugin_accel.convert(CASES[name]())
    for parameter in layer.parameters():
        parameter.requires_grad_()
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(shape, generator=generator).mul_(2).requires_grad_() for _ in range(2)]
    outputs = [layer(x) for x in inputs]
    states = [*layer._buffers.values(), *layer.recordings.values(), layer.firing_rate]
    weights = [torch.randn(t.shape, generator=generator) for t in (*outputs, *states)]
    loss = [(t * w).double().sum() for t, w in zip((*outputs, *states), weights, strict=True)]
    torch.stack(loss).sum().backward()
    assert_accelerated(layer)
    grads = [p.grad for p in (*inputs, *layer.parameters()) if p.grad is not None]
    assert len(grads) >= 2
    return {"outputs": outputs, "states": [s.detach() for s in states], "gradients": grads}


@pytest.mark.parametrize("name", CASES)
def test_results_do_not_depend_on_the_number_of_threads(name: str) -> None:
    for shape in ((8, 67, 500), (500, 67, 8), (1, 70, 4001), (1, 4001, 70)):
        if shape[-1] != 500 and name == "LIF-synapse":
            continue  # its time constants are for 500 neurons
        torch.set_num_threads(1)
        want = _run(name, shape)
        for threads in THREADS[1:]:
            torch.set_num_threads(threads)
            assert_equal(_run(name, shape), want)


@pytest.mark.parametrize("name", CASES)
def test_results_do_not_depend_on_the_instruction_set(name: str) -> None:
    """Outputs and states never; gradients where surrogates use fused multiply-add, as from AVX2 on."""
    assert _C.isa() == _C.isas()[-1]
    want = _run(name)
    for isa in _C.isas():
        _C.set_isa(isa)
        # a last bit of the surrogate; sums over whole sequences in which terms cancel show some more
        assert_equal(_run(name), want, 5e-6 if isa == "baseline" else 0.0)


SETUP = """
import hashlib, os, signal, sys, time
import torch, sinabs.layers as sl, plugin_accel
torch.set_num_threads(THREADS)
# made before any fork: in a forked child torch's own parallel operations hang
x = torch.rand(8, 100, 400, generator=torch.Generator().manual_seed(0)).mul_(20)
g = torch.ones(8, 100, 400)
def run():
    layer = plugin_accel.convert(sl.LIF(tau_mem=9.0, tau_syn=5.0))
    own = x.detach().requires_grad_()
    out = layer(own)
    out.backward(g)
    return [hashlib.sha256(t.detach().numpy().tobytes()).digest() for t in (out, own.grad, layer.tau_mem.grad)]
"""


def _run_script(script: str, threads: int = 2) -> str:
    program = SETUP.replace("THREADS", str(threads)) + script
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_share_the_threads_of_torch(threads: int) -> None:
    """One pool, not two: what torch has started is enough."""
    script = """
before = len(os.listdir("/proc/self/task"))
run()
print(len(os.listdir("/proc/self/task")) - before)
"""
    assert int(_run_script(script, threads)) == 0


def test_a_forked_child_runs_after_its_parent_used_threads() -> None:
    script = """
want = run()
for generation in range(2):  # a child, and a child of the child
    child = os.fork()
    if child:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                os._exit(os.waitstatus_to_exitcode(status))
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os._exit(3)
    if run() != want:
        os._exit(4)
os._exit(0)
"""
    _run_script(script)


def test_workers_of_a_data_loader_run_layers() -> None:
    script = """
want = run()
class Encoded(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        return run() == want
loader = torch.utils.data.DataLoader(Encoded(), batch_size=2, num_workers=2, timeout=60, multiprocessing_context="fork")
for _ in range(2):
    for batch in loader:
        assert batch.all()
    assert run() == want
"""
    _run_script(script)
