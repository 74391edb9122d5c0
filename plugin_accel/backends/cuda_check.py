"""One small call on a GPU that was never used before, compared with the `cpu` backend to the last bit.

It costs some milliseconds in the life of a process, and keeps a GPU, driver or compiler that does something unforeseen
from giving wrong numbers: the host's own forward runs then, with the reason.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from plugin_accel.backends.cpu import BACKEND as CPU
from plugin_accel.neurons import SINABS_LIF, Incoming, Kernels, Saved, SinabsConfig, Wanted
from plugin_accel.surrogates import Surrogate

_CONFIG = SinabsConfig(spike="single", surrogate=Surrogate("heaviside", (0.3,)))  # no exp: the same everywhere
_PARAMS = (0.875, 0.75, 0.5)  # alpha_mem, gain_mem, threshold


def _call(backend: Kernels, device: torch.device) -> list[Tensor]:
    """Outputs and gradients of a LIF that fires now and then, over steps that do not fill the last chunk."""
    x = torch.arange(2 * 19 * 5, dtype=torch.float32, device="cpu").mul(0.37).sin().reshape(2, 19, 5).to(device)
    first = [torch.zeros(2, 5, dtype=torch.float32, device=device)]
    params = [torch.tensor(v, dtype=torch.float32, device=device) for v in _PARAMS]
    result = backend.forward(SINABS_LIF, _CONFIG, x, first, params, keep=True, record=False)
    assert result.kept is not None
    assert result.mean is not None
    saved = Saved(x, result.kept, tuple(first), tuple(params))
    incoming = Incoming(x, None, (None,), None, ())
    wanted = Wanted(True, (True,), (False, False, False))
    g = backend.backward(SINABS_LIF, _CONFIG, saved, incoming, wanted, None)
    return [result.out, result.mean, result.kept, *result.last, *(t for t in (g.x, *g.first) if t is not None)]


def check(backend: Kernels, device: torch.device) -> str | None:
    """What is wrong with a backend on a device; None if its numbers are those of the `cpu` backend.

    Raises:
        BackendError: it cannot compile, load or launch.
    """
    # In a thread of its own, whatever modes this one is in: the first use may be one that torch.compile traces.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_compare, backend, device).result()


@torch.no_grad()
def _compare(backend: Kernels, device: torch.device) -> str | None:
    expected = _call(CPU, torch.device("cpu"))
    for a, b in zip(_call(backend, device), expected, strict=True):
        if not torch.equal(a.cpu(), b):
            return (
                f"expected the numbers of the cpu backend on {device}, got others; please report it with what "
                "`plugin-accel info` prints"
            )
    return None
