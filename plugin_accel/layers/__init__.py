"""Layers that no host owns; so far the event-based GRU."""

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
from plugin_accel.layers.spike_conv import SpikeConv2d

__all__ = [
    "EGRU",
    "Activity",
    "EGRUCell",
    "EGRUState",
    "SpikeConv2d",
    "activity_loss",
    "egru_from_evnn",
    "egru_from_gru",
    "gru_from_egru",
    "replace_gru",
    "to_evnn_state_dict",
]
