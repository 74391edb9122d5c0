"""`SpikeLinear`: an `nn.Linear` that computes from the spikes of its input.

Interface, for whoever swaps it in::

    layer.__class__ = SpikeLinear      # of exactly nn.Linear; nothing else changes
    layer.__class__ = nn.Linear        # and back

It has no state of its own: Parameters, `state_dict`, hooks, `repr`, pickles and copies are those of `nn.Linear`. Packed
weights and measured break-evens are kept outside of it. Every input is taken: what the kernels cannot do runs
`torch.nn.functional.linear`. `refusal(layer, x)` says why; `sparse_linear` is the function behind the layer.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from plugin_accel.layers import spike_call
from plugin_accel.layers.spike_choice import BreakEven
from plugin_accel.layers.spike_record import recorded

__all__ = ["SpikeLinear", "refusal", "sparse_linear"]


class SpikeLinear(nn.Linear):
    """y = x W^T + b, summed over the non-zero entries of x where these are few.

        y[r, n] = b[n] + sum of x[r, k] W[n, k] over the k with x[r, k] != 0, in ascending order
        dW[n, k] = sum of g[r, n] x[r, k] over the r with x[r, k] != 0
        dx = g W, a dense product, if the input has a gradient

    Same numbers as `nn.Linear` up to the order of summation. The density of each input is measured; above a break-even
    (see `spike_break_even`) the product is the dense one. For backward it keeps the compressed input: 2 bytes per
    spike or a bit per entry, and the value of each entry where these are not all 0 or 1.

    float32 and float64 on the CPU, up to 65536 inputs; everything else (autocast, other dtypes and devices, tensor
    subclasses, torch.func, tracing, torch.compile) runs `nn.Linear.forward`, and so do weights with an infinity or a
    NaN. A second derivative is that of `nn.Linear` while the input has no gradient of its own, and raises otherwise.
    """

    per_sample: ClassVar[int] = 0

    def _get_name(self) -> str:
        return nn.Linear.__name__

    def forward(self, input: Tensor) -> Tensor:
        """`nn.Linear.forward`."""
        own: dict[str, Any] = self._parameters  # asking the module for them takes longer than a look at the input
        if "weight" in own and "bias" in own:
            return sparse_linear(input, own["weight"], own["bias"])
        return sparse_linear(input, self.weight, self.bias)  # as under torch.nn.utils.weight_norm


def sparse_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, break_even: tuple[float, float] | None = None
) -> Tensor:
    """`torch.nn.functional.linear` as `SpikeLinear` computes it.

    Args:
        x: Input, [..., inputs].
        weight: [outputs, inputs].
        bias: [outputs], or None.
        break_even: Densities of forward and of the weights' gradient below which spikes are used; by default pinned by
            `spike_break_even` or measured.

    Returns:
        [..., outputs].
    """
    seen = recorded(sparse_linear, x, weight, bias)
    if seen is not None:
        return seen
    return spike_call.run(x, weight, bias, None if break_even is None else BreakEven(*break_even))


sparse_linear.per_sample = 0  # type: ignore[attr-defined]  # for time fusion: the last dimension is a sample's own


def refusal(layer: nn.Linear, x: Any) -> str | None:
    """Why a call of this layer would be left to `nn.Linear.forward`; None: it would not."""
    return spike_call.refusal(x, layer.weight, layer.bias)
