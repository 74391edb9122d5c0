"""Layers that no host owns: the event-based GRU, and torch's dense layers for inputs that are spikes."""

from plugin_accel.layers.egru import EGRU, EGRUCell
from plugin_accel.layers.egru_base import Activity, EGRUState
from plugin_accel.layers.egru_convert import (
    egru_from_evnn,
    egru_from_gru,
    gru_from_egru,
    replace_gru,
    to_evnn_state_dict,
)
from plugin_accel.layers.egru_sparsity import activity_loss
from plugin_accel.layers.spike_choice import spike_break_even
from plugin_accel.layers.spike_conv import SpikeConv2d, sparse_conv2d
from plugin_accel.layers.spike_linear import SpikeLinear, sparse_linear

__all__ = [
    "EGRU",
    "Activity",
    "EGRUCell",
    "EGRUState",
    "SpikeConv2d",
    "SpikeLinear",
    "activity_loss",
    "egru_from_evnn",
    "egru_from_gru",
    "gru_from_egru",
    "replace_gru",
    "spike_break_even",
    "sparse_conv2d",
    "sparse_linear",
    "to_evnn_state_dict",
]
