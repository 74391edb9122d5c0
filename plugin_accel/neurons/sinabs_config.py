"""The options of sinabs's neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from plugin_accel.errors import InputError
from plugin_accel.neurons.config import Config
from plugin_accel.surrogates import Surrogate

SPIKES = ("none", "single", "multi")
RESETS = ("subtract_threshold", "subtract", "value")


@dataclass(frozen=True, eq=False)
class SinabsConfig(Config):
    """Static configuration of one call of a sinabs neuron.

    Attributes:
        synapse: The input goes through a decaying synaptic current first.
        spike: "none", "single" (0 or 1) or "multi" (integer part of v / threshold, at most `max_spikes`).
        reset: "subtract_threshold", "subtract" (a value of its own) or "value" (set to it).
        clamp: The membrane is bounded from below after spike and reset.
        max_spikes: Most spikes per step and neuron of "multi".
        surrogate: See `Config`.
        time_dim: See `Config`.
    """

    synapse: bool = False
    spike: str = "multi"
    reset: str = "subtract_threshold"
    clamp: bool = False
    max_spikes: float = math.inf
    surrogate: Surrogate | None = None
    time_dim: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spike not in SPIKES:
            raise InputError(f"spike: expected one of {SPIKES}, got {self.spike!r}")
        if self.reset not in RESETS:
            raise InputError(f"reset: expected one of {RESETS}, got {self.reset!r}")
        if math.isnan(self.max_spikes):
            raise InputError("max_spikes: expected a number, got NaN; math.inf stands for no bound")

    @property
    def spiking(self) -> bool:
        """Whether the output is spikes."""
        return self.spike != "none"

    @cached_property
    def packed_flags(self) -> tuple[float, int, int]:
        """(max_spikes, clamp, narrow) for the kernels."""
        return (float(self.max_spikes), int(self.clamp), 1)

    @cached_property
    def packed_variant(self) -> tuple[int, int, int]:
        """(synapse, spike, reset) for the kernels."""
        return (int(self.synapse), SPIKES.index(self.spike), RESETS.index(self.reset))
