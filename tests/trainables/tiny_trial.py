"""Trials small enough for tests: a packed data set in memory whose classes are grey-value thresholds, and configs."""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables import models
from trainables.data import PackedCrop, PackedDataset
from trainables.data.expand import pack_class, packed_bytes
from trainables.errors import SettingsError
from trainables.settings import DataSettings, TrialSettings, trial_settings

sys.path.append(str(Path(__file__).parent / "data"))  # volume_writer

CLASSES = ("dark", "mid", "bright")
LOSSES: dict[str, dict[str, Any]] = {
    "static": {"weights": [1.0, 0.5, 2.0]},
    "class_balanced": {"one_minus_beta": 1e-3},
    "balanced_softmax": {"tau": 1.0, "apply_at": "train"},
    "seesaw": {"p": 0.8, "q": 2.0},
    "tversky": {"fp_weight": 0.3, "fn_weight": 0.7},
}
VOLATILE = (
    "seconds_",
    "patches_per_s",
    "compiled_graphs",
    "gpu_",
    "time",
    "pid",
    "date",
    "hostname",
    "node_ip",
    "iterations_since",
)


def loss_of(family: str) -> dict[str, Any]:
    return {"name": family, "params": LOSSES[family]}


def trial_config(folder: Path | str = "", **sections: dict[str, Any]) -> dict[str, Any]:
    """A complete config, uncompiled, a few milliseconds per epoch; sections override single keys."""
    config: dict[str, Any] = {
        "seed": 0,
        "run": {"number": 0, "name": "0000_tiny", "dir": str(folder)},
        "loss": loss_of("seesaw"),
        "data": {"classes": list(CLASSES), "patch": [1, 16, 16]},
        "model": {"width": 4, "depth": 2},
        "trainer": {
            "epochs": 4,
            "iterations_per_epoch": 3,
            "batch_size": 2,
            "validation_batches": 3,
            "lr": 1e-2,
            "compile": False,
            "count_update_every": 2,
            "count_window": "2",
        },
        "hardware": {"device": "cpu"},
        "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0.0},
    }
    for name, values in sections.items():
        config[name] = config.get(name, {}) | values if isinstance(values, dict) and name != "loss" else values
    return copy.deepcopy(config)


def tiny_settings(**sections: dict[str, Any]) -> TrialSettings:
    return trial_settings(trial_config(**sections))


def tiny_crop(name: str, side: str, seed: int, shape: tuple[int, int, int] = (3, 24, 24)) -> PackedCrop:
    """EM of random 4 × 4 blocks; a class is present in one third of the grey values. `bright` is not annotated in
    every third crop, and no class in the last two columns."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (shape[0], shape[1] // 4, shape[2] // 4), dtype=np.uint8)
    em = coarse.repeat(4, axis=1).repeat(4, axis=2)
    labels = np.zeros((packed_bytes(3), *shape), np.uint8)
    positive, known_count, positions = np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros((3, 8, 3), np.int32)
    for c in range(3):
        present = em // 86 == c
        known = np.ones(shape, bool)
        known[..., -2:] = False
        known &= not (c == 2 and seed % 3 == 2)
        pack_class(labels, c, 3, present, known)
        voxels = np.argwhere(present & known)
        positive[c], known_count[c] = len(voxels), known.sum()
        positions[c, : min(8, len(voxels))] = voxels[:8]
    return PackedCrop(name, side, shape, em, labels, (0, 0, 0), positive, known_count, positions)


def tiny_dataset(settings: DataSettings) -> PackedDataset:
    """Four training crops and three validation crops, interleaved, the last one of the training side last."""
    sides = ("train", "validate", "train", "validate", "train", "validate", "train")
    crops = tuple(tiny_crop(f"cells/crop{i}", side, i) for i, side in enumerate(sides))
    return PackedDataset(settings, CLASSES, crops, "f00d", "", Path())


def fewest_channels(settings: TrialSettings, least: int = 1) -> int:
    """The fewest input channels, `least` or more, that the network takes: most take any, some whole frames only."""
    for channels in range(least, least + 100):
        with suppress(SettingsError), torch.device("meta"):
            models.build(settings.model, in_channels=channels, num_classes=1, patch=settings.data.patch)
            return channels
    raise AssertionError(f"{settings.model} is built for no number of channels")


def steady(row: dict[str, Any]) -> dict[str, Any]:
    """The row without what a clock or a process id decides; NaN made comparable."""
    return {k: "nan" if v != v else v for k, v in row.items() if not k.startswith(VOLATILE)}


def inductor_cache() -> str:
    """The given folder for compiled graphs, or one that the tests of this user on this processor share."""
    shared = f"{tempfile.gettempdir()}/inductor_tests-{os.getuid()}-{torch.backends.cpu.get_cpu_capability().lower()}"
    return os.environ.get("TORCHINDUCTOR_CACHE_DIR", shared)
