"""The options of snnTorch's neurons."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from plugin_accel.errors import InputError
from plugin_accel.neurons.config import Config
from plugin_accel.surrogates import Surrogate

RESETS = ("subtract", "zero", "none", "zero_after")


@dataclass(frozen=True, eq=False)
class SnnTorchConfig(Config):
    """Static configuration of one call of a snnTorch neuron.

    Attributes:
        reset: "subtract", "none", "zero" (of the old membrane: Leaky alone) or "zero_after" (of the new one).
        delay: The reset comes with the next step (`reset_delay`), not at once.
        recurrent: A recurrent input is added to the input: single steps only.
        narrow: fp64 data with a threshold shared by all neurons: its products with spikes are rounded to fp32.
        surrogate: See `Config`; also gives the threshold its gradient.
        time_dim: See `Config`.
    """

    reset: str = "subtract"
    delay: bool = True
    recurrent: bool = False
    narrow: bool = True
    surrogate: Surrogate | None = None
    time_dim: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset not in RESETS:
            raise InputError(f"reset: expected one of {RESETS}, got {self.reset!r}")
        if self.reset == "none" and not self.delay:
            raise InputError("delay: expected True without a reset, got False; nothing is delayed there")

    @property
    def spiking(self) -> bool:
        """Whether the output is spikes."""
        return True

    @cached_property
    def packed_flags(self) -> tuple[float, int, int]:
        """(max_spikes, clamp, narrow) for the kernels."""
        return (1.0, 0, int(self.narrow))

    @cached_property
    def packed_variant(self) -> tuple[int, int, int]:
        """(reset, delay, 0) for the kernels."""
        return (RESETS.index(self.reset), int(self.delay), 0)
