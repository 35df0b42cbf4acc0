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


def expand_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Targets float32 (N, C, D, H, W): 1 present, 0 absent, NaN unknown.

    labels: uint8 (N, P, D, H, W). Pure, static shapes, no data-dependent control flow: compiles as one graph, on a CPU
    into one loop that loads a voxel's bytes once and stores all its classes (docs/decisions/expansion-in-one-loop.md).
    """
    # int32 lanes are as wide as the floats they select. Flat planes: of (N, C, 1, H, W) Inductor cannot tell whether
    # channels come last, guesses that they do, and writes the stack through a transposed temporary.
    flat = labels.flatten(2).to(torch.int32)

    def bit(index: int) -> Tensor:
        return (flat[:, index // 8] >> (index % 8)) & 1

    planes = [torch.where(bit(num_classes + c) > 0, bit(c).to(torch.float32), float("nan")) for c in range(num_classes)]
    return torch.stack(planes, dim=1).unflatten(2, labels.shape[2:])


def pack_class(
    planes: NDArray[np.uint8], index: int, num_classes: int, present: NDArray[np.bool_], known: NDArray[np.bool_]
) -> None:
    """Set the two bits of class `index` in planes (P, D, H, W) in place; present counts only where known."""
    for bit, mask in ((index, present & known), (num_classes + index, known)):
        planes[bit // 8] |= mask.astype(np.uint8) << np.uint8(bit % 8)


def class_masks(planes: NDArray[np.uint8], index: int, num_classes: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(present, known) of class `index` from planes (P, D, H, W), each bool (D, H, W): the inverse of `pack_class`."""
    present, known = ((planes[bit // 8] >> np.uint8(bit % 8)) & 1 != 0 for bit in (index, num_classes + index))
    return present, known
