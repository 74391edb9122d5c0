"""Fixtures of the integration tests; the networks themselves are in networks.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from .networks import NETWORKS, Factory


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Factory:
    """Makes a network; the same weights at every call."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        return NETWORKS[request.param]()

    return make


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    """Compiled code of one test is not met by the next."""
    yield
    torch.compiler.reset()
