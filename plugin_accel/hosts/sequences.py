"""Whole sequences of a layer that its framework calls once per time step: what a host offers to time fusion.

snnTorch's neurons and Norse's cells are called step by step, by a loop of the user's own. A host that can run such a
layer over all steps at once has a function ``sequence`` in its implementation module::

    sequence(module, x, states, *, record) -> SequenceResult

and `FrameworkHost.sequence(module)` hands it out, ``None`` for a layer that has none. It gives exactly what calling
``module`` once per step would have given, or raises `Refused` before anything ran or changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from plugin_accel.errors import Refused

__all__ = ["Refused", "SequenceFunction", "SequenceResult"]


class SequenceResult(NamedTuple):
    """What the calls of all steps would have returned.

    Attributes:
        outputs: Each thing that one call returns, in its order (spikes, then states), stacked over time: [T, ...]. A
            call that returns one tensor gives one entry. None where a state was not recorded.
        last: The states after the last step, in the order of the layer's explicit state arguments; real tensors.
    """

    outputs: tuple[Tensor | None, ...]
    last: tuple[Tensor, ...]


class SequenceFunction(Protocol):
    """Runs a layer over a sequence."""

    def __call__(
        self, module: nn.Module, x: Tensor, states: Sequence[Tensor | None], *, record: Sequence[bool]
    ) -> SequenceResult:
        """Runs ``module`` over all steps of ``x``.

        Buffers of the module that hold states end up as after the last call.

        Args:
            module: The layer, converted.
            x: Input of all steps, [T, *shape of one call's input]; of any strides. A time stride of 0 (one input,
                expanded over time) is read where it lies.
            states: The explicit state arguments of the first call, one per argument of the layer's ``forward`` after
                the input. None: not passed, so that the layer continues from its buffers, as the host does.
            record: For each state that a call returns (after the spikes), whether it is needed of every step.

        Raises:
            Refused: The host's own calls must run, for the reason given. Nothing has been changed.
        """
        ...
