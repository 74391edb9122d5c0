"""The event-based GRU as a layer: `EGRU` over sequences, `EGRUCell` for one step.

Semantics and parameter names are those of EvNN v0.2.0 (Subramoney et al., ICLR 2023, openreview lJdOlWg8td); what
differs, and why, stands in docs/egru.md. The equations stand in `plugin_accel.layers.egru_reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.errors import InputError
from plugin_accel.layers.egru_base import Activity, EGRUBase, EGRUState, initial_state
from plugin_accel.layers.egru_call import Result

State = Tensor | EGRUState | None
Output = tuple[Tensor, tuple[Tensor, Tensor, Tensor]]


class EGRU(EGRUBase):
    """A GRU whose units communicate by graded events: silent units send nothing and cost nothing.

    Args:
        input_size: Features of the input, I.
        hidden_size: Units, H.
        batch_first: Input and sequences are [B, T, ...] instead of [T, B, ...]; states are [num_layers, B, H] always.
        dropout: DropConnect on the recurrent weights in training: one mask per call, for all steps and samples.
        zoneout: Probability that a unit keeps its state for a step; in evaluation the expected state.
        dampening_factor: Height d of the triangular surrogate.
        pseudo_derivative_support: Its steepness s: zero where |c - thr| >= 1 / s. Above 1 it makes backward sparse.
        thr_mean: Mean of the Beta distribution the thresholds are drawn from; within 0 and 1.
        weight_initialization_gain: Gain of the Xavier-normal weights.
        return_state_sequence: `forward` gives h, o and trace of every step; else those of each layer's last step,
            which is faster. EvNN's default is False, and ignored there: it always gives sequences.
        grad_clip: Most norm of the gradients of weights, biases, thresholds and initial output together; None: off.
        use_custom_cuda: EvNN's name for its extension; False selects the `reference` backend.
        num_layers: Layers, each fed with the output of the one before.
        bias: Whether there are biases.
        device: Where the parameters are made.
        dtype: Type of the parameters; 16-bit ones are computed with in float32.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        batch_first: bool = False,
        dropout: float = 0.0,
        zoneout: float = 0.0,
        dampening_factor: float = 0.7,
        pseudo_derivative_support: float = 1.0,
        thr_mean: float = 0.3,
        weight_initialization_gain: float = 1.0,
        return_state_sequence: bool = True,
        grad_clip: float | None = None,
        use_custom_cuda: bool = True,
        *,
        num_layers: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            dropout=dropout,
            zoneout=zoneout,
            dampening_factor=dampening_factor,
            pseudo_derivative_support=pseudo_derivative_support,
            thr_mean=thr_mean,
            weight_initialization_gain=weight_initialization_gain,
            grad_clip=grad_clip,
            backend="" if use_custom_cuda else "reference",
            device=device,
            dtype=dtype,
        )
        self.batch_first = batch_first
        self.return_state_sequence = return_state_sequence

    def forward(
        self,
        input: Tensor,
        state: State = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        return_state: bool = False,
    ) -> Any:
        """Run a sequence.

        Args:
            input: [T, B, I], or [B, T, I] with `batch_first`.
            state: An `EGRUState` to continue from, as `return_state=True` gave it: chunks then equal one pass. A tensor
                [num_layers, B, H] is the initial output alone, as in EvNN; h and trace then start from zero.
            lengths: Steps of each sample, [B], in any order, at least 1: after its last step a sample's outputs are
                zero and its state stays.
            return_state: Also give the state to continue from.

        Returns:
            `(y, (h, o, trace))`, and with `return_state` an `EGRUState` as a third: events y; state h after the
            reset, event indicator o and output trace of the last layer, of every step, or, without
            `return_state_sequence`, of every layer after its last step, [num_layers, B, H].

        Raises:
            BackendError: a backend was named that cannot run it.
            InputError: shapes, dtypes, devices or lengths do not fit.
        """
        if input.dim() != 3 or input.shape[-1] != self.input_size:
            layout = "batch, time" if self.batch_first else "time, batch"
            raise InputError(
                f"EGRU input: expected shape ({layout}, {self.input_size}), got {tuple(input.shape)}; "
                "add a batch dimension with unsqueeze, or set batch_first"
            )
        outer = self.outer_dtype(input)
        x = self.prepared(input.transpose(0, 1) if self.batch_first else input)
        first = initial_state(state, x, self.num_layers, self.hidden_size)
        if lengths is not None:
            lengths = torch.as_tensor(lengths, device="cpu").to(torch.int64)
        results: list[Result] = []
        for layer in range(self.num_layers):
            start = EGRUState(*(s[layer] for s in first))
            record = self.return_state_sequence and layer == self.num_layers - 1
            results.append(self.run_layer(layer, x, start, lengths, record))
            x = results[-1].y
        self.remember(results)
        last = EGRUState(*(torch.stack(s) for s in zip(*((r.y_n, r.h_n, r.trace_n) for r in results), strict=True)))
        if self.return_state_sequence:
            shown = (results[-1].h, results[-1].o, results[-1].trace)
        else:
            shown = (last.h, (last.y != 0).to(last.y.dtype), last.trace)
        sequences: tuple[Tensor, ...] = (x, *shown) if self.return_state_sequence else (x,)
        if self.batch_first:
            sequences = tuple(t.transpose(0, 1) for t in sequences)
        if outer is not x.dtype:
            sequences = tuple(t.to(outer) for t in sequences)
        y, rest = sequences[0], sequences[1:] or shown
        return (y, rest, last) if return_state else (y, rest)


class EGRUCell(EGRUBase):
    """One step of `EGRU`, for loops of one's own. Arguments as there; DropConnect draws a mask at every call."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dropout: float = 0.0,
        zoneout: float = 0.0,
        dampening_factor: float = 0.7,
        pseudo_derivative_support: float = 1.0,
        thr_mean: float = 0.3,
        weight_initialization_gain: float = 1.0,
        grad_clip: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            1,
            bias,
            dropout=dropout,
            zoneout=zoneout,
            dampening_factor=dampening_factor,
            pseudo_derivative_support=pseudo_derivative_support,
            thr_mean=thr_mean,
            weight_initialization_gain=weight_initialization_gain,
            grad_clip=grad_clip,
            device=device,
            dtype=dtype,
        )

    def forward(self, input: Tensor, state: State = None) -> tuple[Tensor, EGRUState]:
        """One step: input [B, I] and an `EGRUState` of [B, H] (zeros if None) to (y, state), y being `state.y`."""
        if input.dim() != 2 or input.shape[-1] != self.input_size:
            raise InputError(
                f"EGRUCell input: expected shape (batch, {self.input_size}), got {tuple(input.shape)}; "
                "EGRU takes whole sequences"
            )
        outer = self.outer_dtype(input)
        x = self.prepared(input)[None]
        if state is not None:
            state = EGRUState(*(s[None] for s in state)) if isinstance(state, EGRUState) else state[None]
        first = initial_state(state, x, 1, self.hidden_size)
        result = self.run_layer(0, x, EGRUState(*(s[0] for s in first)), None, False)
        self.remember([result])
        return result.y_n.to(outer), EGRUState(result.y_n, result.h_n, result.trace_n)


__all__ = ["EGRU", "Activity", "EGRUCell", "EGRUState"]
