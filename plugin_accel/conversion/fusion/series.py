"""A value at all steps: stacked over time, or as a list, whichever is there or is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Series"]


class Series:
    """Tensors of equal shape, one per step.

    Args:
        stacked: All of them, ``[T, ...]``.
        items: All of them, one by one.
        last: The last one, as a tensor of its own.
        owned: Whether the memory was made by the fused forward and is not an input's.
    """

    __slots__ = ("_asked", "_grad", "_items", "_last", "_stacked", "owned")

    def __init__(
        self,
        stacked: Tensor | None = None,
        items: Sequence[Tensor] | None = None,
        last: Tensor | None = None,
        owned: bool = True,
    ) -> None:
        self._stacked, self._items, self._last = stacked, items, last
        self.owned = owned
        self._asked = 0
        self._grad = torch.is_grad_enabled()  # readers without gradients must not leave others without them

    def whole(self) -> Tensor:
        """All steps, ``[T, ...]``."""
        if self._stacked is None:
            assert self._items is not None
            with torch.set_grad_enabled(self._grad):
                self._stacked = torch.stack(list(self._items))
            self.owned = True
        return self._stacked

    def __len__(self) -> int:
        return len(self._items) if self._stacked is None else len(self._stacked)  # type: ignore[arg-type]

    def at(self, step: int) -> Tensor:
        """One step; perhaps a view of all."""
        if self._items is not None:
            return self._items[step]
        assert self._stacked is not None or self._last is not None
        if self._last is not None and (self._stacked is None or step == len(self._stacked) - 1):
            return self._last
        assert self._stacked is not None
        self._asked += 1
        if self._asked <= 2:
            return self._stacked.select(0, step)
        # The backward of many single steps would each make a tensor of the whole size.
        with torch.set_grad_enabled(self._grad):
            self._items = self._stacked.unbind(0)
        return self._items[step]

    def own(self, step: int) -> Tensor:
        """One step, as a tensor that shares memory with no other."""
        if self._stacked is None and self._items is not None:
            return self._items[step]
        if self._last is not None and (self._stacked is None or step == len(self._stacked) - 1):
            return self._last
        return self.at(step).clone()
