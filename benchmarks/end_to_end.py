"""A whole comparison, as it was published and as this program runs it: python -m benchmarks.end_to_end.

The fifteen published configurations on the same data (the phantom, in the CellMap layout), with the same UNet, the same
batches, iterations, epochs and validation. **The published way**: a process per configuration, two at once on two cores
(four on two cards, then), each with cellmap-data's loader and two workers, an eager network, the Tversky loss in plain
torch, every epoch of every configuration (benchmarks/peers/published_way.py). **Ours**: `run family=compare`, once with
every epoch and once with early stopping. And, with --large, three published seesaw configurations of width 64 on
patches of 256² of the enlarged phantom (benchmarks.enlarged), where arithmetic is nearly all.

Wall time is that of the whole command, Python's and Ray's start included; memory the largest sum of the proportional
sets (PSS) of all processes of a side. The other side's environment is made first by benchmarks.peers.cellmap_data.
Takes about half an hour on two cores per repetition.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.enlarged import ensure as enlarged_phantom
from benchmarks.harness import Result, main, number, ratios
from benchmarks.peers.cellmap_data import PeerError, ensure_environment
from benchmarks.sweeps import run_sweep, times_of_sweep
from trainables.data import open_packed
from trainables.losses import Counts, make_rule
from tune_app.results.sweep import Sweep
from tune_app.search.arms import planned_arms
from tune_app.settings.command_line import compose
from tune_app.settings.schema import Settings
from tune_app.sweep.counts import class_counts

AT_ONCE = 2
PUBLISHED = Path(__file__).with_name("peers") / "published_way.py"
SAMPLE_S = 0.5
SMALL = ("family=compare",)
LARGE = (
    *("family=seesaw", "search.num_samples=3", "search.baseline=false", "scheduler.name=none"),
    *("model.width=64", "data.patch=[1,256,256]", "trainer.batch_size=2", "trainer.validation_batches=2"),
    *("trainer.epochs=2", "trainer.iterations_per_epoch=8"),
)


@dataclass(frozen=True, kw_only=True)
class Side:
    """seconds: of the whole command, or of all of them. peak_gb: of memory. stepping, loading: seconds inside steps and
    waiting for patches, summed over configurations. best: highest mean Dice."""

    seconds: float
    peak_gb: float
    stepping: float
    loading: float
    best: float


class Memory:
    """In a `with` block: the largest sum of the PSS of this process's descendants, in GB."""

    def __enter__(self) -> Memory:
        self.peak_gb, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.peak_gb = max(self.peak_gb, sum(map(_pss, _descendants(os.getpid()))) / 1e9)


def _descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended
            for child in map(int, children.read_text().split()):
                yield child
                yield from _descendants(child)


def _pss(pid: int) -> int:
    """Bytes; 0 of a process that has ended."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return 0


def published_way(python: Path, folder: Path, settings: Settings) -> Side:
    """The planned configurations of a sweep of ours, a process each, AT_ONCE at a time."""
    tasks = [json.dumps(task) for task in tasks_of(settings, folder)]
    started = time.perf_counter()
    with Memory() as memory, ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda task: _answer([str(python), "-P", "-W", "ignore", str(PUBLISHED), task]), tasks))
    return Side(
        seconds=time.perf_counter() - started,
        peak_gb=memory.peak_gb,
        stepping=sum(answer["stepped"] for answer in answers),
        loading=sum(answer["waited"] for answer in answers),
        best=max(max(answer["dice"]) for answer in answers),
    )


def _answer(command: Sequence[str]) -> Mapping[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PeerError(f"the published way ended with {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    answer: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def tasks_of(settings: Settings, folder: Path) -> Iterator[dict[str, Any]]:
    """What each process of the published way is told; weights that follow counts are those at the data's counts."""
    dataset = open_packed(settings.data)
    split = _absolute_split(Path(dataset.root), folder)
    counts = class_counts(settings, dataset)
    voxels = Counts(*(torch.tensor(values, dtype=torch.float64) for values in (counts.positive, counts.known)))
    data, model, trainer = settings.data, settings.model, settings.trainer
    for arm in planned_arms(settings, {}):
        loss = arm.trial(counts)["loss"]
        factors = make_rule(loss["name"], loss["params"], counts.classes).factors(voxels)
        yield {
            "split": str(split),
            "classes": list(data.classes),
            "patch": list(data.patch),
            "voxel_nm": list(data.voxel_nm),
            "batch_size": trainer.batch_size,
            "augment": True,
            "seed": 0,
            "width": model.width,
            "depth": model.depth,
            "epochs": trainer.epochs,
            "iterations": trainer.iterations_per_epoch,
            "validation_batches": trainer.validation_batches,
            "lr": trainer.lr,
            "weight": factors.weight.tolist(),
            "shift": factors.shift.tolist(),
        }


