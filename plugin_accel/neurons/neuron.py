"""A neuron as declared by its file, and what passes between it, its autograd function and a backend's kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from plugin_accel.neurons.config import Config
from plugin_accel.neurons.layout import STEP


class Result(NamedTuple):
    """What a neuron hands back for a sequence."""

    out: Tensor
    """Spikes (fp32, as the hosts), or the membrane of a neuron without spikes; shape of the input."""
    mean: Tensor | None
    """Mean of `out` over everything, 0-d, differentiable; None where the neuron gives none, see `Neuron.gives_mean`."""
    last: tuple[Tensor, ...]
    """States after the last step, shape of the input without time; real tensors, never views."""
    kept: Tensor | None
    """Membrane before the reset at every step, if it was recorded or is needed for backward."""
    records: tuple[Tensor, ...]
    """Each state after every step, shape of the input; empty unless recorded."""


class Gradients(NamedTuple):
    """Gradients by position; None where none was wanted."""

    x: Tensor | None
    first: tuple[Tensor | None, ...]
    params: tuple[Tensor | None, ...]


class Incoming(NamedTuple):
    """Gradients that arrive at a neuron's results; None stands for zero."""

    out: Tensor | None
    mean: Tensor | None
    last: tuple[Tensor | None, ...]
    kept: Tensor | None
    records: tuple[Tensor | None, ...]


class Saved(NamedTuple):
    """What forward left for backward."""

    x: Tensor | None
    kept: Tensor | None
    """None for kernels whose `drops_kept` said so; then there are `x` and all of `first`."""
    first: tuple[Tensor | None, ...]
    params: tuple[Tensor, ...]

    @property
    def like(self) -> Tensor:
        """One of the sequences, for its shape and place."""
        found = self.x if self.kept is None else self.kept
        assert found is not None
        return found


class Wanted(NamedTuple):
    """Which gradients backward must give."""

    x: bool
    first: tuple[bool, ...]
    params: tuple[bool, ...]
    summed: bool = False
    """The input is the same at all steps (time stride 0): its gradient may come summed over time, shaped as a state."""


class Derived(NamedTuple):
    """A time constant whose decay alpha = exp(-1 / tau), and maybe 1 - alpha, are among the parameters as plain values.

    Its gradient is (g_alpha - g_rest) slope, with the gradients of those parameters.
    """

    tau: Tensor
    slope: Tensor
    """d alpha / d tau, shape of `tau`"""
    alpha: int
    """Position of alpha among the parameters."""
    rest: int | None
    """Position of 1 - alpha, if it is one."""


class Kernels(Protocol):
    """What a backend implements. Nothing here is differentiable: the autograd function around it is shared.

    Tensors are on one device, floating inputs, states and parameters of one dtype; parameters are 0-d or broadcast
    against a state from the right. `saves_input` says that backward always needs `Saved.x` and every `Saved.first`.

    One may offer `drops_kept(config, x, reads_input) -> bool`: whether backward runs forward again from `x` and does
    without `Saved.kept`, for a call of which it `reads_input` or not.
    """

    name: str
    saves_input: bool

    def forward(
        self,
        neuron: Neuron,
        config: Config,
        x: Tensor,
        first: Sequence[Tensor],
        params: Sequence[Tensor],
        *,
        keep: bool,
        record: bool,
    ) -> Result:
        """Run a sequence; `keep`: hand back `kept`, `record`: hand back `records`."""
        ...

    def backward(
        self, neuron: Neuron, config: Config, saved: Saved, grads: Incoming, wanted: Wanted, dspike_dv: Tensor | None
    ) -> Gradients:
        """Gradients of a sequence; `dspike_dv` replaces the configured surrogate."""
        ...


class Neuron(ABC):
    """A neuron model: names, and one step in plain torch. Subclasses are stateless singletons.

    Their methods take a `config` of their own family's class.
    """

    name: str
    index: int
    """Number of the kernels in csrc/variant.h."""
    averages: bool = False
    """Whether its host wants the mean of the output with every sequence."""
    threshold_learns: bool = False
    """Whether the surrogate gives the threshold a gradient too: that of v, negative."""
    summed_inputs: tuple[str, ...] = ()
    """Parameters that are added to the input as it is, so that their gradient is the input's; for single steps."""

    @abstractmethod
    def states(self, config: Any) -> tuple[str, ...]:
        """Names of the states, in order."""

    @abstractmethod
    def params(self, config: Any) -> tuple[str, ...]:
        """Names of the parameters, in order."""

    @property
    @abstractmethod
    def kernel_params(self) -> tuple[str, ...]:
        """All parameters in the order of the step header; those that a configuration lacks are left out there."""

    def gives_mean(self, config: Config) -> bool:
        """Whether a call also gives the mean of its output: of single steps nobody asks for it."""
        return self.averages and config.time_dim != STEP

    @abstractmethod
    def replays(self, config: Any) -> bool:
        """Whether backward runs forward again for states that `kept` does not determine."""

    def reads_input(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        """Whether backward reads the input, with these gradients of parameters wanted."""
        return self.replays(config) or any(params_wanted)

    def reads_first(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        """Whether backward reads the states before the first step, with these gradients of parameters wanted."""
        return self.replays(config) or any(params_wanted)

    def acts_on(self, config: Any, name: str) -> tuple[str, ...] | None:
        """Results of one step ("out", states) that the input "x", a state or a parameter acts on, as the host has it.

        None: as the graph of `step` has it.
        """
        return None

    @abstractmethod
    def fire(self, config: Any, v: Tensor, threshold: Tensor) -> Tensor:
        """Spikes, dtype of `v`, without a gradient."""

    @abstractmethod
    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One step in plain torch: (out, kept, state). `spike(v, threshold)` generates spikes with their gradient."""

    def thresholds(self, config: Any, saved: Saved, records: Sequence[Tensor]) -> Sequence[Tensor] | Tensor:
        """Threshold in force: one tensor, or one per step; `records` as in `Result`."""
        return saved.params[self.params(config).index("threshold")]

    @property
    def threshold_varies(self) -> bool:
        """Whether `thresholds` needs records."""
        return False
