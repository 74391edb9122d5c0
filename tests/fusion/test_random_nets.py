"""At least 500 random nets: the fused forward gives what the user's loop gives, in every respect."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import plugin_accel
from plugin_accel.conversion.fusion import engine_of
from tests.fusion.comparison import assert_same, step
from tests.fusion.nets import build, data, draw_net, forget_instances

NETS, PORTION = 500, 50


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("portion", range(NETS // PORTION))
def test_random_nets(portion: int) -> None:
    fused = Counter[str | None]()
    for seed in range(portion * PORTION, (portion + 1) * PORTION):
        spec = draw_net(seed)
        theirs, mine = build(spec), build(spec)
        plugin_accel.convert(mine, fuse_time=True)
        for call in range(4):
            inputs = [data(spec, call), data(spec, call)]
            note = f"net {seed}, call {call}:\n{spec.source}"
            with torch.set_grad_enabled(spec.grad):
                expected = step(lambda: theirs(inputs[0]), [inputs[0]], [theirs], call)
                found = step(lambda: mine(inputs[1]), [inputs[1]], [mine], call)
            assert_same(found, expected, note)
        engine = engine_of(mine)
        assert engine is not None
        fused[engine.reason] += 1
        forget_instances()
    assert not [reason for reason in fused if reason is not None and reason.startswith("fusion failed")], fused
    # Almost all of them are fused by the last call; those that are not say why.
    assert fused[None] >= 0.9 * PORTION, fused
