"""What `predict` costs beside a loop that anybody would write: python -m benchmarks.prediction (minutes on two cores).

**Time and memory.** The same exported network over the same volume, once by `predict` and once by MONAI alone: the
volume read whole, `SliceInferer` (2D) or `SlidingWindowInferer` (3D) with Gaussian blending over it, the logits cut,
the labels written to the same arrays. Both start after their imports and load the program themselves. Memory is the
largest resident set beyond that before the start (Linux' VmHWM, reset). `predict` goes block by block, so it computes
windows at the border of two blocks twice and holds no more than a block: the volumes have several of them.

**Memory whatever the volume.** `predict` of a volume three times as deep ÷ of one, from a NumPy, a TIFF (compressed)
and an OME-Zarr; reading is part of it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Result, interleaved, main, ratios

CLASSES = ("nuc", "mito_mem", "er_mem", "pm", "golgi_mem")
PATCH = {2: (1, 128, 128), 3: (16, 64, 64)}
COMPARED = {2: (2, 1152, 1152), 3: (128, 160, 160)}
"""Voxels. Blocks are 1024 wide in 2D, and 64 deep in 3D."""
DEEP, TIMES = {2: (32, 128, 256), 3: (192, 64, 128)}, 3
TIME_TARGET, MEMORY_TARGET, GROWTH_TARGET = 1.25, 1.0, 1.1
MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--child", nargs=3, metavar=("SIDE", "EXPORT", "VOLUME"), help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="prediction") as name:
        folder = Path(name)
        for dims in (2, 3):
            export(folder / f"{dims}d", dims)
            yield from against_monai(folder, dims, arguments.repetitions)
        for dims in (2, 3):
            yield growth(folder, dims)


def against_monai(folder: Path, dims: int, repetitions: int) -> Iterator[Result]:
    volume, shape = folder / f"{dims}d.npy", COMPARED[dims]
    np.save(volume, grey(shape))

    def side(name: str) -> dict[str, float]:
        return child(name, folder / f"{dims}d", volume)

    both: list[tuple[dict[str, float], dict[str, float]]] = interleaved(  # type: ignore[assignment]
        lambda: side("ours"),  # type: ignore[arg-type, return-value]
        lambda: side("plain"),  # type: ignore[arg-type, return-value]
        repetitions,
    )
    for ours, plain in both:
        # But for a share in 3D: MONAI bounds the weight of a corner from below, `predict` its factors.
        assert abs(ours["voxels"] - plain["voxels"]) <= 0.01 * plain["voxels"], "they predict the same"
    ours, plain = both[-1]
    size = " × ".join(map(str, shape))
    yield Result(
        claim=f"seconds for a volume in {dims}D: predict ÷ plain MONAI loop",
        values=ratios((a["seconds"], b["seconds"]) for a, b in both),
        target=TIME_TARGET,
        at_least=False,
        note=f"{size} voxels, {len(CLASSES)} classes; {ours['seconds']:.1f} and {plain['seconds']:.1f} s",
    )
    yield Result(
        claim=f"peak memory for a volume in {dims}D: predict ÷ plain MONAI loop",
        values=ratios((a["bytes"], b["bytes"]) for a, b in both),
        target=MEMORY_TARGET,
        at_least=False,
        note=f"the same; {ours['bytes'] / MIB:.0f} and {plain['bytes'] / MIB:.0f} MiB",
    )


def growth(folder: Path, dims: int) -> Result:
    """The worst of the three forms decides."""
    found = {}
    for form, write in FORMS.items():
        for times in (1, TIMES):
            depth, *plane = DEEP[dims]
            path = folder / f"{dims}d_{times}{form}"
            write(path, grey((times * depth, *plane)))
            found[form, times] = child("ours", folder / f"{dims}d", path, overlap=0.0)["bytes"]
    said = ", ".join(f"{form}: {found[form, 1] / MIB:.0f} and {found[form, TIMES] / MIB:.0f} MiB" for form in FORMS)
    return Result(
        claim=f"peak memory of predict in {dims}D: a volume {TIMES} times as deep ÷ one",
        values=tuple(found[form, TIMES] / found[form, 1] for form in FORMS),
        target=GROWTH_TARGET,
        at_least=False,
        unit="",
        note=f"{' × '.join(map(str, DEEP[dims]))} voxels; {said}",
    )


def grey(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_tiff(path: Path, values: np.ndarray) -> None:
    import tifffile

    tifffile.imwrite(path, values, compression="zlib", rowsperstrip=64)


def write_zarr(path: Path, values: np.ndarray) -> None:
    import zarr

    from trainables.data.cellmap.ngff_labels import create_labels
    from trainables.data.cellmap.reader import Grid

    depth, height, width = values.shape
    grid = Grid(np.zeros(3), np.full(3, 8.0), (depth, height, width))
    [array] = create_labels(path, ["em"], grid, image=path, final=path)
    array[:] = values
    (path / "labels" / "em" / "s0").rename(path / "s0")
    attributes = json.loads((path / "labels" / "em" / ".zattrs").read_text())
    (path / ".zattrs").write_text(json.dumps({"multiscales": attributes["multiscales"]}))
    zarr.open_array(path / "s0", mode="r")


FORMS: dict[str, Callable[[Path, np.ndarray], object]] = {".npy": np.save, ".tif": write_tiff, ".zarr": write_zarr}


def child(name: str, exported: Path, volume: Path, overlap: float = 0.5) -> dict[str, float]:
    """Seconds, bytes beyond those at the start, and predicted voxels, of one process."""
    command = [sys.executable, "-m", "benchmarks.prediction", "--child", name, str(exported), str(volume), str(overlap)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# What the started processes do.


def export(folder: Path, dims: int) -> None:
    """An export of a UNet with drawn weights, cut where half of the voxels of each class are above."""
    import hashlib

    import torch
    import yaml

    from trainables import models
    from trainables.inference import Inference, save_program
    from trainables.settings import ModelSettings

    torch.manual_seed(0)
    settings = ModelSettings(width=4, depth=2)
    network = models.build(settings, in_channels=1, num_classes=len(CLASSES), patch=PATCH[dims])
    model = Inference(network, [0.0] * len(CLASSES)).eval()
    with torch.no_grad():
        window = torch.from_numpy(grey(PATCH[dims]))[None, None]
        logits = model(window[:, :, 0] if dims == 2 else window)
    cut = logits.transpose(0, 1).flatten(1).median(dim=1).values.tolist()
    folder.mkdir()
    save_program(model, folder / "model.pt2")
    about = {"classes": CLASSES, "logit": cut, "patch": PATCH[dims], "stride": model.stride}
    about |= {"least_side": model.stride, "spatial_dims": dims, "in_channels": 1}
    (folder / "model.json").write_text(json.dumps(about))
    data = {"name": "cellmap", "classes": list(CLASSES), "patch": list(PATCH[dims])}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"kind": "tune_app export", "sha256": digests}))


def ours(exported: Path, volume: Path, out: Path, overlap: float) -> None:
    from tune_app.exporting.predict import PredictSettings, predict

    voxel = [] if volume.is_dir() else [8.0, 8.0, 8.0]
    predict(
        PredictSettings(
            checkpoint=str(exported), volume=str(volume), voxel_nm=voxel, out=str(out), overlap=overlap, device="cpu"
        )
    )


def plain(exported: Path, volume: Path, out: Path, overlap: float) -> None:
    """A loop over the whole volume in memory."""
    import torch
    from monai.inferers import SliceInferer, SlidingWindowInferer

    from trainables.data.cellmap.ngff_labels import create_labels
    from trainables.data.cellmap.reader import Grid

    program: Any = torch.export.load(exported / "model.pt2").module()
    about = json.loads((exported / "model.json").read_text())
    window, cut = about["patch"], torch.tensor(about["logit"]).view(-1, 1, 1, 1)
    shared: dict[str, Any] = {"sw_batch_size": 8, "overlap": overlap, "mode": "gaussian"}
    inferer = (
        SliceInferer(roi_size=window[1:], spatial_dim=0, **shared)
        if window[0] == 1
        else SlidingWindowInferer(roi_size=window, **shared)
    )
    em = np.load(volume)
    with torch.no_grad():
        image = torch.from_numpy(em)[None, None].float()
        logits = inferer(image, lambda part: program(part.to(torch.uint8)))
        assert isinstance(logits, torch.Tensor)
        masks = (logits[0] > cut).numpy().astype(np.uint8)
    depth, height, width = em.shape
    grid = Grid(np.zeros(3), np.full(3, 8.0), (depth, height, width))
    for array, mask in zip(create_labels(out, CLASSES, grid, image=volume, final=out), masks):
        array[:] = mask


def measured(name: str, exported: Path, volume: Path, overlap: float) -> dict[str, float]:
    import monai.data.utils
    import monai.inferers  # noqa: F401
    import zarr

    import tune_app.exporting.predict  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="prediction") as folder:
        out = Path(folder) / "out.zarr"
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        started = time.perf_counter()
        {"ours": ours, "plain": plain}[name](exported, volume, out, overlap)
        seconds = time.perf_counter() - started
        peak = memory("VmHWM")
        voxels = sum(int(zarr.open_array(out / "labels" / label / "s0", mode="r")[:].sum()) for label in CLASSES)
    return {"seconds": seconds, "bytes": peak - before, "voxels": voxels}


def memory(field: str) -> int:
    """Bytes, of this process."""
    [kilobytes] = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


if __name__ == "__main__":
    if "--child" in sys.argv:
        _, _, name, exported, volume, overlap = sys.argv
        print(json.dumps(measured(name, Path(exported), Path(volume), float(overlap))))
    else:
        main(__doc__, run, add_arguments)
