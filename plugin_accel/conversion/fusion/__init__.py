"""Time fusion: a forward that loops over time, run layer by layer over the whole sequence.

``record`` writes down what the forward does, ``guards`` what it reads; ``rewrite`` and ``schedule`` find the calls that
can be one call over all steps, ``lower`` and ``rules`` compile them, ``replay`` runs them, and ``engine`` decides
call by call whether it may.
"""

from plugin_accel.conversion.fusion.api import engine_of, fuse, fused, is_fused, unfuse
from plugin_accel.conversion.fusion.run import Run, run

__all__ = ["Run", "engine_of", "fuse", "fused", "is_fused", "run", "unfuse"]
