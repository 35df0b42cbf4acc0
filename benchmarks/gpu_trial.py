"""One trial for the GPU measurements: an engine on data made up in memory-mapped files, and a process that runs it.

    python -m benchmarks.gpu_trial SHAPES        trains when told to, see `serve`

The values of the data do not matter to speed; their layout is that of the packed cache. Needs torch, numpy and what
`trainables` needs to read data; neither Ray nor Hydra.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.data import PackedCrop, PackedDataset
from trainables.data.expand import packed_bytes
from trainables.engine import Engine
from trainables.settings import DataSettings, HardwareSettings, ModelSettings, TrainerSettings, TrialSettings
from trainables.steps import prepare_ahead

ROOT = Path(__file__).resolve().parents[1]
LOSS = {"name": "seesaw", "params": {"p": 0.8, "q": 2.0}}
STEPS_IN_FLIGHT = 10
ENDLESS = 1_000_000
"""Steps of an epoch that is stopped by the clock."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What is trained. The defaults are the published network, patch and batch."""

    device: str = "cuda"
    width: int = 64
    depth: int = 4
    patch: int = 256
    batch: int = 24
    compile: bool = True
    cpus: int = 4


def make_dataset(settings: DataSettings, folder: Path) -> PackedDataset:
    """Three crops for training and one for validation, all wider than a patch's context, mapped from files."""
    names = {"crop0": "train", "crop1": "train", "crop2": "train", "crop3": "validate"}
    crops = tuple(make_crop(settings, folder, name, side) for name, side in names.items())
    return PackedDataset(settings, tuple(settings.classes), crops, "made up", "", folder)


def make_crop(settings: DataSettings, folder: Path, name: str, side: str) -> PackedCrop:
    """Random grey values and random bits, (8, 2·patch, 2·patch) voxels."""
    rng = np.random.default_rng([*name.encode()])
    classes = len(settings.classes)
    shape = (8, 2 * settings.patch[1], 2 * settings.patch[2])
    arrays = {"em": shape, "labels": (packed_bytes(classes), *shape)}
    for part, size in arrays.items():
        np.save(folder / f"{name}.{part}.npy", rng.integers(0, 256, size, dtype=np.uint8))
    em, labels = (np.load(folder / f"{name}.{part}.npy", mmap_mode="r") for part in arrays)
    voxels = np.full(classes, np.prod(shape), np.int64)
    positions = rng.integers(0, min(shape), (classes, 64, 3)).astype(np.int32)
    return PackedCrop(name, side, shape, em, labels, (0, 0, 0), voxels // 4, voxels // 2, positions)


def make_engine(shapes: Shapes, folder: Path, *, fast: bool, tf32: bool = True, share: float = 1.0) -> Engine:
    """An engine as a trial has it; not `fast`: uncompiled, float32, contiguous, otherwise the same."""
    data = DataSettings(patch=[1, shapes.patch, shapes.patch])
    settings = TrialSettings(
        data=data,
        model=ModelSettings(width=shapes.width, depth=shapes.depth),
        trainer=TrainerSettings(batch_size=shapes.batch, validation_batches=1, compile=fast and shapes.compile),
        hardware=HardwareSettings(
            device=shapes.device, precision="auto" if fast else "off", channels_last=fast, tf32=tf32
        ),
    )
    return Engine(settings, LOSS, 0, dataset=make_dataset(data, folder), share=share, cpus=shapes.cpus)


def synchronize(device: torch.device) -> None:
    """Wait for everything that was given to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train_for(engine: Engine, seconds: float) -> dict[str, float]:
    """Train through the whole pipeline for so long: {"patches", "seconds"}, only finished steps counted."""
    engine.model.train()
    engine.settings.trainer.iterations_per_epoch = ENDLESS
    prepared = prepare_ahead(engine._batches(), engine._patches, engine.hardware.device)
    in_flight: deque[Any] = deque()
    finished, started = 0, time.perf_counter()
    for step, (em, labels) in enumerate(prepared):
        engine.train_on(em, labels, step)
        in_flight.append(mark(engine.hardware.device))
        if len(in_flight) > STEPS_IN_FLIGHT:
            wait_for(in_flight.popleft())
            finished += 1
        passed = time.perf_counter() - started
        if passed >= seconds and finished:
            break
    synchronize(engine.hardware.device)
    return {"patches": finished * engine.settings.trainer.batch_size, "seconds": passed}


def mark(device: torch.device) -> Any:
    """A point in the device's queue; None on the CPU, which has none."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record()
    return event


def wait_for(event: Any) -> None:
    """Until the device has come to `event`."""
    if event is not None:
        event.synchronize()


def serve(shapes: Shapes) -> None:
    """Be a trial with half a GPU: print a line when warm.

    Then train, for every line of stdin, as many seconds as it says, and print the result as JSON. Ends with stdin.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(shapes, Path(folder), fast=True, share=0.5)
        train_for(engine, 0.0)
        print("warm", flush=True)
        for line in sys.stdin:
            print(json.dumps(train_for(engine, float(line))), flush=True)


class TrialProcess:
    """`serve` in a process of its own, as a context."""

    def __init__(self, shapes: Shapes) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_trial", json.dumps(asdict(shapes))]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> TrialProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_until_warm(self) -> None:
        """RuntimeError where the process ends before it is."""
        self._answer()

    def start(self, seconds: float) -> None:
        """Let it train; `finish` tells how far it came."""
        self._process.stdin.write(f"{seconds}\n")

    def finish(self) -> float:
        """Patches per second of what was started."""
        result = json.loads(self._answer())
        return result["patches"] / result["seconds"]

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the trial's process ended with exit code {self._process.wait()}; see above")
        return line


if __name__ == "__main__":
    serve(Shapes(**json.loads(sys.argv[1])))