def _absolute_split(root: Path, folder: Path) -> Path:
    """The split file of the data as cellmap-data needs it, with whole paths."""
    with (root / "datasplit.csv").open(newline="") as file:
        rows = [(side, root / em, level, root / labels, crop) for side, em, level, labels, crop in csv.reader(file)]
    with (folder / "datasplit.csv").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    return folder / "datasplit.csv"


def ours(folder: Path, name: str, *words: str) -> Side:
    """The same as one sweep of ours."""
    with Memory() as memory:
        sweep, command = run_sweep(folder, name, *words)
    times, found = times_of_sweep(sweep), Sweep(sweep)
    scores = [row[found.metric] for trial in found.trials for row in trial.history]
    return Side(
        seconds=command, peak_gb=memory.peak_gb, stepping=times.stepping, loading=times.loading, best=max(scores)
    )


def composed(name: str, words: Sequence[str]) -> Settings:
    found = compose("run", Settings, [f"name={name}", "hardware=cpu", *words])
    assert found is not None  # it is None only where help was asked for
    return found.settings


def share(side: Side, at_once: int = AT_ONCE) -> str:
    """Of the slots' time."""
    slots = at_once * side.seconds
    return f"{100 * side.stepping / slots:.0f} % in steps, {100 * side.loading / slots:.0f} % waiting for patches"


def told(what: str, side: Side) -> str:
    return f"{what} {side.seconds:.0f} s, {share(side)}, {side.peak_gb:.1f} GB, best mean Dice {side.best:.3f}"


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    python = ensure_environment()
    with tempfile.TemporaryDirectory(prefix="end_to_end") as name:
        yield from compared_whole(python, Path(name), min(arguments.repetitions, 3))
        if arguments.large:
            yield compared_large(python, Path(name))


def compared_whole(python: Path, folder: Path, repetitions: int) -> Iterator[Result]:
    """The fifteen published configurations."""
    settings, sides = composed("small", SMALL), []
    for repetition in range(repetitions):
        whole = ours(folder, f"whole{repetition}", *SMALL, "scheduler.name=none")
        theirs = published_way(python, folder, settings)
        stopped = ours(folder, f"stopped{repetition}", *SMALL, "scheduler.name=asha")
        sides.append((theirs, whole, stopped))
    for number_of, what, target in ((1, "every epoch", 3.0), (2, "early stopping", 8.0)):
        theirs, mine = sides[-1][0], sides[-1][number_of]
        yield Result(
            claim=f"wall time of the fifteen published configurations: the published way ÷ ours with {what}",
            values=ratios((each[0].seconds, each[number_of].seconds) for each in sides),
            target=target,
            note=f"{told('published way', theirs)}; {told('ours', mine)}",
            details={"sides": [[asdict(side) for side in each] for each in sides]},
        )
    yield Result(
        claim="peak memory of the fifteen published configurations: ours ÷ the published way",
        values=ratios((each[1].peak_gb, each[0].peak_gb) for each in sides),
        target=1.0,
        at_least=False,
        note=f"{number(fmean(each[1].peak_gb for each in sides))} GB with Ray, "
        f"{number(fmean(each[0].peak_gb for each in sides))} GB",
    )


def compared_large(python: Path, folder: Path) -> Result:
    """Three configurations of width 64 on patches of 256², which the phantom's crops are too small for."""
    words = (*LARGE, "data=cellmap", f"data.root={enlarged_phantom()}")
    theirs, mine = published_way(python, folder, composed("large", words)), ours(folder, "large", *words)
    return Result(
        claim="wall time of three seesaw configurations at width 64 on patches of 256²: the published way ÷ ours",
        values=(theirs.seconds / mine.seconds,),
        target=1.0,
        note=f"{told('published way', theirs)}; {told('ours', mine)}",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--large", action="store_true", help="also three of seesaw, of width 64 on patches of 256²")


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
