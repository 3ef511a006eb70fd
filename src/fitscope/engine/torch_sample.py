"""The elements of a torch tensor that its histogram is made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fitscope.engine.vector import BINS, stride

_PENDING = 2**19
"""Elements after which those among them are taken: so many are still in the cache."""


class Sample:
    """A copy of some elements, taken part by part while they are in the cache.

    All of a tensor of 8 MB taken before it is read takes twice as long. Later it would be too late:
    the tensor is out of the cache, and a layer may have worked in place.
    """

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self._step, self.count = stride(tensor.numel())
        self._end = self._taken = 0
        self._lies_in_order = tensor.is_contiguous()
        if self._lies_in_order:
            self._chosen = tensor.view(-1)[:: self._step]
            self._sample = torch.empty(self.count, device=tensor.device)

    def look(self, elements: int) -> None:
        """So many more elements, in the order in which they lie in memory, are in the cache."""
        if not self._lies_in_order:
            return
        self._end += elements
        if self._end - self._taken * self._step >= _PENDING:
            self._take(-(-self._end // self._step))

    def whole(self) -> Any:
        """All of it, as float32."""
        if self._lies_in_order:
            self._take(self.count)
            return self._sample
        # Reshaped, all of the tensor would be copied.
        places = torch.arange(0, self._tensor.numel(), self._step, device=self._tensor.device)
        return self._tensor[torch.unravel_index(places, self._tensor.shape)].float()

    def _take(self, end: int) -> None:
        self._sample[self._taken : end].copy_(self._chosen[self._taken : end])
        self._taken = end


def histograms(samples: Sequence[Any]) -> Any:
    """Counts `[len(samples), BINS]` in the universal magnitude bins."""
    bins = torch.cat(list(samples)).view(torch.int32)
    bins >>= 21
    bins &= BINS - 1
    for i, part in enumerate(bins.split([len(s) for s in samples])):
        part.add_(i * BINS)
    return torch.bincount(bins, minlength=len(samples) * BINS).reshape(len(samples), BINS)
