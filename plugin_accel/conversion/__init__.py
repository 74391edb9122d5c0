"""Conversion of host models in place, back again, and the report on what is accelerated.

This package sees hosts and backends only through the plugin manager: it knows no framework.
"""

from plugin_accel.conversion.api import convert, converted, restore
from plugin_accel.conversion.fusion import Run, fused, run
from plugin_accel.conversion.reporting import Report, Row, report

__all__ = ["Report", "Row", "Run", "convert", "converted", "fused", "report", "restore", "run"]
