"""What data costs in memory: python -m benchmarks.memory (a minute on two cores).

**Trials of one node.** Resident memory for data of four trials ÷ of one. A trial here is a process that holds what an
engine holds of data (the opened cache, the validation patches) and has gone through an epoch of the published budget
(100 batches of 24 patches of 256², then the validation pass), by default on the enlarged phantom. Counted are the
proportional share (PSS, Linux' smaps) of the cache files that are mapped, and what the process has taken for itself
since before it opened the data (anonymous pages: its own copies, the index, buffers of NumPy). Libraries, network and
optimiser are no data, and neither is heap that is free but not returned to the system (it is returned before reading,
by malloc_trim), for whatever a trial computes next takes it. PSS divides a page by the number of processes that map
it, so the sum over the trials counts it once. All trials read the whole cache right before their memory is read: hours
of training would, and the kernel may take back what lies idle.

**Labels.** The same crop of 14 classes mapped from the cache, all of it read, ÷ expanded to float32, as a pipeline that
keeps float targets would hold it; PSS of both.

**Crops.** What a trial takes for itself (anonymous pages, RssAnon of /proc/PID/status: pages of the cache, which
trials share, are not counted) with 4 times as many crops of 14 classes ÷ with one time; and the highest RssAnon that
packing them adds. The crops are those of data=phantom14, under further names.

**Steps.** What a training step is said to need (`trainables.memory`) ÷ the most that PyTorch's allocator had given out
in two uncompiled float32 steps on the CPU, for the eight networks as published, at fourteen classes: slices of 256² two
at a time, volumes of 32 × 96² one at a time, for those of the comparison have no room here.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import mmap
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Result, main

TRIALS = 4
PATCH, BATCH, ITERATIONS, VALIDATION_BATCHES = [1, 256, 256], 24, 100, 20
"""The published budget of an epoch."""
LABELS_SHAPE = (16, 512, 512)
"""Voxels of the crop whose labels are expanded: 16 MiB packed."""
NUM_CLASSES = 14
CROPS = 4
TRIALS_TARGET, LABELS_TARGET, CROPS_TARGET, STEPS_TARGET = 1.1, 0.1, 1.5, 0.25
MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", default="", help="folder of the volumes; the enlarged phantom where it is left out")
    parser.add_argument("--child", choices=("trial", "packed", "expanded", "many", "pack"), help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    root = arguments.root or str(enlarged_phantom())
    yield trials(root, arguments.repetitions)
    with tempfile.TemporaryDirectory(prefix="memory") as folder:
        yield labels(Path(folder), arguments.repetitions)
        yield from crops(Path(folder), arguments.repetitions)
    yield steps()


def enlarged_phantom() -> Path:
    from benchmarks import enlarged

    return enlarged.ensure()


@dataclass(frozen=True, kw_only=True)
class Held:
    """Memory of one process for data, bytes."""

    mapped: int
    """PSS of the mapped files below the folder in question."""
    private: int
    """Growth of its anonymous memory."""

    @property
    def total(self) -> int:
        return self.mapped + self.private


def trials(root: str, repetitions: int) -> Result:
    open_once(root)
    pairs = []
    for _ in range(repetitions):
        one, four = (held_together("trial", number, root) for number in (1, TRIALS))
        pairs.append((sum(held.total for held in four), sum(held.total for held in one)))
    return Result(
        claim=f"memory for data: {TRIALS} trials on one node ÷ 1",
        values=tuple(four / one for four, one in pairs),
        target=TRIALS_TARGET,
        at_least=False,
        unit="",
        note=f"1 trial: {one[0].mapped / MIB:.0f} MiB of mapped cache, {one[0].private / MIB:.1f} MiB of its own; "
        f"{TRIALS} trials: {total_mapped(four) / MIB:.0f} MiB mapped, "
        f"{sum(held.private for held in four) / MIB:.1f} MiB their own",
        details={"bytes": pairs},
    )


def total_mapped(processes: Iterable[Held]) -> int:
    return sum(held.mapped for held in processes)


def labels(folder: Path, repetitions: int) -> Result:
    write_labels(folder / "labels.npy")
    pairs = []
    for _ in range(repetitions):
        packed, expanded = (held_together(kind, 1, str(folder))[0] for kind in ("packed", "expanded"))
        pairs.append((packed.total, expanded.private))
    return Result(
        claim=f"memory for labels of {NUM_CLASSES} classes: packed ÷ expanded to float32",
        values=tuple(packed / expanded for packed, expanded in pairs),
        target=LABELS_TARGET,
        at_least=False,
        unit="",
        note=f"{pairs[-1][0] / MIB:.0f} MiB and {pairs[-1][1] / MIB:.0f} MiB",
        details={"bytes": pairs},
    )


def crops(folder: Path, repetitions: int) -> Iterator[Result]:
    """folder: an empty one, for the volumes and their caches."""
    from trainables.data.phantom import generate

    volumes = generate.ensure(folder, "fourteen")
    few, many = (copied(volumes, folder / f"times{times}", times) for times in (1, CROPS))
    packing = [(packing_peak(many), packing_peak(few)) for _ in range(repetitions)]
    held = [tuple(held_together("many", 1, str(root))[0].private for root in (many, few)) for _ in range(repetitions)]
    for what, pairs in (("memory of a trial's own", held), ("memory of packing", packing)):
        yield Result(
            claim=f"{what}: {CROPS} × the crops ÷ 1 ×",
            values=tuple(more / less for more, less in pairs),
            target=CROPS_TARGET,
            at_least=False,
            unit="",
            note=f"{pairs[-1][0] / MIB:.1f} MiB and {pairs[-1][1] / MIB:.1f} MiB",
            details={"bytes": pairs},
        )


def copied(volumes: Path, root: Path, times: int) -> Path:
    """A root in which the data sets of another appear `times` times, under names of their own."""
    for number in range(times):
        for container in sorted(volumes.glob("*/*.zarr")):
            name = f"{container.stem}_{number}"
            (root / name).mkdir(parents=True)
            (root / name / f"{name}.zarr").symlink_to(container)
    return root


def packing_peak(root: Path) -> int:
    """Bytes that packing adds at most to the RssAnon of a process of its own."""
    shutil.rmtree(f"{root}.cache", ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.memory", "--child", "pack", "--root", str(root)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def steps() -> Result:
    from search_spaces.networks import NETWORKS
    from trainables.memory import step_bytes
    from trainables.settings import FOURTEEN_CLASSES, network_preset, trial_settings

    found = {}
    for name in NETWORKS:
        preset, patches = network_preset(name), 2 if name.endswith("2d") else 1
        patch = preset["data"]["patch"] if patches == 2 else [32, 96, 96]
        data = {"classes": list(FOURTEEN_CLASSES), "patch": patch}
        settings = trial_settings({"data": data, "model": preset["model"], "hardware": {"device": "cpu"}})
        found[name] = step_bytes(settings, in_channels=1, patches=patches, gpu=False), held_by_steps(settings, patches)
    return Result(
        claim="memory of a step: how far what is said is off what was allocated, worst of eight networks",
        values=(max(abs(said / held - 1) for said, held in found.values()),),
        target=STEPS_TARGET,
        at_least=False,
        unit="",
        note=", ".join(f"{name} {held / 1e9:.2f} GB {said / held - 1:+.1%}" for name, (said, held) in found.items()),
        details={"bytes": found},
    )


def held_by_steps(settings: Any, patches: int, in_channels: int = 1) -> int:
    """The most bytes that PyTorch's allocator had given out in two uncompiled training steps on the CPU."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from trainables import losses, models
    from trainables.data.expand import packed_bytes
    from trainables.hardware import resolve
    from trainables.optim import Optimisation
    from trainables.steps import Forward
    from trainables.tasks import get_task

    hardware, data = resolve(settings.hardware, share=1, cpus=1), settings.data
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        network = models.build(
            settings.model, in_channels=in_channels, num_classes=len(data.classes), patch=data.patch
        ).train()
        forward = Forward(network, get_task(settings.task.name), data.classes, hardware)
        loss = losses.build("static", {"weights": [1.0] * len(data.classes)}, data.classes)
        optim = Optimisation(network, settings.trainer, hardware, "max")
        for step in range(2):
            em = torch.zeros(patches, in_channels, *data.patch, dtype=torch.uint8)
            labels = torch.zeros(patches, packed_bytes(len(data.classes)), *data.patch, dtype=torch.uint8)
            optim.optimizer.zero_grad(set_to_none=True)
            optim.backward(loss.with_counts(*forward(em, labels))[0])
            optim.step(step, settings.trainer)
    now = most = 0
    for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def held_together(kind: str, number: int, folder: str) -> list[Held]:
    """Start `number` processes, wait until all hold their data, and read what each of them holds."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", kind, "--root", folder]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)
    ]
    try:
        said = [answer(process) for process in processes]
        for process in processes:
            process.stdin.write("touch\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        for process in processes:
            answer(process)
        return [held_by(process.pid, int(before), cache) for process, (before, cache) in zip(processes, said)]
    finally:
        for process in processes:
            process.communicate("")
            process.wait()


def answer(process: subprocess.Popen[str]) -> list[str]:
    """The next line of a started process. Raises RuntimeError where it has ended."""
    assert process.stdout is not None
    words = process.stdout.readline().split()
    if not words:
        raise RuntimeError("a process ended before it held its data; its error is above")
    return words


def held_by(pid: int, anonymous_before: int, folder: str) -> Held:
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    return Held(mapped=mapped_pss(smaps, folder), private=max(0, anonymous(smaps) - anonymous_before))


def mapped_pss(smaps: str, folder: str) -> int:
    """PSS in bytes of the mappings of files below `folder`."""
    return sum(fields["Pss"] for path, fields in mappings(smaps) if path.startswith(f"{folder}/"))


def anonymous(smaps: str) -> int:
    """Bytes of pages that belong to no file."""
    return sum(fields["Anonymous"] for _, fields in mappings(smaps))


def mappings(smaps: str) -> Iterator[tuple[str, dict[str, int]]]:
    """(path, or "" where there is none; {field: bytes}) of every mapping in a /proc/PID/smaps."""
    path, fields = "", dict[str, int]()
    for line in smaps.splitlines():
        first, *rest = line.split()
        if first.endswith(":"):
            if rest[-1:] == ["kB"]:
                fields[first[:-1]] = int(rest[0]) * 1024
            continue
        if fields:
            yield path, fields
        path, fields = " ".join(rest[4:]), {}
    if fields:
        yield path, fields


# What the started processes do.


def settings_of(root: str) -> Any:
    from trainables.settings import FOURTEEN_CLASSES, DataSettings

    if Path(root).name.startswith("times"):
        classes = list(FOURTEEN_CLASSES)
        return DataSettings(name="cellmap", root=root, patch=PATCH, classes=classes, cache_dir=f"{root}.cache")
    return DataSettings(name="cellmap", root=root, patch=PATCH)


def open_once(root: str) -> None:
    """Build the cache, so that no trial does."""
    from trainables.data import open_packed

    open_packed(settings_of(root))


def child(kind: str, folder: str) -> None:
    """Take the data; say how much memory was taken before and below which folder the mapped files lie. Told to, touch
    all mapped data and say so; then wait for the end of the input."""
    import torch  # not data

    from trainables import engine  # noqa: F401

    torch.set_num_threads(1)
    actions = {"trial": hold_trial, "packed": hold_packed, "expanded": hold_expanded, "many": hold_trial}
    release()
    before = anonymous(Path("/proc/self/smaps").read_text())
    cache, mapped, kept = actions[kind](folder)
    print(before, cache, flush=True)
    sys.stdin.readline()
    release()
    for array in mapped:
        touch(array)
    print("touched", flush=True)
    sys.stdin.read()
    del kept


def pack(root: str) -> None:
    """Pack the crops and say how many bytes RssAnon has grown by at most."""
    from trainables.data import open_packed

    settings, seen, done = settings_of(root), [rss_anon()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(rss_anon())

    watcher = threading.Thread(target=watch)
    watcher.start()
    open_packed(settings)
    done.set()
    watcher.join()
    print(max(seen) - seen[0])


def rss_anon() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def release() -> None:
    """Return to the system what is free in the heap (glibc)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def hold_trial(root: str) -> tuple[str, list[np.ndarray], Any]:
    """What a trial holds after an epoch."""
    from trainables.data import PatchSampler, open_packed
    from trainables.evaluation import Validator
    from trainables.hardware import resolve
    from trainables.settings import HardwareSettings, TrainerSettings
    from trainables.tasks import get_task

    dataset = open_packed(settings_of(root))
    trainer = TrainerSettings(batch_size=BATCH, validation_batches=VALIDATION_BATCHES)
    hardware = resolve(HardwareSettings(device="cpu"), share=1, cpus=1)
    validator = Validator(get_task("multilabel"), dataset, trainer, 0, hardware)
    sampler = PatchSampler(dataset, batch_size=BATCH, seed=0)
    for step in range(ITERATIONS):
        sampler.batch(step)
    for batch in validator.batches:
        batch.em.sum()
    mapped = [array for crop in dataset.crops for array in (crop.em, crop.labels)]
    return str(dataset.folder), mapped, (dataset, validator, sampler)


