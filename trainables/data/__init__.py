"""Volumes on disk to packed patches on the device.

patch.py, sampling.py              which voxels a patch holds, and a batch of them cut on the host
augment.py, expand.py              patches augmented and expanded on the device
maps.py                            distances and skeletons of labels, for losses that ask for them
packing.py, packed.py              the bit-packed, memory-mapped cache
check.py                           what is wrong with a data set and its split
cellmap                            the CellMap Zarr layout at a target voxel size; which crop trains and which validates
phantom                            generated volumes in the same layout, fires, sheets
sources                            one file per layout: volumes, rasters over time, labelled volumes
"""

from trainables.data.augment import augment
from trainables.data.expand import expand_labels
from trainables.data.packed import PackedCrop, PackedDataset, named_classes, open_packed
from trainables.data.patch import PackedBatch
from trainables.data.sampling import PatchSampler, ValidationSet, validation_set

__all__ = [
    "PackedBatch",
    "PackedCrop",
    "PackedDataset",
    "PatchSampler",
    "ValidationSet",
    "augment",
    "expand_labels",
    "named_classes",
    "open_packed",
    "validation_set",
]
