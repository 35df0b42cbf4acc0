"""Memory and disk of a sweep, from the shapes of its tensors.

Shapes: C classes, K validation crops, B logit bins, E epochs, P packed bytes per voxel, M patches shown.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.data.cache import cache_folder
from trainables.data.expand import packed_bytes
from trainables.data.packing import shaping_settings
from trainables.data.sources import open_source
from trainables.metrics import NUM_BINS
from trainables.models import build as build_model
from trainables.prediction import MAX_PATCHES
from tune_app.planning.epochs import Range
from tune_app.settings.fitting import num_workers, step_gb
from tune_app.settings.schema import Settings

GB = 1e9
DRIVER_GB, WORKER_GB, CUDA_GB = 0.65, 0.41, 2.5
"""Resident memory of the driver with Ray's own processes, of a worker before it has a model (both measured, Ray 2.60,
proportional set size), and of CUDA's host side per worker (a rule of thumb: not measured here)."""
TYPICAL_CROPS = 20
"""Validation crops where no cache tells them."""
LOG_BYTES, LOG_BYTES_PER_CLASS = 6_000, 2_200
"""history.jsonl, result.json, progress.csv and TensorBoard events, per epoch; measured."""


def packed_cache(settings: Settings) -> Path | None:
    """A packed cache of this shape on this machine; None where there is none yet."""
    wanted = json.loads(json.dumps(shaping_settings(settings.data)))
    for index in sorted((cache_folder(settings.data) / "packed").glob("*/index.json")):
        if _read(index).get("settings") == wanted:
            return index.parent
    return None


def _read(index: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(index.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def cache_gb(folder: Path | None) -> float:
    """Size of the packed cache; NaN where there is none yet."""
    return sum(file.stat().st_size for file in folder.iterdir()) / GB if folder else math.nan


def validation_crops(folder: Path | None) -> int:
    crops = _read(folder / "index.json").get("crops", []) if folder else []
    return sum(crop.get("side") == "validate" for crop in crops) or TYPICAL_CROPS


def num_parameters(settings: Settings) -> int:
    """Of the model. Nothing is allocated."""
    return sum(parameter.numel() for parameter in _shapes_only(settings).parameters())


def has_batch_norm(settings: Settings) -> bool:
    """Whether the model normalises by statistics of batches."""
    return any(isinstance(module, _BatchNorm) for module in _shapes_only(settings).modules())


def batch_flops(settings: Settings) -> int:
    """Floating-point operations of a forward pass of one batch. Nothing is allocated."""
    from torch.utils.flop_counter import FlopCounterMode  # seconds, as above

    model = _shapes_only(settings)
    with FlopCounterMode(display=False) as counter:
        model(_images(settings, model))
    return counter.get_total_flops()


def _images(settings: Settings, model: torch.nn.Module) -> torch.Tensor:
    """A batch of images for the model, on the meta device."""
    data = settings.data
    space = data.patch[1:] if getattr(model, "spatial_dims", 3) == 2 else data.patch
    return torch.empty(settings.trainer.batch_size, open_source(data).in_channels, *space, device="meta")


def _shapes_only(settings: Settings) -> torch.nn.Module:
    in_channels, outputs = open_source(settings.data).in_channels, len(settings.outputs)
    with torch.device("meta"):
        return build_model(settings.model, in_channels=in_channels, num_classes=outputs, patch=settings.data.patch)


def memory_gb(settings: Settings, slots: int, *, gpu: bool, measured: float = math.nan) -> Range:
    """Main memory of driver, Ray and all trials at once.

    A trial without a GPU holds what a training step needs. The packed cache is shared through the page cache: it is not
    in it.
    """
    if math.isfinite(measured):
        trial = measured
    elif gpu:
        trial = num_workers(settings) * (WORKER_GB + CUDA_GB)
    else:
        trial = num_workers(settings) * (WORKER_GB + step_gb(settings))
    total = DRIVER_GB + slots * trial
    certain = math.isfinite(measured)
    return Range(total, total * (0.9 if certain else 0.75), total * (1.2 if certain else 1.5))


def disk_gb(settings: Settings, trials: int, epochs: Range, slots: int, crops: int) -> Range:
    """The sweep folder at its fullest: best weights within their cap, those of every k-th epoch, checkpoints of the
    running trials, and where trials pause of all of them, logs."""
    weights, caps = 4 * num_parameters(settings), settings.checkpoints
    kept = min(trials * weights, caps.max_number * weights, max(caps.max_gb * GB, weights))
    running = min(slots, trials) * 2 * 3 * weights
    if settings.scheduler.name == "promote":
        running += trials * 3 * weights
        kept = trials * weights
    every, lasts = settings.trainer.keep_checkpoint_every, settings.trainer.epochs
    per_epoch = log_bytes(settings) + (weights / every if 0 < every <= lasts else 0)
    return epochs.times(per_epoch / GB).plus(
        (kept + running + trials * trial_bytes(settings, epochs.expected / max(1, trials), crops)) / GB
    )


def log_bytes(settings: Settings) -> int:
    return LOG_BYTES + LOG_BYTES_PER_CLASS * len(settings.outputs)


def trial_bytes(settings: Settings, epochs: float, crops: int) -> float:
    """validation.npz and prediction.npz of one trial."""
    classes = len(settings.outputs)
    validation = crops * classes * 8 * (3 * epochs + 2 * NUM_BINS + 1)
    patches = min(MAX_PATCHES, settings.trainer.batch_size)
    side = math.prod(settings.data.patch[1:])
    return validation + patches * side * (1 + packed_bytes(classes) + math.ceil(classes / 8))
