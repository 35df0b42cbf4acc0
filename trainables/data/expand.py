"""Packed labels to float targets, on the device.

Shapes: N batch, C classes, P = ceil(2C / 8) bytes per voxel, D H W space.
Bit i of a voxel lies in byte i // 8 at position i % 8. Bit c: class c is present; bit C + c: class c is annotated.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def packed_bytes(num_classes: int) -> int:
    """Bytes per voxel for `num_classes` classes: P = ceil(2C / 8)."""
    return math.ceil(2 * num_classes / 8)


def _bit(labels: Tensor, index: int) -> Tensor:
    """Bit `index` of labels (N, P, D, H, W) as bool (N, D, H, W)."""
    return (labels[:, index // 8] & (1 << (index % 8))) != 0


def expand_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Targets float32 (N, C, D, H, W): 1 present, 0 absent, NaN unknown.

    labels: uint8 (N, P, D, H, W). Pure, static shapes, no data-dependent control flow: compiles as one graph. Planes
    stay uint8 because torch cannot shift uint16 on the CPU and the wider integers are twenty times slower there.
    """
    present = torch.stack([_bit(labels, c) for c in range(num_classes)], dim=1)
    known = torch.stack([_bit(labels, num_classes + c) for c in range(num_classes)], dim=1)
    return torch.where(known, present.to(torch.float32), float("nan"))


def pack_class(planes: NDArray[np.uint8], index: int, num_classes: int, present: NDArray[np.bool_],
               known: NDArray[np.bool_]) -> None:  # fmt: skip
    """Set the two bits of class `index` in planes (P, D, H, W) in place; present counts only where known."""
    for bit, mask in ((index, present & known), (num_classes + index, known)):
        planes[bit // 8] |= mask.astype(np.uint8) << np.uint8(bit % 8)


def class_masks(planes: NDArray[np.uint8], index: int, num_classes: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(present, known) of class `index` from planes (P, D, H, W), each bool (D, H, W): the inverse of `pack_class`."""
    present, known = (
        (planes[bit // 8] >> np.uint8(bit % 8)) & 1 != 0 for bit in (index, num_classes + index)
    )  # fmt: skip
    return present, known
