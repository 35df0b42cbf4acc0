"""python -m tune_app.predict checkpoint=best/1 crop=jrc_hela-2/crop155 out=pred.zarr: an export applied to a volume.

OME-Zarr 0.4 labels, one per class, at the voxel size that the network was trained at; and Dice where there is truth.
See docs/predict.md.
"""

from __future__ import annotations

import difflib
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
import zarr
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from trainables import metrics
from trainables.data.cellmap.ngff import Level, choose_level, read_levels
from trainables.data.cellmap.ngff_labels import create_labels, write_group
from trainables.data.cellmap.reader import (
    CropSource,
    Grid,
    crop_grid,
    discover_crops,
    mask_missing_em,
    read_em,
    read_labels,
)
from trainables.data.expand import class_masks
from trainables.data.sources import open_source
from trainables.data.sources.cellmap import CellMap
from trainables.inference import load_program
from trainables.settings import PATH, DataSettings, from_mapping, require, require_choice, require_in
from trainables.tiling import blended, block_shape, span
from tune_app.errors import InputError
from tune_app.exporting.model_file import ABOUT, PROGRAM
from tune_app.results.manifest import file_sha256, now, read_manifest
from tune_app.results.trial import read_json

KIND = "tune_app predict"
VOLUME = "/data/cellmap/jrc_hela-2/jrc_hela-2.zarr/recon-1/em/fibsem-uint8"


@dataclass(kw_only=True)
class DataFolder:
    """Where the volumes lie."""

    root: str = field(default="", metadata=PATH)
    """Folder that holds {dataset}/{dataset}.zarr; empty: where the network was trained."""
    cache_dir: str = field(default="", metadata=PATH)
    """Folder of the generated data, for a network trained on them; empty: $TUNE_APP_CACHE or ~/.cache/tune_app."""


@dataclass(kw_only=True)
class PredictSettings:
    """What `python -m tune_app.predict` takes."""

    checkpoint: str = field(default="best/1", metadata=PATH)
    """Folder of an export."""
    crop: str = field(default="", metadata=PATH)
    """DATASET/CROP below data.root: predicted as far as its labels reach, and scored against them."""
    volume: str = field(default="", metadata=PATH)
    """Instead: a whole EM volume, the folder of its OME-Zarr multiscale, …/recon-1/em/fibsem-uint8."""
    out: str = field(default="pred.zarr", metadata=PATH)
    """Folder to write, whole or not at all."""
    overwrite: bool = False
    """Replace an earlier prediction at `out`."""
    overlap: float = 0.5
    """Share of a window that the next one covers again, in [0, 0.9]. Windows are as large as the training patch."""
    batch_size: int = 8
    """Windows at once."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu or cuda."""
    data: DataFolder = field(default_factory=DataFolder)

    def __post_init__(self) -> None:
        require(bool(self.out), "out", self.out, "a folder is needed", "Use out=pred.zarr")
        require_in(self, "", overlap="[0, 0.9]", batch_size="[1, inf]")
        require_choice("device", self.device, ("auto", "cpu", "cuda"))
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
class Model:
    """An exported network, ready to run on uint8 (N, K, D, H, W), where D = 1 is 2D: logits (N, C, D, H, W)."""

    network: Callable[[torch.Tensor], torch.Tensor]
    classes: tuple[str, ...]
    cut: torch.Tensor
    """(C, 1, 1, 1) logits above which a class is predicted."""
    window: tuple[int, int, int]
    """z y x, voxels."""
    data: DataSettings
    """Of its training."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was written. dice: per class, NaN where the class is not there; {} without truth."""

    out: Path
    shape: tuple[int, int, int]
    dice: Mapping[str, float]


