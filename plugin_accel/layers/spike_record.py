"""How time fusion sees a call of a layer that takes spikes: as that call, not as the products inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._C import _len_torch_function_stack
from torch.overrides import _get_current_function_mode, handle_torch_function

__all__ = ["recorded"]


def recorded(function: Callable[..., Tensor], *arguments: Any) -> Tensor | None:
    """The result of ``function(*arguments)``, written down by who records; `None` if nobody does.

    The recording calls `function` again on all steps at once, so it must be called with all that it depends on.
    """
    if not _len_torch_function_stack() or not getattr(_get_current_function_mode(), "records_layers", False):
        return None
    result: Tensor = handle_torch_function(function, (), *arguments)
    return result
