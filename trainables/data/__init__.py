"""Volumes on disk to packed patches on the device.

cellmap.py, encoding.py            read the CellMap Zarr layout at a target voxel size
ngff.py, resample.py               multiscale metadata and chunks; resampling between grids
classes.py                         class names and the checks on them
datasplit.py, overlap.py           which crop trains and which validates; crops that share voxels
packing.py, packed.py              the bit-packed, memory-mapped cache
sampling.py, augment.py, expand.py patches: cut on the host, augmented and expanded on the device
check.py                           what is wrong with a data set and its split
phantom.py                         generated volumes in the same layout
"""

from trainables.data.augment import augment
from trainables.data.expand import expand_labels
from trainables.data.packed import PackedCrop, PackedDataset, named_classes, open_packed
from trainables.data.sampling import PackedBatch, PatchSampler, ValidationSet, validation_set

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
