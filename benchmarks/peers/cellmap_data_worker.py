"""Runs inside the environment of `cellmap_data.py`: patches of cellmap-data, as many as fit into the seconds asked for.

    python cellmap_data_worker.py '{"split": PATH, "classes": […], "patch": [1, 256, 256], "voxel_nm": [8, 8, 8],
                                    "batch_size": 24, "augment": false, "core": 0, "seed": 0}'

Reads one number of seconds per line from standard input and answers each with one JSON line. Its first line says what
it stands on. The library's own dataset, value transforms and collation are used, in this process (num_workers=0).
Needs nothing of this repository.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from types import MethodType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import library

SPATIAL = {"mirror": {"axes": {"y": 0.5, "x": 0.5}}, "transpose": True, "rotate": {"axes": {"z": 180}}}
"""Mirrors, transpose and rotation by a uniform angle within ± 180°, all in the slice plane."""


def import_torchvision() -> str:
    """Its version. cellmap-data uses Python code of it only; a build for CUDA beside a torch without CUDA lacks its
    compiled operators and would refuse to be imported while it registers their shapes. That registration is skipped."""
    try:
        import torchvision
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        with mock.patch.object(library, "register_fake", return_value=lambda function: function):
            import torchvision
    return str(torchvision.__version__)


class CropSampler(torch.utils.data.Sampler):
    """Endless sample numbers: every crop equally likely, then every place in it that the library offers."""

    def __init__(self, cumulative_sizes: list[int], seed: int) -> None:
        self.edges, self.rng = np.array([0, *cumulative_sizes]), np.random.default_rng(seed)

    def __iter__(self) -> Iterator[int]:
        while True:
            crop = self.rng.integers(len(self.edges) - 1)
            yield int(self.rng.integers(self.edges[crop], self.edges[crop + 1]))


def stay_in_plane(dataset: Any) -> None:
    """The library permutes z too, which leaves most of a patch of one slice empty: exchange y and x only."""
    draw = type(dataset)._generate_spatial_transforms

    def in_plane(self: Any) -> dict[str, Any] | None:
        drawn = draw(self)
        if drawn is not None and "transpose" in drawn:
            drawn["transpose"] = [0, 2, 1] if self._rng.random() < 0.5 else [0, 1, 2]
        return drawn

    dataset._generate_spatial_transforms = MethodType(in_plane, dataset)


def batches(task: dict[str, Any], side: str = "train", num_workers: int = 0) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches: `em` float32 (N, 1, h, w), `labels` float32 (N, C, h, w) with NaN where unknown."""
    from cellmap_data import CellMapDataLoader, CellMapDataSplit

    spec = {"shape": tuple(task["patch"]), "scale": tuple(task["voxel_nm"])}
    split = CellMapDataSplit(
        input_arrays={"em": spec},
        target_arrays={"labels": spec},
        classes=task["classes"],
        pad=True,
        csv_path=task["split"],
        spatial_transforms=SPATIAL if task["augment"] else None,
    )
    combined = split.train_datasets_combined if side == "train" else split.validation_datasets_combined
    for dataset in combined.datasets:
        stay_in_plane(dataset)
    sampler = CropSampler(combined.cumulative_sizes, task["seed"])
    loader = CellMapDataLoader(combined, batch_size=task["batch_size"], num_workers=num_workers, sampler=sampler)
    return iter(loader)


def measure(source: Iterator[dict[str, torch.Tensor]], seconds: float, batch_size: int) -> dict[str, Any]:
    """Whole batches for at least `seconds`."""
    count, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        batch = next(source)
        count += batch_size
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "patches": count,
        "seconds": elapsed,
        "patches_per_s": count / elapsed,
        "cpu_seconds": cpu,
        "shape": list(batch["labels"].shape),
        "known": float((~batch["labels"].isnan()).float().mean()),
    }


def main() -> None:
    task = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {task["core"]})
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "torchvision": import_torchvision()}
    import cellmap_data
    import numcodecs
    import zarr

    numcodecs.blosc.set_nthreads(1)
    versions |= {"cellmap-data": cellmap_data.__version__, "zarr": zarr.__version__}
    source = batches(task)
    next(source)
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(source, float(line), task["batch_size"])), flush=True)


if __name__ == "__main__":
    main()
