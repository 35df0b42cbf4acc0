"""What it costs to begin a trial: python -m benchmarks.trial_start (… minutes on two cores).

From the end of a trial's last epoch (its result is not yet written nor reported) to the end of the first training step
of the next trial in the same slot. Ours reuses the actor: process, data and compiled graphs stay. The peer is the same
program, Tuner, searcher, trainable and settings with `reuse_actors=False`, so that every trial has a process of its
own; its compiled graphs come from the cache on disk, which is filled before. One slot, so that the order of the trials
tells what followed what; both sides in turn in one Ray session. A tiny network, because a larger one would add the same
step to both sides. That ours had one process, and the peer one per trial, is checked. The peer runs fewer trials per
repetition, for each of its starts takes seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.harness import Result, interleaved, main, ratios
from benchmarks.timed_trial import FIRST_STEP
from tune_app.settings.command_line import compose
from tune_app.settings.schema import Settings

TINY = (
    "hardware=cpu",
    "trainer.compile=true",
    "model.width=4",
    "model.depth=1",
    "data.patch=[1,32,32]",
    "trainer.epochs=1",
    "trainer.iterations_per_epoch=1",
    "trainer.batch_size=2",
    "trainer.validation_batches=1",
    "family=seesaw",
    "search=random",
    "scheduler.name=none",
    "resources.max_concurrent=1",
    "cluster.dashboard=false",
)
TARGET = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=12, help="trials per repetition with a reused actor")
    parser.add_argument("--fresh-trials", type=int, default=4, help="trials per repetition with fresh processes")


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="start") as folder:
        os.environ |= {
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
            "RAY_AUTH_TOKEN_PATH": f"{folder}/token",
            "TUNE_APP_SETTINGS": "/dev/null",
        }
        os.environ.pop("RAY_ADDRESS", None)
        pairs = measure(Path(folder), arguments)
    yield Result(
        claim="end of a trial → first step of the next: fresh process ÷ reused actor, compiled",
        values=ratios(pairs),
        target=TARGET,
        note=f"{statistics.median(fresh for fresh, _ in pairs):.2f} s and "
        f"{1000 * statistics.median(reused for _, reused in pairs):.0f} ms; medians, per repetition "
        f"of {arguments.fresh_trials - 1} and {arguments.trials - 1} starts",
        details={"seconds": pairs},
    )


def measure(folder: Path, arguments: argparse.Namespace) -> list[tuple[float, float]]:
    """Pairs of (fresh, reused): the median seconds of a start."""
    from tune_app.ray_adapters.session import ray_session, trial_resources

    composed = compose("run", Settings, [*TINY, f"results_dir={folder}"])
    assert composed is not None
    settings = composed.settings
    numbers = iter(range(10**6))
    with ray_session(settings):
        resources = trial_resources(settings)

        def side(trials: int, *, reuse: bool) -> float:
            search = dataclasses.replace(settings.search, num_samples=trials)
            named = dataclasses.replace(settings, search=search, name=f"sweep_{next(numbers)}")
            return statistics.median(starts(sweep_of(named, resources, reuse=reuse), reused=reuse))

        def fresh() -> float:
            return side(arguments.fresh_trials, reuse=False)

        def reused() -> float:
            return side(arguments.trials, reuse=True)

        side(2, reuse=False)  # fills the cache of compiled graphs
        return interleaved(fresh, reused, arguments.repetitions)


def sweep_of(settings: Settings, resources: Any, *, reuse: bool) -> Path:
    """Run a sweep in the connected Ray, with reused actors or without; its folder."""
    from ray.tune import TuneConfig

    from benchmarks.timed_trial import TimedTrial
    from tune_app.ray_adapters.patches import quiet
    from tune_app.search.study import open_study
    from tune_app.sweep.prepare import prepare
    from tune_app.sweep.progress import Display, Progress
    from tune_app.sweep.tuner import build_tuner

    folder = Path(settings.results_dir) / settings.name
    folder.mkdir(parents=True)
    prepared = prepare(settings, folder)
    progress = Progress(
        prepared.num_trials, settings.trainer.epochs, settings.data.classes, settings.order, resources.slots
    )
    with mock.patch("tune_app.sweep.tuner.TuneConfig", with_actors(TuneConfig, reuse)), quiet(0):
        display = Display(progress, io.StringIO())
        build_tuner(prepared, resources, open_study(folder, settings.name, settings.order), display, TimedTrial).fit()
    return folder


def with_actors(make: Callable[..., Any], reuse: bool) -> Callable[..., Any]:
    """TuneConfig with the given `reuse_actors`, whatever the program asks for."""
    return lambda **fields: make(**{**fields, "reuse_actors": reuse})


def starts(sweep: Path, *, reused: bool) -> list[float]:
    """Seconds of every start but the first of a sweep. Raises RuntimeError where its processes are not as asked."""
    trials = [rows_of(path) for path in sorted(sweep.glob("trials/*/result.json"))]
    processes = {rows[0]["pid"] for rows in trials}
    if len(processes) != (1 if reused else len(trials)):
        raise RuntimeError(f"{len(trials)} trials ran in {len(processes)} processes, reuse_actors={reused}")
    return gaps(trials)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def gaps(trials: Iterable[Sequence[Mapping[str, Any]]]) -> list[float]:
    """Seconds from the end of each trial's last epoch to the first step of the one that came next. trials: rows of
    each, in any order, of one slot."""
    ordered = sorted(trials, key=lambda rows: rows[0]["time_started"])
    return [after[0][FIRST_STEP] - before[-1]["time_ended"] for before, after in pairwise(ordered)]


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
