from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where the compiler cannot read the layers they are called between its graphs: test_compile_apart.py."""
    if item.get_closest_marker("one_graph"):
        from plugin_accel.hosts.compiled import READS_LAYERS

        if not READS_LAYERS:
            pytest.skip("torch.compile before torch 2.13 cannot read converted layers")


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
