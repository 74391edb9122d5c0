"""What `EGRU` and `EGRUCell` share: parameters under EvNN's names, and one layer's call."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugin_accel.errors import InputError
from plugin_accel.layers import egru_ops
from plugin_accel.layers.egru_call import Inputs, Options, Result
from plugin_accel.layers.egru_clip import clip_together
from plugin_accel.layers.egru_native import GATES, Parameters, from_native, to_native

NAMES = ("kernel", "recurrent_kernel", "bias", "recurrent_bias", "thr")


class EGRUState(NamedTuple):
    """Everything that goes from one step to the next, each [num_layers, B, H] ([B, H] for a cell)."""

    y: Tensor
    """Events of the last step."""
    h: Tensor
    """State after the reset."""
    trace: Tensor
    """Decaying average of the events; it influences nothing."""


class Activity(NamedTuple):
    """How sparse the last call was; fractions of all units at all steps, means over layers."""

    events: float
    """Units that sent an event: the share of the recurrent product that forward needs."""
    silent: float
    """Units that sent none and whose surrogate is zero: nothing flows back through their event."""


class EGRUBase(nn.Module):
    """Parameters, their initialisation and one layer's call; see `EGRU` for the arguments."""

    kernel: Tensor
    recurrent_kernel: Tensor
    thr: Tensor
    _max_norm: Tensor
    dampening_factor: Tensor
    pseudo_derivative_support: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        *,
        dropout: float,
        zoneout: float,
        dampening_factor: float,
        pseudo_derivative_support: float,
        thr_mean: float,
        weight_initialization_gain: float,
        grad_clip: float | None,
        backend: str = "",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if size < 1:
                raise InputError(f"EGRU {name}: expected at least 1, got {size}")
        for name, p in (("dropout", dropout), ("zoneout", zoneout)):
            if not 0 <= p <= 1:
                raise InputError(f"EGRU {name}: expected a probability, got {p}")
        if not 0 < thr_mean < 1:
            raise InputError(f"EGRU thr_mean: expected a value between 0 and 1, both excluded, got {thr_mean}")
        if grad_clip is not None and not grad_clip > 0:
            raise InputError(f"EGRU grad_clip: expected a positive norm or None, got {grad_clip}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.dropout, self.zoneout, self.thr_mean = dropout, zoneout, thr_mean
        self.weight_initialization_gain = weight_initialization_gain
        self.grad_clip, self.backend = grad_clip, backend
        self.use_bias = bias
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        wide = GATES * hidden_size
        for layer in range(num_layers):
            features = hidden_size if layer else input_size
            shapes = ((features, wide), (hidden_size, wide), (wide,), (wide,), (hidden_size,))
            for name, shape in zip(NAMES, shapes, strict=True):
                absent = "bias" in name and not bias
                parameter = None if absent else nn.Parameter(torch.empty(shape, **made))
                self.register_parameter(_suffixed(name, layer), parameter)
        for name, value in (
            ("_max_norm", -1.0 if grad_clip is None else grad_clip),
            ("dampening_factor", dampening_factor),
            ("pseudo_derivative_support", pseudo_derivative_support),
        ):
            self.register_buffer(name, torch.full((1,), value, **made))
        self._counts: list[tuple[Tensor, int]] = []
        self.reset_parameters()
        self.reset_thresholds()

    def layer_parameters(self, layer: int = 0) -> Parameters:
        """(kernel, recurrent_kernel, bias, recurrent_bias, thr) of one layer."""
        found = tuple(getattr(self, _suffixed(name, layer)) for name in NAMES)
        return found

    def reset_parameters(self) -> None:
        """Draw weights (Xavier-normal over the whole width of three gates) and clear biases; thresholds stay."""
        for layer in range(self.num_layers):
            kernel, recurrent, *biases, _ = self.layer_parameters(layer)
            for weight in (kernel, recurrent):
                nn.init.xavier_normal_(weight, gain=self.weight_initialization_gain)
            for b in biases:
                if b is not None:
                    nn.init.zeros_(b)

    def reset_thresholds(self) -> None:
        """Draw thresholds: Beta(3 m / (1 - m), 3) with m = `thr_mean`."""
        beta = torch.distributions.Beta(3 * self.thr_mean / (1 - self.thr_mean), 3.0)
        with torch.no_grad():
            for layer in range(self.num_layers):
                thr = self.layer_parameters(layer)[-1]
                if thr.device.type != "meta":
                    thr.copy_(beta.sample(thr.shape))

    def to_native_weights(self, layer: int = 0) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """(weight_ih, weight_hh, bias_ih, bias_hh) as `nn.GRU` has them: [3H, ...], gates r, z, n; copies."""
        return to_native(self.layer_parameters(layer))

    def from_native_weights(
        self,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None = None,
        bias_hh: Tensor | None = None,
        *,
        layer: int = 0,
    ) -> None:
        """Take over weights in `nn.GRU`'s order; biases that are None become zero.

        Raises:
            InputError: a shape does not fit, or there are biases for a layer without.
        """
        from_native(self.layer_parameters(layer), weight_ih, weight_hh, bias_ih, bias_hh)

    def outer_dtype(self, x: Tensor) -> torch.dtype:
        """Type of the outputs: the input's, or what autocast leaves them in."""
        return torch.float32 if _autocast(x) else x.dtype

    def prepared(self, x: Tensor) -> Tensor:
        """The input in the type it is computed in: the parameters' or, for 16-bit ones and under autocast, float32."""
        if x.dtype is not self.kernel.dtype and not _autocast(x):
            raise InputError(
                f"EGRU input: expected {self.kernel.dtype} as the parameters, got {x.dtype}; "
                "convert the input or the layer with .to(...)"
            )
        return _wide(x)

    def run_layer(self, layer: int, x: Tensor, first: EGRUState, lengths: Tensor | None, record: bool) -> Result:
        """One layer over [T, B, I]."""
        kernel, recurrent, bias, recurrent_bias, thr = self.layer_parameters(layer)
        if self.training:
            # As in EvNN, thresholds never leave [0, 1]; not a step that autograd sees.
            thr.data.clamp_(0, 1)
        else:
            thr = thr.clamp(0, 1)
        if self.dropout:
            recurrent = functional.dropout(recurrent, self.dropout, self.training)
        if bias is None or recurrent_bias is None:
            bias = recurrent_bias = kernel.new_zeros(GATES * self.hidden_size)
        y, h, trace = first
        differentiated: tuple[Tensor, ...] = (kernel, recurrent, bias, recurrent_bias, thr, y)
        if self.grad_clip is not None:
            differentiated = clip_together(self._max_norm, *differentiated)
        mask, keep = None, 1.0
        if self.zoneout and self.training:
            mask = torch.rand(*x.shape[:2], self.hidden_size, device=x.device) >= self.zoneout
        elif self.zoneout:
            keep = 1.0 - self.zoneout
        inputs = Inputs(*(_wide(t) for t in (x, *differentiated, h, trace)))
        options = Options(_wide(self.dampening_factor), _wide(self.pseudo_derivative_support), mask, lengths, keep)
        with torch.autocast(x.device.type, enabled=False) if _autocast(x) else nullcontext():
            return egru_ops.run(inputs, options, record=record, backend=self.backend)

    def remember(self, results: Sequence[Result]) -> None:
        """Keep what `activity` shows."""
        self._counts = [(r.counts.detach(), r.y.numel()) for r in results]

    def activity(self) -> Activity:
        """How sparse the last call was; padded steps count as silent without being counted in `silent`.

        Raises:
            RuntimeError: there was no call yet.
        """
        if not self._counts:
            raise RuntimeError("activity: expected a forward call before, got none; run the layer first")
        shares = [counts / max(size, 1) for counts, size in self._counts]
        events, silent = torch.stack(shares).mean(0).tolist()
        return Activity(events, silent)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        norm = float(self._max_norm)
        self.grad_clip = norm if norm > 0 else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_counts": []}

    def extra_repr(self) -> str:
        """Sizes and what is not at its default."""
        shown = [f"{self.input_size}, {self.hidden_size}"]
        for name, default in (("num_layers", 1), ("use_bias", True), ("dropout", 0), ("zoneout", 0)):
            if getattr(self, name) != default:
                shown.append(f"{name.removeprefix('use_')}={getattr(self, name)}")
        if getattr(self, "batch_first", False):
            shown.append("batch_first=True")
        return ", ".join(shown)


def _suffixed(name: str, layer: int) -> str:
    return f"{name}_l{layer}" if layer else name


# torch.compile before torch 2.13 cannot ask
_AUTOCASTS = frozenset(kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind))


