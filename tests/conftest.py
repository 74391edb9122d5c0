from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def own_thresholds() -> Iterator[None]:
    """Keeps a test that loads or fills a threshold from changing sinabs's default one for all that come after.

    Layers made without a threshold alias one tensor per signature, a quirk of sinabs.
    """
    yield
    if "sinabs" not in sys.modules:
        return
    import inspect

    import sinabs.layers as sl
    import torch

    with torch.no_grad():
        for cls in vars(sl).values():
            if isinstance(cls, type) and issubclass(cls, sl.StatefulLayer):
                default = inspect.signature(cls.__init__).parameters.get("spike_threshold")
                if default is not None and isinstance(default.default, torch.Tensor):
                    default.default.fill_(1.0)
