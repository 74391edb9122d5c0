"""One of two processes of test_egru_torch.py: python egru_rank.py RANK FOLDER."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from plugin_accel.layers import EGRU


def gradients(model: nn.Module, layer: EGRU, x: Tensor) -> dict[str, Tensor]:
    layer.zero_grad()
    model(x)[0].square().mean().backward()
    return {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        torch.manual_seed(0)
        layer = EGRU(3, 8, num_layers=2, weight_initialization_gain=2.0)
        x = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(rank))
        seen = {"alone": gradients(layer, layer, x)}
        seen["together"] = gradients(DistributedDataParallel(layer), layer, x)
        assert len(seen["together"]) == 10
        torch.save(seen, folder / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