def predict(settings: PredictSettings, *, progress: Console | None = None) -> Prediction:
    """Predict and write `settings.out`. Raises InputError or DataError before anything is written, for bad input."""
    require(
        bool(settings.crop) != bool(settings.volume),
        "crop",
        settings.crop or "''",
        f"volume={settings.volume or repr('')}: one of the two says what to predict",
        "For example crop=jrc_hela-2/crop155",
    )
    out = Path(settings.out).expanduser().absolute()
    refuse_to_replace(out, overwrite=settings.overwrite)
    model = read_model(Path(settings.checkpoint).expanduser(), settings.torch_device)
    source, grid = find_source(settings, model)
    if grid.lies_outside(_em_level(source, grid)):
        raise InputError(f"crop={settings.crop}: it lies outside the EM volume {source.em}. Check both translations")
    building = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(building, ignore_errors=True)  # of a run that was killed
        building.parent.mkdir(parents=True, exist_ok=True)
        arrays = create_labels(building, model.classes, grid, image=source.em, final=out)
        counts = _predict_blocks(settings, model, source, grid, arrays, progress)
        dice = _dice(counts, [name for name in model.classes if name in source.classes], model.classes)
        write_group(building, {"tune_app": _provenance(settings, model, source, dice)})
        _put_in_place(building, out)
    except OSError as error:
        raise InputError(
            f"out={settings.out}: cannot be written ({error.strerror or error}). Choose another folder"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Prediction(out=out, shape=grid.shape, dice=dice)


def refuse_to_replace(out: Path, *, overwrite: bool) -> None:
    """InputError where `out` exists and is not to be replaced, or is no prediction."""
    if not out.exists() and not out.is_symlink():
        return
    ours = not out.is_symlink() and (read_json(out / ".zattrs").get("tune_app") or {}).get("kind") == KIND
    if not ours:
        raise InputError(f"out={out}: exists and is no prediction, so it is not replaced. Choose another folder")
    if not overwrite:
        raise InputError(f"out={out}: exists. Choose another folder, or overwrite=true to replace that prediction")


def _put_in_place(building: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    if out.exists():
        out.rename(old)
    building.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def read_model(folder: Path, device: torch.device) -> Model:
    """The network of an export. Raises InputError where the folder is none, or holds no program."""
    make_one = "Make one: python -m tune_app.export sweep=latest top=1 out=best, and give checkpoint=best/1"
    manifest = read_manifest(folder)
    if not manifest.get("sha256"):
        raise InputError(f"checkpoint={folder}: is not the folder of an export. {make_one}")
    digest = manifest["sha256"].get(PROGRAM)
    if digest is None or not (folder / PROGRAM).is_file():
        why = manifest.get("program_missing") or "it was made by an earlier version, or the file was removed"
        raise InputError(f"checkpoint={folder}: holds no {PROGRAM}: {why}. {make_one}")
    if file_sha256(folder / PROGRAM) != digest or file_sha256(folder / ABOUT) != manifest["sha256"].get(ABOUT):
        raise InputError(f"checkpoint={folder}: {PROGRAM} or {ABOUT} is damaged or was changed since. {make_one}")
    about = read_json(folder / ABOUT)
    if about.get("in_channels", 1) != 1:
        raise InputError(
            f"checkpoint={folder}: its network takes {about['in_channels']} channels; predict takes networks of one. "
            f"Run {PROGRAM} as the README.md beside it shows"
        )
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    program, flat = load_program(folder / PROGRAM, device), about.get("spatial_dims", 2) == 2
    least = about.get("least_side", 2 * about["stride"])  # programs of earlier versions take no smaller side
    depth, height, width = (max(side, least) for side in about["patch"])
    return Model(
        network=(lambda images: program(images[:, :, 0])[:, :, None]) if flat else program,
        classes=tuple(about["classes"]),
        cut=torch.tensor(about["logit"], device=device).view(-1, 1, 1, 1),
        window=(1 if flat else depth, height, width),
        data=from_mapping(DataSettings, config["data"], "data"),
        sha256=digest,
    )


def find_source(settings: PredictSettings, model: Model) -> tuple[CropSource, Grid]:
    """What is predicted, and on which voxels. Raises InputError or DataError."""
    voxel = model.data.voxel_nm
    if settings.volume:
        em = Path(settings.volume).expanduser().absolute()
        if not (em / ".zattrs").is_file():
            below = sorted(path.parent for path in em.glob("recon-*/em/*/.zattrs"))
            raise InputError(
                f"volume={settings.volume}: {'has no .zattrs' if em.is_dir() else 'no such folder'}; the folder of an "
                f"OME-Zarr 0.4 multiscale is needed. For example volume={below[0] if below else VOLUME}"
            )
        source, (finest, *_) = CropSource(em.name, em, em, ()), read_levels(em)
        shape = np.maximum(np.ceil((finest.end - finest.corner) / np.array(voxel) - 0.5 - 1e-6), 1).astype(int)
        return source, Grid(finest.corner, np.array(voxel, float), (int(shape[0]), int(shape[1]), int(shape[2])))
    place = replace(
        model.data,
        root=settings.data.root or model.data.root,
        cache_dir=settings.data.cache_dir or model.data.cache_dir,
    )
    trained_on = open_source(place)
    if not isinstance(trained_on, CellMap):
        raise InputError(f"crop={settings.crop}: data.name={place.name} is not in the CellMap layout. Give volume=PATH")
    source = _named(discover_crops(trained_on.folder), settings.crop)
    return source, crop_grid(source, [n for n in model.classes if n in source.classes] or source.classes, voxel)


def _named(sources: Sequence[CropSource], name: str) -> CropSource:
    """The crop of this name; the data set may be left out where one has such a crop."""
    found = [source for source in sources if source.name == name or source.name.endswith(f"/{name}")]
    if len(found) == 1:
        return found[0]
    names = [source.name for source in found or sources]
    close = difflib.get_close_matches(name, names, n=8, cutoff=0.3) or names[:8]
    problem = "several data sets have one" if found else "there is no such crop"
    raise InputError(f"crop={name}: {problem}. Choices: {', '.join(close)}{', …' * (len(names) > len(close))}")


def _predict_blocks(
    settings: PredictSettings,
    model: Model,
    source: CropSource,
    grid: Grid,
    arrays: Sequence[zarr.Array],
    progress: Console | None,
) -> NDArray[np.int64]:
    """Predict block by block into `arrays`; TP, FP, FN of every class against the truth, (3, C)."""
    counts = np.zeros((3, len(model.classes)), np.int64)
    blocks = list(_blocks(grid.shape, block_shape(model.window, settings.overlap, len(model.classes))))
    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    columns = (TextColumn("predicting"), BarColumn(), TaskProgressColumn(), remaining)
    with Progress(*columns, console=progress or Console(quiet=True)) as bar:
        task = bar.add_task("", total=len(blocks))
        for number, (start, stop) in enumerate(blocks, start=1):
            masks, truth = _predict_block(settings, model, source, grid, start, stop, partial(bar.advance, task))
            place = tuple(slice(a, b) for a, b in zip(start, stop))
            for index, (array, mask) in enumerate(zip(arrays, masks)):
                array[place] = mask
                if truth is not None:
                    present, known = class_masks(truth, index, len(model.classes))
                    mask = (mask > 0) & known
                    tp = np.count_nonzero(mask & present)
                    counts[:, index] += tp, np.count_nonzero(mask) - tp, np.count_nonzero(present & known) - tp
            bar.update(task, completed=number)
    return counts


def _blocks(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """First and one past the last voxel of each block."""
    for start in itertools.product(*(range(0, n, b) for n, b in zip(shape, block))):
        yield start, tuple(min(a + b, n) for a, b, n in zip(start, block, shape))


def _predict_block(
    settings: PredictSettings,
    model: Model,
    source: CropSource,
    grid: Grid,
    start: Sequence[int],
    stop: Sequence[int],
    advance: Callable[[float], object],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Masks (C, D, H, W) of one block, 0 or 1, and its packed labels where there are any.

    As in validation, windows lie inside a crop that is larger than one; a smaller crop is seen in the middle of a
    window, with the EM round it. Where there is no EM, nothing is predicted. advance: is told each further share of it.
    """
    shape = [b - a for a, b in zip(start, stop)]
    block = Grid(grid.corner + np.array(start) * grid.voxel, grid.voxel, (shape[0], shape[1], shape[2]))
    masks = np.zeros((len(model.classes), *shape), np.uint8)
    if block.lies_outside(_em_level(source, grid)):
        return masks, None
    axes = list(zip(start, stop, grid.shape, model.window))
    spans = [_span(a, b, length, window, settings.overlap) for a, b, length, window in axes]
    before = [a - low for a, (low, _) in zip(start, spans)]
    after = [high - b for b, (_, high) in zip(stop, spans)]
    em, box, level, taps = read_em(source, block, np.maximum(before, after).tolist())
    context = np.zeros([high - low for low, high in spans], np.uint8)
    _place(em, np.add(box[0], before).tolist(), context)
    device_em, done = torch.from_numpy(context).to(model.cut.device), 0
    for logits in blended(model.network, device_em[None], model.window, settings.overlap, settings.batch_size):
        at = [0, done - before[0], -before[1], -before[2]]
        _place((logits > model.cut).cpu().numpy(), at, masks)
        done += logits.shape[1]
        advance(logits.shape[1] / context.shape[0])
    mask_missing_em(masks, box, level, taps)
    if not set(source.classes) & set(model.classes):
        return masks, None
    labels = read_labels(source, model.classes, block, model.data.label_resampling)
    mask_missing_em(labels, box, level, taps)
    return masks, labels


def _em_level(source: CropSource, grid: Grid) -> Level:
    return choose_level(read_levels(source.em), grid.voxel.tolist())


def _span(start: int, stop: int, length: int, window: int, overlap: float) -> tuple[int, int]:
    """`span` of a block, in voxels of the crop; a crop smaller than a window lies in the middle of one."""
    if length < window:
        first = -((window - length) // 2)
        return first, first + window
    return span(start, stop, length, window, overlap)


def _place(source: NDArray[Any], at: Sequence[int], out: NDArray[np.uint8]) -> None:
    """out ← source, whose first element is out's element `at`, where the two overlap."""
    taken = tuple(slice(max(0, -a), max(0, min(n, m - a))) for a, n, m in zip(at, source.shape, out.shape))
    placed = tuple(slice(max(0, a), max(0, min(m, a + n))) for a, n, m in zip(at, source.shape, out.shape))
    out[placed] = source[taken]


def _dice(counts: NDArray[np.int64], known: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """Dice of the classes that the crop annotates."""
    tp, fp, fn = map(torch.from_numpy, counts)
    return {name: value for name, value in zip(classes, metrics.dice(tp, fp, fn).tolist()) if name in known}


def _provenance(
    settings: PredictSettings, model: Model, source: CropSource, dice: Mapping[str, float]
) -> dict[str, Any]:
    return {
        "kind": KIND,
        "checkpoint": settings.checkpoint,
        "model_sha256": model.sha256,
        "em": str(source.em),
        "crop": source.name if settings.crop else None,
        "logit": dict(zip(model.classes, model.cut.flatten().tolist())),
        "overlap": settings.overlap,
        "window": list(model.window),
        "made": now(),
        "dice": {name: value if value == value else None for name, value in dice.items()},
    }


def predict_and_print(settings: PredictSettings) -> int:
    """Predict, and say where it lies and how good it is."""
    done = predict(settings, progress=Console(stderr=True))
    source = read_manifest(Path(settings.checkpoint).expanduser())
    if source.get("missed"):
        print(f"note: this network misses the bounds of its sweep, {source['bounds']}, with {source['missed']}")
    print(f"{done.out}   {' × '.join(map(str, done.shape))} voxels (z y x)")
    for name, value in done.dice.items():
        print(f"  Dice {name:<14}{'not there' if value != value else f'{value:.4f}'}")
    return 0