def touch(array: np.ndarray) -> None:
    """Read one byte of every page."""
    array.reshape(-1)[:: mmap.PAGESIZE].sum()


def write_labels(path: Path) -> None:
    """Packed labels of 14 classes, random bits."""
    from trainables.data.expand import packed_bytes

    shape = (packed_bytes(NUM_CLASSES), *LABELS_SHAPE)
    np.save(path, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def hold_packed(folder: str) -> tuple[str, list[np.ndarray], Any]:
    packed = np.load(f"{folder}/labels.npy", mmap_mode="r")
    return folder, [packed], packed


def hold_expanded(folder: str) -> tuple[str, list[np.ndarray], Any]:
    """The float targets, plane by plane, so that no temporary is left of the expansion."""
    import torch

    from trainables.data import expand_labels

    packed = np.load(f"{folder}/labels.npy")
    target = torch.empty(NUM_CLASSES, *LABELS_SHAPE)
    for plane in range(LABELS_SHAPE[0]):
        labels = torch.from_numpy(packed[None, :, plane : plane + 1])
        target[:, plane : plane + 1] = expand_labels(labels, NUM_CLASSES)[0]
    del packed
    return folder, [], target


if __name__ == "__main__":
    if "--child" in sys.argv:
        _, _, kind, _, folder = sys.argv[-5:]
        pack(folder) if kind == "pack" else child(kind, folder)
    else:
        main(__doc__, run, add_arguments)
