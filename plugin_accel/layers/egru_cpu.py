"""EGRU on the `cpu` backend."""
from plugin_accel.layers.egru_reference import ReferenceEgru as CpuEgru

__all__ = ["CpuEgru"]
