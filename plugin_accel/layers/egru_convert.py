"""EGRU from other layers' weights and back: `nn.GRU`, and checkpoints of EvNN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plugin_accel.errors import InputError
from plugin_accel.layers.egru import EGRU
from plugin_accel.layers.egru_base import EGRUBase
from plugin_accel.layers.egru_native import GATES

EVNN_KEYS = (
    "_max_norm",
    "kernel",
    "recurrent_kernel",
    "bias",
    "recurrent_bias",
    "dampening_factor",
    "pseudo_derivative_support",
    "thr",
)


def egru_from_gru(gru: nn.GRU, *, threshold: float | Tensor | None = None, **options: Any) -> EGRU:
    """An `EGRU` with the weights of an `nn.GRU`; events and reset come on top, so that outputs differ.

    Args:
        gru: Unidirectional, without dropout between layers.
        threshold: For all units, or one per unit; None: drawn as `EGRU` does.
        options: Further arguments of `EGRU`.

    Returns:
        A new layer with copies of the weights, on their device and of their dtype, in the same mode.

    Raises:
        InputError: the GRU is bidirectional, has dropout between layers, or a threshold lies outside [0, 1].
    """
    if gru.bidirectional:
        raise InputError("egru_from_gru: expected a unidirectional GRU, got a bidirectional one; use two EGRU layers")
    if gru.dropout:
        raise InputError(
            f"egru_from_gru: expected a GRU without dropout between layers, got {gru.dropout}; EGRU's `dropout` is "
            "DropConnect: set the GRU's to 0 and pass dropout=... if that is wanted"
        )
    weight = gru.weight_ih_l0
    layer = EGRU(
        gru.input_size,
        gru.hidden_size,
        gru.batch_first,
        num_layers=gru.num_layers,
        bias=gru.bias,
        **{"device": weight.device, "dtype": weight.dtype, **options},
    )
    for index, weights in enumerate(gru.all_weights):
        layer.from_native_weights(*weights, layer=index)
    if threshold is not None:
        values = torch.as_tensor(threshold)
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise InputError(f"threshold: expected values within 0 and 1, got {threshold}")
        with torch.no_grad():
            for index in range(gru.num_layers):
                layer.layer_parameters(index)[-1].copy_(values.expand(gru.hidden_size))
    return layer.train(gru.training)


def gru_from_egru(layer: EGRU) -> nn.GRU:
    """An `nn.GRU` with the weights of an `EGRU`; thresholds, zoneout and DropConnect have no counterpart there."""
    kernel = layer.kernel
    gru = nn.GRU(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=layer.use_bias,
        batch_first=layer.batch_first,
        device=kernel.device,
        dtype=kernel.dtype,
    )
    with torch.no_grad():
        for index, targets in enumerate(gru.all_weights):
            for target, value in zip(targets, layer.to_native_weights(index), strict=False):
                if value is not None:
                    target.copy_(value)
    return gru.train(layer.training)


def egru_from_evnn(state_dict: Mapping[str, Tensor], **options: Any) -> EGRU:
    """An `EGRU` from the `state_dict` of EvNN's layer; sizes are read from the shapes.

    `load_state_dict` of a layer of the same size does the same. What a checkpoint does not hold (zoneout, dropout,
    batch_first) is given by `options`.

    Raises:
        InputError: keys are missing or unknown, or shapes do not fit each other.
    """
    if set(state_dict) != set(EVNN_KEYS):
        raise InputError(
            f"EvNN checkpoint: expected the keys {EVNN_KEYS}, got {tuple(state_dict)}; "
            "pass one layer's part, without the prefix of its name"
        )
    kernel, recurrent = state_dict["kernel"], state_dict["recurrent_kernel"]
    if kernel.dim() != 2 or recurrent.dim() != 2 or kernel.shape[1] != GATES * recurrent.shape[0]:
        raise InputError(
            "EvNN checkpoint: expected kernel [I, 3H] and recurrent_kernel [H, 3H], got "
            f"{tuple(kernel.shape)} and {tuple(recurrent.shape)}"
        )
    layer = EGRU(kernel.shape[0], recurrent.shape[0], **{"dtype": kernel.dtype, "device": kernel.device, **options})
    layer.load_state_dict(dict(state_dict))
    return layer


def to_evnn_state_dict(layer: EGRUBase, index: int = 0) -> dict[str, Tensor]:
    """One layer's parameters as EvNN's layer stores them, in its order; biases that are absent become zeros."""
    kernel, recurrent, bias, recurrent_bias, thr = layer.layer_parameters(index)
    zeros = kernel.new_zeros(kernel.shape[1])
    values = (
        layer._max_norm,
        kernel,
        recurrent,
        zeros if bias is None else bias,
        zeros if recurrent_bias is None else recurrent_bias,
        layer.dampening_factor,
        layer.pseudo_derivative_support,
        thr,
    )
    return {name: t.detach().clone() for name, t in zip(EVNN_KEYS, values, strict=True)}


def replace_gru(model: nn.Module, options: Mapping[str, Any]) -> list[str]:
    """Replace every `nn.GRU` of `model` (exact type) by `egru_from_gru(gru, **options)`, in place; their names.

    Raises:
        InputError: one cannot be replaced; nothing has been changed then.
    """
    made: dict[nn.Module, EGRU] = {}
    for module in model.modules():
        if type(module) is nn.GRU:
            made[module] = egru_from_gru(module, **options)
    names = []
    for prefix, parent in list(model.named_modules()):
        for name, child in list(parent._modules.items()):
            if child in made:
                parent._modules[name] = made[child]
                names.append(f"{prefix}.{name}".lstrip("."))
    return names
