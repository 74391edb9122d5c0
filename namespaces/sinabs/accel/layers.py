"""``sinabs.layers`` with the accelerated neurons in place of sinabs's own; every other name is sinabs's, unchanged."""

from sinabs.layers import *  # the names differ between versions of sinabs

from plugin_accel.hosts.sinabs import (
    ALIF,
    IAF,
    LIF,
    ALIFRecurrent,
    ALIFSqueeze,
    ExpLeak,
    ExpLeakSqueeze,
    IAFRecurrent,
    IAFSqueeze,
    LIFRecurrent,
    LIFSqueeze,
)
