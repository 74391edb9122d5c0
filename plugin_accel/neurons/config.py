"""What is fixed for a call before any data is seen; hashable, and a string inside a `torch.library` op.

What every neuron has is in `Config`; a family of neurons adds its own options in a dataclass derived from it.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from functools import cached_property, lru_cache
from operator import index
from typing import Any, ClassVar

from plugin_accel.errors import InputError
from plugin_accel.surrogates import PRECOMPUTED, Surrogate


class Config(ABC):
    """Static configuration of one neuron call; compared by identity, so that looking things up by it is cheap.

    Subclasses are frozen dataclasses (``eq=False``) whose fields are the attributes below and their own, of types that
    JSON keeps.

    Attributes:
        surrogate: Its gradient; None for a neuron without spikes or for a callable given beside.
        time_dim: Position of time in the input's shape; -1 for a single step without a time dimension.
    """

    surrogate: Surrogate | None
    time_dim: int

    _families: ClassVar[dict[str, type[Config]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Config._families[cls.__name__] = cls

    def __post_init__(self) -> None:
        if self.time_dim < -1:
            raise InputError(f"time_dim: expected a position, or -1 for a single step, got {self.time_dim!r}")

    @property
    @abstractmethod
    def spiking(self) -> bool:
        """Whether the output is spikes."""

    @property
    def narrows(self) -> bool:
        """Whether the output is fp32 whatever the input, as the spikes of most hosts."""
        return self.spiking

    @property
    @abstractmethod
    def packed_flags(self) -> tuple[float, int, int]:
        """(max_spikes, clamp, narrow) for the kernels; see csrc/problem.h."""

    @property
    @abstractmethod
    def packed_variant(self) -> tuple[int, int, int]:
        """The family's three options for the kernels; see csrc/variant.h."""

    @cached_property
    def packed_surrogate(self) -> tuple[float, ...]:
        """(number, five parameters) for the kernels."""
        return self.surrogate.packed if self.surrogate else PRECOMPUTED

    @cached_property
    def encoded(self) -> str:
        """A string that `decode` turns back."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        if self.surrogate:
            values["surrogate"] = [self.surrogate.name, *self.surrogate.params]
        return json.dumps([type(self).__name__, values])


@lru_cache(maxsize=1024)
def decode(text: str) -> Config:
    """The configuration that `Config.encoded` gave."""
    try:
        family, values = json.loads(text)
        surrogate = values["surrogate"]
        values["time_dim"] = index(values["time_dim"])
        values["surrogate"] = Surrogate(surrogate[0], tuple(surrogate[1:])) if surrogate else None
        return Config._families[family](**values)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"config: expected what Config.encoded gives, got {text!r} ({error})") from None
