"""What compiling costs a sweep: python -m benchmarks.compile_cache (5 minutes on two cores).

**Cache.** Seconds that Dynamo and Inductor take in a process that finds the graphs of another one on disk ÷ in the one
that compiled them, both from their first training step through their first validation batch (Dynamo's own callbacks, so
that neither imports nor the steps themselves count). The second process trains another family with other parameters and
another seed, as the second slot of a sweep does. Each repetition begins with an empty cache folder. A small network:
seconds of compiling grow with the number of different kernels on both sides alike; --width and --depth change it.

**Graphs.** The largest number of graphs that a process of a whole `family=all` sweep has compiled: one for training and
one for evaluation, through which all families, parameters and seeds go. Counted where they are compiled (the column
`compiled_graphs` of every row); that all five families were among the trials is checked.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, main
from benchmarks.sweeps import environment, run_sweep, to_the_end
from search_spaces import together_in_all
from tune_app.results.sweep import Sweep

FIRST = {"loss": {"name": "static", "params": {"weights": [1.0, 0.5, 2.0, 1.0, 1.0]}}, "seed": 0}
SECOND = {"loss": {"name": "seesaw", "params": {"p": 0.8, "q": 2.0}}, "seed": 1}
TINY = (
    "trainer.compile=true",
    "model.width=4",
    "model.depth=1",
    "data.patch=[1,32,32]",
    "trainer.epochs=2",
    "trainer.iterations_per_epoch=3",
    "trainer.batch_size=4",
    "trainer.validation_batches=2",
    "cluster.dashboard=false",
)
CACHE_TARGET, GRAPHS_TARGET = 0.25, 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, default=8, help="channels of the first level of the network")
    parser.add_argument("--depth", type=int, default=1, help="its number of poolings")
    parser.add_argument("--child", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="compile") as folder:
        yield cache(Path(folder), arguments)
        yield graphs(Path(folder))


def cache(folder: Path, arguments: argparse.Namespace) -> Result:
    model = {"width": arguments.width, "depth": arguments.depth}
    pairs = []
    for repetition in range(arguments.repetitions):
        compiled = folder / f"inductor_{repetition}"
        first, second = (compiling_process(folder, compiled, trial | {"model": model}) for trial in (FIRST, SECOND))
        pairs.append((first, second))
    seconds = [tuple(one["seconds_compile"] for one in pair) for pair in pairs]
    return Result(
        claim="seconds compiling: second process ÷ first",
        values=tuple(second / first for first, second in seconds),
        target=CACHE_TARGET,
        at_least=False,
        unit="",
        note=f"UNet of width {arguments.width} and depth {arguments.depth}; medians "
        f"{statistics.median(s for _, s in seconds):.1f} s and {statistics.median(f for f, _ in seconds):.1f} s",
        details={"rows": pairs},
    )


def compiling_process(folder: Path, compiled: Path, trial: Mapping[str, Any]) -> dict[str, Any]:
    """The timing columns of the first epoch of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.compile_cache", "--child", json.dumps(trial)]
    surroundings = environment(folder) | {"TORCHINDUCTOR_CACHE_DIR": str(compiled)}
    row: dict[str, Any] = json.loads(to_the_end(command, surroundings).splitlines()[-1])
    return row


def first_epoch(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Train one short epoch of the phantom; what its row says of time and graphs."""
    from trainables.engine import Engine
    from trainables.settings import trial_settings

    trainer = {"epochs": 1, "iterations_per_epoch": 2, "batch_size": 16, "validation_batches": 1, "compile": True}
    settings = trial_settings(
        {"data": {"patch": [1, 64, 64]}, "model": trial["model"], "trainer": trainer, "hardware": {"device": "cpu"}}
    )
    row = Engine(settings, trial["loss"], trial["seed"]).run_epoch()
    return {name: value for name, value in row.items() if name.startswith(("seconds_", "compiled_"))}


def graphs(folder: Path) -> Result:
    """A sweep over all families: the presets come first, and every family has some."""
    sweep, seconds = run_sweep(folder, "all", *TINY, "family=all", "search.num_samples=20")
    trials = Sweep(sweep).trials
    require_all(list(together_in_all()), [trial.family for trial in trials])
    rows = [row for trial in trials for row in trial.history]
    return Result(
        claim="graphs compiled per process in a whole family=all sweep",
        values=(float(most_graphs(rows)),),
        target=GRAPHS_TARGET,
        at_least=False,
        unit="",
        note=f"{len(trials)} trials of {len({trial.family for trial in trials})} families, {len(rows)} epochs, "
        f"{seconds:.0f} s; epochs that compiled: {sum(row['seconds_compile'] > 0 for row in rows)}",
    )


def most_graphs(rows: Iterable[Mapping[str, Any]]) -> int:
    return max(int(row["compiled_graphs"]) for row in rows)


def require_all(wanted: Sequence[str], tried: Sequence[str]) -> None:
    """Raise RuntimeError where a family has no trial."""
    missing = sorted(set(wanted) - set(tried))
    if missing:
        raise RuntimeError(f"the sweep tried no configuration of {', '.join(missing)}")


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(json.dumps(first_epoch(json.loads(sys.argv[-1]))))
    else:
        main(__doc__, run, add_arguments)
