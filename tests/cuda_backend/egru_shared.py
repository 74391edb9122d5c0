"""The calls of EGRU that the tests of its other backends make."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

_SPEC = importlib.util.spec_from_file_location("egru_cases", Path(__file__).parents[1] / "layers" / "egru_cases.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_cases = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_cases)

RESULTS, case, differentiate, upstream = _cases.RESULTS, _cases.case, _cases.differentiate, _cases.upstream

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "zoneout": {"zoneout": 0.3},
    "zoneout in evaluation": {"keep": 0.7},
    "lengths": {"lengths": [9, 1, 4, 7, 9]},
    "all at once": {"lengths": [3, 9, 1, 2, 5], "zoneout": 0.2, "support": 3.6, "dampening": 1.3, "scale": 2.0},
}
