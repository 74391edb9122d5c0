"""What is fixed for a call before any data is seen; hashable, and a string inside a `torch.library` op."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import index

from plugin_accel.errors import InputError
from plugin_accel.surrogates import PRECOMPUTED, Surrogate

SPIKES = ("none", "single", "multi")
RESETS = ("subtract_threshold", "subtract", "value")


@dataclass(frozen=True, eq=False)
class Config:
    """Static configuration of one neuron call; compared by identity, so that looking things up by it is cheap.

    Attributes:
        synapse: The input goes through a decaying synaptic current first.
        spike: "none", "single" (0 or 1) or "multi" (integer part of v / threshold, at most `max_spikes`).
        reset: "subtract_threshold", "subtract" (a value of its own) or "value" (set to it).
        clamp: The membrane is bounded from below after spike and reset.
        max_spikes: Most spikes per step and neuron of "multi".
        surrogate: Its gradient; None with spike "none" or for a callable given beside.
        time_dim: Position of time in the input's shape; -1 for a single step without a time dimension.
    """

    synapse: bool = False
    spike: str = "multi"
    reset: str = "subtract_threshold"
    clamp: bool = False
    max_spikes: float = math.inf
    surrogate: Surrogate | None = None
    time_dim: int = 1

    def __post_init__(self) -> None:
        if self.spike not in SPIKES:
            raise InputError(f"spike: expected one of {SPIKES}, got {self.spike!r}")
        if self.reset not in RESETS:
            raise InputError(f"reset: expected one of {RESETS}, got {self.reset!r}")
        if self.time_dim < -1:
            raise InputError(f"time_dim: expected a position, or -1 for a single step, got {self.time_dim!r}")
        if math.isnan(self.max_spikes):
            raise InputError("max_spikes: expected a number, got NaN; math.inf stands for no bound")

    @cached_property
    def packed_surrogate(self) -> tuple[float, ...]:
        """(number, five parameters) for the kernels."""
        return self.surrogate.packed if self.surrogate else PRECOMPUTED

    @cached_property
    def packed_flags(self) -> tuple[float, int]:
        """(max_spikes, clamp) for the kernels."""
        return (float(self.max_spikes), int(self.clamp))

    @cached_property
    def packed_variant(self) -> tuple[int, int, int]:
        """(synapse, spike, reset) for the kernels."""
        return (int(self.synapse), SPIKES.index(self.spike), RESETS.index(self.reset))

    @cached_property
    def encoded(self) -> str:
        """A string that `decode` turns back."""
        surrogate = [self.surrogate.name, *self.surrogate.params] if self.surrogate else None
        return json.dumps([self.synapse, self.spike, self.reset, self.clamp, self.max_spikes, surrogate, self.time_dim])


@lru_cache(maxsize=1024)
def decode(text: str) -> Config:
    """The configuration that `Config.encoded` gave."""
    try:
        synapse, spike, reset, clamp, max_spikes, surrogate, time_dim = json.loads(text)
        made = Surrogate(surrogate[0], tuple(surrogate[1:])) if surrogate else None
        return Config(synapse, spike, reset, clamp, float(max_spikes), made, index(time_dim))
    except (TypeError, ValueError) as error:
        raise InputError(f"config: expected what Config.encoded gives, got {text!r} ({error})") from None
