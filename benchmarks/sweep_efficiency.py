"""What a sweep spends its time on: python -m benchmarks.sweep_efficiency (11 minutes on two cores, --full 45).

**Efficiency.** Seconds inside training and validation steps ÷ (slots × wall time from the first setup to the last
result) of the default sweep of `make run`: 12 trials, Optuna, ASHA, two slots on two cores. Steps alone count: neither
waiting for patches nor compiling nor writing nor a slot that stands idle while the last trial of another one ends. A
sweep on a CPU does not compile (docs/decisions/compile-on-cpu.md): warm and cold then differ by the data in the cache
and the files in the page cache. With --full also both with trainer.compile=true; there cold means an empty cache of
compiled graphs.

**Against a bare loop.** The same configurations, early stopping off, trained by benchmarks.bare_loop: no Ray, no
search, no files. Both sides are timed from the first setup to the last result; what a person waits for besides (Ray's
start, its end, the leaderboard) is in the note. The peer's curves must equal ours bit for bit, so that both trained the
same. The sweep goes first in every repetition, because the peer trains its configurations. The repetitions have a
shortened budget (4 trials of 5 epochs, else the default) unless --full.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, main, number, ratios
from benchmarks.sweeps import Times, environment, run_sweep, times_of_sweep, to_the_end
from trainables.tasks.multilabel import TASK
from tune_app.ray_adapters.session import usable_cpus
from tune_app.results.sweep import Sweep

SHORT = ("search.num_samples=4", "trainer.epochs=5")
COMPILED = ("trainer.compile=true",)
WARM, COLD, BARE = 0.90, 0.80, 1.10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sweeps", type=int, default=1, help="default sweeps whose efficiency is measured")
    parser.add_argument("--full", action="store_true", help="cold and compiled sweeps too; repetitions at full budget")
    parser.add_argument("--only", choices=("efficiency", "bare"), help="one of the two parts")


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="efficiency") as folder:
        if arguments.only != "bare":
            yield from efficiencies(Path(folder), arguments)
        if arguments.only != "efficiency":
            yield against_bare_loop(Path(folder), arguments.repetitions, () if arguments.full else SHORT)


def efficiencies(folder: Path, arguments: argparse.Namespace) -> Iterator[Result]:
    yield efficiency(folder, "default sweep, warm", WARM, arguments.sweeps)
    yield efficiency(folder, "default sweep, empty cache", COLD, 1, cache=folder / "cold")
    if arguments.full:
        cache = folder / "compiled"
        yield efficiency(folder, "compiled, empty cache", COLD, 1, *COMPILED, cache=cache)
        yield efficiency(folder, "compiled, warm cache", WARM, 1, *COMPILED, cache=cache)


def efficiency(
    folder: Path, what: str, target: float, repetitions: int, *words: str, cache: Path | None = None
) -> Result:
    """Efficiency of `repetitions` sweeps. Without a cache folder the person's own is used, filled by a run before."""
    slots = usable_cpus()
    measured = []
    for repetition in range(repetitions):
        name = f"{what.replace(',', '').replace(' ', '_')}_{repetition}"
        sweep, command = run_sweep(folder, name, *words, cache=cache)
        measured.append((times_of_sweep(sweep), command))
    return Result(
        claim=f"seconds in steps ÷ (slots × wall), {what}",
        values=tuple(times.efficiency(slots) for times, _ in measured),
        target=target,
        unit="",
        note=where_it_went(measured[-1][0], slots) + f"; whole command {measured[-1][1]:.0f} s",
        details={"slots": slots, "sweeps": [asdict(times) | {"command": command} for times, command in measured]},
    )


def where_it_went(times: Times, slots: int) -> str:
    """The rest of the slots' time in words."""
    whole = slots * times.wall
    rest = whole - times.stepping - times.loading - times.compiling
    shares = {"loading": times.loading, "compiling": times.compiling, "files, Ray and idle slots": rest}
    parts = [f"{name} {100 * value / whole:.1f} %" for name, value in shares.items()]
    return f"{slots} slots × {times.wall:.0f} s, {times.epochs} epochs; {', '.join(parts)}"


@dataclass(frozen=True)
class Side:
    """One side of a comparison: seconds from first setup to last result, and of the whole command."""

    wall: float
    command: float


def against_bare_loop(folder: Path, repetitions: int, words: tuple[str, ...]) -> Result:
    """Wall time of a sweep without early stopping ÷ that of a bare loop over its configurations."""
    slots = usable_cpus()
    pairs = []
    for repetition in range(repetitions):
        sweep, command = run_sweep(folder, f"sweep_{repetition}", "scheduler.name=none", *words)
        ours = Side(times_of_sweep(sweep).wall, command)
        theirs, curves = bare_loop(folder, sweep, slots)
        require_same(curves_of(sweep), curves)
        pairs.append((ours, theirs))
    budget = " ".join(words) or "default budget"
    commands = statistics.median(ours.command / theirs.command for ours, theirs in pairs)
    ours, theirs = pairs[-1]
    return Result(
        claim="wall time of a sweep without early stopping ÷ bare loop",
        values=ratios((ours.wall, theirs.wall) for ours, theirs in pairs),
        target=BARE,
        at_least=False,
        unit="",
        note=f"{budget}; last pair {ours.wall:.1f} s and {theirs.wall:.1f} s; whole commands {number(commands)}",
        details={"pairs": [[asdict(side) for side in pair] for pair in pairs]},
    )


def bare_loop(folder: Path, sweep: Path, processes: int) -> tuple[Side, Mapping[str, Any]]:
    """The peer's times and the curves it found."""
    command = [sys.executable, "-m", "benchmarks.bare_loop", str(sweep), str(processes)]
    started = time.perf_counter()
    found = json.loads(to_the_end(command, environment(folder)).splitlines()[-1])
    return Side(found["last_result"] - found["first_setup"], time.perf_counter() - started), found["curves"]


def curves_of(sweep: Path) -> dict[str, list[float]]:
    return {trial.name: [row[TASK.metric] for row in trial.history] for trial in Sweep(sweep).trials}


def require_same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise RuntimeError unless both sides trained the same, to the last bit."""
    different = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if different:
        raise RuntimeError(f"the bare loop did not train what the sweep did: {', '.join(different)}")


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
