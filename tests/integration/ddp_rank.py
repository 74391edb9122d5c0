"""One of two processes of test_distributed.py: python ddp_rank.py RANK FOLDER."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import sinabs.layers as sl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import plugin_accel


def make() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 7),
        sl.LIF(tau_mem=20.0, tau_syn=5.0, norm_input=False),
        nn.Linear(7, 7),
        sl.ALIF(tau_mem=9.0, tau_adapt=20.0, norm_input=False),
        nn.Linear(7, 4),
        sl.ExpLeak(tau_mem=torch.linspace(3, 9, 4)),
    )


def train(model: nn.Module, rank: int) -> dict[str, list[Tensor]]:
    """Twice: two calls with carried state, and their gradients. Weights stay: they would carry rounding on."""
    parallel = DistributedDataParallel(model)
    generator = torch.Generator().manual_seed(rank)
    seen: dict[str, list[Tensor]] = {"outputs": [], "states": [], "gradients": []}
    for _ in range(2):
        for layer in model:
            if isinstance(layer, sl.StatefulLayer):
                layer.reset_states()
        parallel.zero_grad()
        outputs = []
        with parallel.no_sync():
            outputs.append(parallel(torch.randn(2, 5, 6, generator=generator) * 6))
        outputs.append(parallel(torch.randn(2, 5, 6, generator=generator) * 6))
        torch.stack([o.square().mean() for o in outputs]).sum().backward()
        seen["outputs"] += [o.detach() for o in outputs]
        seen["states"] += [b.detach().clone() for b in model.buffers()]
        seen["gradients"] += [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return seen


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        result = {"host": train(make(), rank), "converted": train(plugin_accel.convert(make(), strict=True), rank)}
        torch.save(result, folder / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
