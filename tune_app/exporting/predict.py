"""python -m tune_app.predict checkpoint=best/1 crop=jrc_hela-2/crop155 out=pred.zarr: an export applied to a volume.

OME-Zarr 0.4 labels, one per class, at the voxel size that the network was trained at; and Dice where there is truth.
See docs/predict.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from rich.console import Console

from trainables import metrics
from trainables.data.cellmap.ngff_labels import create_labels, write_group
from trainables.settings import PATH, DataSettings, require, require_choice, require_in
from tune_app.exporting.blocks import block_of, predict_blocks, read_record, say
from tune_app.exporting.challenge import Submission, find_test_crops, write_crop
from tune_app.exporting.out_folder import KIND, RECORD, refuse_place, refuse_to_replace, unfinished
from tune_app.exporting.trained_model import Model, read_model
from tune_app.exporting.volume import DecodedVolume, Volume, data_folder, find_crop, find_volume
from tune_app.exporting.volume_labels import Labelled, predict_labels, refuse_table
from tune_app.results.manifest import now, read_manifest
from tune_app.settings.document import FORMATS, Ended


@dataclass(kw_only=True)
class DataFolder:
    """Where the volumes lie."""

    root: str = field(default="", metadata=PATH)
    """Folder of the data, {dataset}/{dataset}.zarr in the CellMap layout; empty: where the network was trained."""
    cache_dir: str = field(default="", metadata=PATH)
    """Folder of the generated data, for a network trained on them; empty: $TUNE_APP_CACHE or ~/.cache/tune_app."""


@dataclass(kw_only=True)
class PredictSettings:
    """What `python -m tune_app.predict` takes."""

    checkpoint: str = field(default="best/1", metadata=PATH)
    """Folder of an export."""
    crop: str = field(default="", metadata=PATH)
    """A crop of the data that the network was trained on or of data.root, DATASET/CROP in the CellMap layout:
    predicted as far as its labels reach, and scored against them. all: every volume, of a network that gives one label
    to each."""
    volume: str = field(default="", metadata=PATH)
    """Instead: a whole EM volume, the folder of its OME-Zarr multiscale, …/recon-1/em/fibsem-uint8, or a stack in one
    file, .npy or TIFF."""
    voxel_nm: list[float] = field(default_factory=list)
    """Of `volume`, z y x; left out, what its file says. A .npy does not say."""
    intensity: list[float] = field(default_factory=list)
    """Of `volume`, [black, white]: the values that become 0 and 255. Needed where they are not uint8."""
    submission: str = ""
    """challenge: the CellMap segmentation challenge's test crops, or the one in `crop`, as its packer takes them."""
    manifest: str = field(default="", metadata=PATH)
    """A newer test_crop_manifest.csv of the challenge; empty: the one of June 2026."""
    out: str = field(default="pred.zarr", metadata=PATH)
    """Folder to write, whole or not at all; of a network that gives one label to a volume a table, .csv. The same
    command goes on with what a stopped run left beside it."""
    overwrite: bool = False
    """Replace an earlier prediction of the same volume at `out`, and drop another one that is unfinished there."""
    overlap: float = 0.5
    """Share of a window that the next one covers again, in [0, 0.9]. Windows are as large as the training patch."""
    batch_size: int = 8
    """Windows at once."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu or cuda."""
    format: str = "table"
    """table or json (docs/json.md)."""
    data: DataFolder = field(
        default_factory=DataFolder, metadata={"instead": "Say what to predict with crop=DATASET/CROP or volume=PATH"}
    )

    def __post_init__(self) -> None:
        require(bool(self.out), "out", self.out, "a folder is needed", "Use out=pred.zarr")
        require_in(self, "", overlap="[0, 0.9]", batch_size="[1, inf]")
        require_choice("format", self.format, FORMATS)
        require_choice("device", self.device, ("auto", "cpu", "cuda"))
        require_choice("submission", self.submission, ("", "challenge"))
        require(
            len(self.voxel_nm) in (0, 3) and all(size > 0 for size in self.voxel_nm),
            "voxel_nm",
            self.voxel_nm,
            "three sizes in nm are needed, z y x",
            "For example voxel_nm=[8,8,8]",
        )
        require(
            len(self.intensity) == 0 or (len(self.intensity) == 2 and self.intensity[0] < self.intensity[1]),
            "intensity",
            self.intensity,
            "a black and a white value are needed, the lower one first",
            "For example intensity=[1200,5300]",
        )
        for name in ("voxel_nm", "intensity"):
            require(
                bool(self.volume) or not getattr(self, name),
                name,
                getattr(self, name),
                "goes with volume=; a crop is read as it was for training",
                "Leave it out",
            )
        require(
            self.device != "cuda" or torch.cuda.is_available(),
            "device",
            self.device,
            "there is no CUDA device here",
            "Use device=auto",
        )

    @property
    def torch_device(self) -> torch.device:
        wanted = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        return torch.device(wanted)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was written. dice: per class, NaN where the class is not there; {} without truth."""

    out: Path
    shape: tuple[int, int, int]
    dice: Mapping[str, float]


def predict(settings: PredictSettings, console: Console | None = None) -> Prediction | Submission | Labelled:
    """Predict and write `settings.out`. Raises InputError or DataError before anything is written, for bad input.

    console: shows progress, and what the person should know of how the volume is read.
    """
    if settings.submission:
        require(not settings.volume, "volume", settings.volume, "submission=challenge takes crops", "Leave it out")
    else:
        require(
            bool(settings.crop) != bool(settings.volume),
            "crop",
            settings.crop or "''",
            f"volume={settings.volume or repr('')}: one of the two says what to predict",
            "For example crop=jrc_hela-2/crop155",
        )
    console = console or Console(quiet=True)
    out = Path(settings.out).expanduser().absolute()
    model = read_model(Path(settings.checkpoint).expanduser(), settings.torch_device)
    data = replace(
        model.data,
        root=settings.data.root or model.data.root,
        cache_dir=settings.data.cache_dir or model.data.cache_dir,
    )
    if model.per_image:
        return _predict_labels(settings, model, data, out, console)
    refuse_to_replace(out, overwrite=settings.overwrite)
    if settings.submission:
        return _predict_submission(settings, model, data, out, console)
    volume: Volume
    if settings.crop:
        volume = find_crop(settings.crop, data, model.classes)
        if isinstance(volume, DecodedVolume):
            require(
                volume.channels == model.channels,
                "checkpoint",
                settings.checkpoint,
                f"its network takes {model.channels} channels, and crop={settings.crop} has {volume.channels}",
                "Give the data.root whose crops have the channels that it was trained on",
            )
    else:
        require(
            model.channels == 1,
            "volume",
            settings.volume,
            f"a stack has one channel, and the network takes {model.channels}",
            "Name one of its crops with crop=NAME, below data.root",
        )
        wanted = model.data.voxel_nm
        volume = find_volume(settings.volume, wanted, voxel_nm=settings.voxel_nm, intensity=settings.intensity)
    return _predict_volume(settings, model, volume, out, console)


def _predict_labels(
    settings: PredictSettings, model: Model, data: DataSettings, out: Path, console: Console
) -> Labelled:
    need = "the network gives one label to a volume"
    require(not settings.submission, "submission", settings.submission, need, "Leave it out")
    for name in ("voxel_nm", "intensity"):
        rule = f"{need}, which is read as for training"
        require(not getattr(settings, name), name, getattr(settings, name), rule, "Leave it out")
    out = out.with_suffix(".csv") if settings.out == PredictSettings.out else out
    refuse_table(out, model.classes, overwrite=settings.overwrite)
    return predict_labels(
        model,
        data,
        crop=settings.crop,
        volume=settings.volume,
        out=out,
        batch_size=settings.batch_size,
        console=console,
    )


def _predict_volume(settings: PredictSettings, model: Model, volume: Volume, out: Path, console: Console) -> Prediction:
    for note in volume.notes:
        say(console, f"note: {volume.crop or volume.em.name}: {note}")
    refuse_place(out, volume.em)
    job = {**_job(settings, model), **volume.job, "block": list(block_of(model, settings.overlap))}
    with unfinished(out, job, overwrite=settings.overwrite, say=partial(say, console)) as building:
        arrays = _arrays(building, model, volume, out)
        counts = predict_blocks(
            model,
            volume,
            arrays,
            building / RECORD,
            overlap=settings.overlap,
            batch_size=settings.batch_size,
            console=console,
        )
        dice = _dice(counts, volume.annotated, model.classes)
        figures = {name: value if value == value else None for name, value in dice.items()}
        write_group(building, {"tune_app": {**job, "made": now(), "dice": figures}})
    return Prediction(out=out, shape=volume.grid.shape, dice=dice)


def _job(settings: PredictSettings, model: Model) -> dict[str, Any]:
    """What tells the network, and what is done with it, from another."""
    return {
        "kind": KIND,
        "checkpoint": settings.checkpoint,
        "model_sha256": model.sha256,
        "classes": list(model.classes),
        "logit": dict(zip(model.classes, model.cut.flatten().tolist())),
        "overlap": settings.overlap,
        "window": list(model.window),
        "intensity": list(settings.intensity),
    }


def _arrays(building: Path, model: Model, volume: Volume, out: Path) -> list[zarr.Array]:
    """The arrays to write, (D, H, W) per class: those of a run that was stopped, or new ones."""
    if read_record(building / RECORD):
        for path in building.rglob("*.partial"):  # chunks that a kill cut short
            path.unlink()
        return [zarr.open_array(building / "labels" / name / "s0", mode="r+") for name in model.classes]
    shutil.rmtree(building / "labels", ignore_errors=True)
    return create_labels(building, model.classes, volume.grid, image=volume.em, final=out)


def _dice(counts: NDArray[np.int64], known: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """Dice of the classes that the crop annotates."""
    tp, fp, fn = map(torch.from_numpy, counts)
    return {name: value for name, value in zip(classes, metrics.dice(tp, fp, fn).tolist()) if name in known}


def _predict_submission(
    settings: PredictSettings, model: Model, data: DataSettings, out: Path, console: Console
) -> Submission:
    """Every test crop predicted by itself, then put on the challenge's grid; those that are done are not done again."""
    root = data_folder(data, "submission=challenge: ")
    crops, notes = find_test_crops(settings.manifest, settings.crop, root, model.classes, model.data.voxel_nm)
    for note in notes:
        say(console, f"note: {note}")
    job = {**_job(settings, model), "submission": [crop.name for crop in crops], "em": str(root), "crop": None}
    with unfinished(out, job, overwrite=settings.overwrite, say=partial(say, console)) as building:
        for crop in crops:
            predicted = building / f"{crop.name}.zarr"
            if not (building / crop.place).exists():
                say(console, crop.place)
                if not predicted.exists():
                    _predict_volume(settings, model, crop.volume, predicted, console)
                write_crop(crop, predicted, building / crop.place)
            shutil.rmtree(predicted, ignore_errors=True)
        write_group(building, {"tune_app": {**job, "made": now()}})
    return Submission(out=out, crops=crops)


def predict_and_print(settings: PredictSettings) -> Ended:
    """Predict, and say where it lies and how good it is."""
    done = predict(settings, Console(stderr=True))
    source = read_manifest(Path(settings.checkpoint).expanduser())
    if source.get("missed"):
        print(f"note: this network misses the bounds of its sweep, {source['bounds']}, with {source['missed']}")
    content: dict[str, Any] = {"out": done.out, "kind": "volume", "shape": None, "dice": None, "crops": None}
    content |= {"volumes": None, "told": []}
    if isinstance(done, Submission):
        print(done)
        crops = [{"place": crop.place, "classes": list(crop.grids)} for crop in done.crops]
        return Ended(lambda: content | {"kind": "submission", "crops": crops})
    if isinstance(done, Labelled):
        print(done)
        return Ended(lambda: content | {"kind": "labels", "volumes": done.volumes, "told": done.told})
    print(f"{done.out}   {' × '.join(map(str, done.shape))} voxels (z y x)")
    for name, value in done.dice.items():
        print(f"  Dice {name:<14}{'not there' if value != value else f'{value:.4f}'}")
    return Ended(lambda: content | {"shape": done.shape, "dice": done.dice})
