"""What is summed over the batches of an epoch, on the device, to be read once at its end.

Shapes: C classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class TrainingSums:
    """Loss, loss per class and gradient norm of an epoch, and the share of steps without a finite gradient.

    Adding never waits for the device.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        # loss, batches | per-class losses | per-class batches | gradient norms, batches with a finite one
        self.loss = torch.zeros(2, dtype=torch.float64, device=device)
        self.per_class = torch.zeros(2, num_classes, dtype=torch.float64, device=device)
        self.norm = torch.zeros(2, dtype=torch.float64, device=device)

    def zero_(self) -> None:
        """Start an epoch."""
        for sums in (self.loss, self.per_class, self.norm):
            sums.zero_()

    @torch.no_grad()
    def add_(self, loss: Tensor, per_class: Tensor, norm: Tensor) -> None:
        """Add a batch: loss 0-d, per_class (C,) with NaN for a class not annotated in it, norm 0-d.

        The norm of a batch whose gradients overflowed (fp16: the scaler skips it) is left out.
        """
        self.loss += torch.stack([loss.double(), torch.ones_like(loss, dtype=torch.float64)])
        for sums, values, there in (
            (self.per_class, per_class, ~per_class.isnan()),
            (self.norm, norm, norm.isfinite()),
        ):
            sums += torch.stack([torch.where(there, values, 0.0).double(), there.double()])

    def read(self) -> dict[str, Any]:
        """Means over the epoch, on the host; NaN where nothing was added, e.g. a class annotated in no batch."""
        loss, norm = self.loss.tolist(), self.norm.tolist()
        losses, batches = self.per_class.tolist()
        return {
            "loss": _mean(*loss),
            "per_class": [_mean(total, count) for total, count in zip(losses, batches)],
            "grad_norm": _mean(*norm),
            "skipped_share": 1 - norm[1] / loss[1] if loss[1] else math.nan,
        }


def _mean(total: float, count: float) -> float:
    return total / count if count else math.nan