def _autocast(x: Tensor) -> bool:
    """Whether autocast is on; not every kind of device has it."""
    if torch.compiler.is_compiling():
        return x.device.type in _AUTOCASTS and torch.is_autocast_enabled(x.device.type)
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def _wide(t: Tensor) -> Tensor:
    """In the type that the kernels compute in."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def initial_state(state: Tensor | EGRUState | None, x: Tensor, layers: int, hidden: int) -> EGRUState:
    """The state before the first step, [layers, B, H] each.

    Raises:
        InputError: the state given is of another shape or kind.
    """
    shape = (layers, x.shape[1], hidden)
    zeros = x.new_zeros(shape)
    if state is None:
        return EGRUState(zeros, zeros, zeros)
    if isinstance(state, Tensor):
        state = EGRUState(state, zeros, zeros)
    elif not isinstance(state, EGRUState):
        raise InputError(
            f"EGRU state: expected an EGRUState, a tensor or None, got {type(state).__name__}; "
            "forward(..., return_state=True) gives one"
        )
    for name, s in zip(EGRUState._fields, state, strict=True):
        if tuple(s.shape) != shape:
            raise InputError(f"EGRU state {name}: expected shape {shape} (layers, batch, hidden), got {tuple(s.shape)}")
    return EGRUState(*(s.to(x.dtype) if s.dtype in (torch.float16, torch.bfloat16) else s for s in state))
