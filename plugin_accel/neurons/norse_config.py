"""The options of Norse's neurons."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from plugin_accel.errors import InputError
from plugin_accel.neurons.config import Config
from plugin_accel.surrogates import Surrogate

KINDS = {
    "norse_lif": ("li", "lif", "lif_detached", "lif_ex"),
    "norse_box": ("li_box", "lif_box", "lif_box_subtract", "iaf"),
    "norse_adex": ("adex",),
    "norse_lsnn": ("lsnn", "lsnn_detached"),
    "norse_izhikevich": ("izhikevich",),
    "norse_refrac": ("refrac", "refrac_detached"),
    "norse_adex_refrac": ("adex_refrac",),
    "norse_mc_refrac": ("mc_refrac",),
    "norse_coba": ("coba",),
}
"""The kinds of each neuron, in the order of csrc/neurons/norse.h."""
_NUMBERS = {kind: i for kinds in KINDS.values() for i, kind in enumerate(kinds)}


@dataclass(frozen=True, eq=False)
class NorseConfig(Config):
    """Static configuration of one call of a Norse neuron.

    Attributes:
        kind: One of the neuron's `KINDS`. A detached one does not differentiate the reset with respect to the spike.
        recurrent: A recurrent input is added to the input: single steps only.
        surrogate: See `Config`; also gives the threshold its gradient.
        time_dim: See `Config`.
    """

    kind: str = "lif"
    recurrent: bool = False
    surrogate: Surrogate | None = None
    time_dim: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in _NUMBERS:
            raise InputError(f"kind: expected one of {tuple(_NUMBERS)}, got {self.kind!r}")
        if self.recurrent and self.kind in ("li", "lif", "lsnn", "refrac", "mc_refrac", "coba", *KINDS["norse_box"]):
            raise InputError(f"recurrent: expected False of a {self.kind!r}, got True; the detached kind has it")

    @property
    def spiking(self) -> bool:
        """Whether the output is spikes."""
        return self.kind not in ("li", "li_box")

    @property
    def narrows(self) -> bool:
        """False: Norse's spikes have the dtype of the membrane."""
        return False

    @property
    def detached(self) -> bool:
        """Whether spikes are constants in the reset."""
        return self.kind.endswith("_detached")

    @cached_property
    def packed_flags(self) -> tuple[float, int, int]:
        """(max_spikes, clamp, narrow) for the kernels."""
        return (1.0, 0, 0)

    @cached_property
    def packed_variant(self) -> tuple[int, int, int]:
        """(kind, 0, 0) for the kernels."""
        return (_NUMBERS[self.kind], 0, 0)
