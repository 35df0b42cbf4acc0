"""Epochs that a warm start saves, and what it costs where it misleads: python -m benchmarks.warm_start.

Tables of TaskSet are given as to `benchmarks.search_policy`: --tables FOLDER. On every table an old sweep of OLD_EPOCHS
epochs is replayed; the new one searches the table that follows it (the last is followed by the first), on four slots in
simulated time, with the real searcher, its guard and the real scheduler, all settings as the program has them. Counted
are the epochs over all slots until the new search has found what the old one had: the validation loss whose regret on
the new table is that at which the old sweep ended on its own. A search that has not found it after MOST_EPOCHS counts
as if it had then.

    box      space.from=: the smallest box round the best trials of the old sweep
    prior    search.prior=: its best trial, with the width of the program

    related  the old sweep as it was
    reversed the old sweep looked for the highest loss
    worst    the old sweep as it was, but box and prior are of its worst trials

A ratio is the mean number of epochs with the warm start ÷ that of the same search without, over the same seeds.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.harness import Result, main
from benchmarks.learning_curves import Floats, Table, taskset
from benchmarks.policies import defaults, ours
from benchmarks.replay import Replay, Step
from benchmarks.search_policy import RESAMPLES, add_tables, found_tables, regret, regret_scales
from search_spaces import narrow
from tune_app.search.guard import Guard
from tune_app.search.warm_start import box_round
from tune_app.settings.schema import BEST_OF

OLD_EPOCHS, MOST_EPOCHS = 250, 1500
OLD_SEEDS = 1000
"""Added to the seed of a search for that of the sweep before it."""
KINDS, CASES = ("box", "prior"), ("related", "reversed", "worst")
WANTED = {"related": 0.5, "reversed": 1.1, "worst": 1.1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tables(parser)
    parser.add_argument("--seeds", type=int, default=20, help="paired searches per table")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sampler", choices=("optuna", "random"), default="optuna", help="search.name")
    parser.add_argument("--best", type=int, default=BEST_OF, help="space.best")


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    if not (paths := found_tables(arguments)):
        return
    tasks = [
        (old, new, seed, arguments.sampler, arguments.best)
        for old, new in zip(paths, [*paths[1:], paths[0]])
        for seed in range(arguments.seeds)
    ]
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        found = np.array(list(pool.map(epochs_of, *zip(*tasks))), dtype=float)
    yield from ratios(found.reshape(len(paths), arguments.seeds, -1), [path.stem for path in paths])


def ratios(epochs: Floats, old: Sequence[str]) -> Iterator[Result]:
    """epochs: (tables, seeds, 1 + kinds · cases), those without a warm start first."""
    cold, warm = epochs[:, :, 0], epochs[:, :, 1:].reshape(*epochs.shape[:2], len(KINDS), len(CASES))
    for k, kind in enumerate(KINDS):
        for c, case in enumerate(CASES):
            own = warm[:, :, k, c]
            values = own.mean(axis=1) / cold.mean(axis=1)
            low, high = ratio_interval(own, cold)
            ended = [f"{(found >= MOST_EPOCHS).mean():.0%}" for found in (own, cold)]
            yield Result(
                claim=f"epochs to the old best, {kind}, {case}: with ÷ without, ratio of each table",
                values=tuple(values.tolist()),
                target=WANTED[case],
                at_least=False,
                unit="",
                note=f"of the means over tables {own.mean() / cold.mean():.2f} [{low:.2f}, {high:.2f}], "
                f"{own.mean():.0f} and {cold.mean():.0f} epochs; not found in {MOST_EPOCHS}: "
                f"{ended[0]} and {ended[1]}; {own.shape[1]} seeds",
                details={"tables": list(old), "interval": [low, high]},
            )


def ratio_interval(warm: Floats, cold: Floats) -> tuple[float, float]:
    """95 % bootstrap interval, over the seeds, of mean(warm) ÷ mean(cold), each (tables, seeds)."""
    seeds = cold.shape[1]
    drawn = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    own, other = (side.mean(axis=0)[drawn].mean(axis=1) for side in (warm, cold))
    low, high = np.percentile(own / other, [2.5, 97.5])
    return float(low), float(high)


def epochs_of(old: Path, new: Path, seed: int, sampler: str, best: int) -> list[int]:
    """[without, box related, box reversed, box worst, prior related, …] of one seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", "All-NaN slice")
    table = taskset(new)
    order, reached = old_sweep(old, seed, sampler)
    backwards, _ = old_sweep(old, seed, sampler, backwards=True)
    (lowest, median), _ = regret_scales(table)
    wanted = lowest + reached * (median - lowest)
    points = taskset(old).points
    found = [epochs_to(wanted, table, seed, sampler)]
    for kind in KINDS:
        for rows in (order, backwards, order[::-1]):
            guard = guard_from([points[row] for row in rows], kind, table, best)
            found.append(epochs_to(wanted, table, seed, sampler, guard))
    return found


@lru_cache(maxsize=4)
def old_sweep(path: Path, seed: int, sampler: str, backwards: bool = False) -> tuple[list[int], float]:
    """(rows of the trials with a finite score, the best first; the regret at the end). backwards: sought the worst."""
    table = taskset(path)
    seen = replace(table, scores=1.0 - table.scores) if backwards else table
    steps = list(islice(searched(seen, seed + OLD_SEEDS, sampler), OLD_EPOCHS))
    best: dict[int, float] = {}
    for step in steps:
        if np.isfinite(step.score):
            best[step.row] = max(step.score, best.get(step.row, step.score))
    return sorted(best, key=best.__getitem__, reverse=True), float(regret(table, steps)[0])


def searched(table: Table, seed: int, sampler: str, guard: Guard | None = None) -> Iterator[Step]:
    settings = defaults(table.epochs)
    settings = replace(settings, search=replace(settings.search, name=sampler))
    return Replay(ours(table, seed, settings, guard=guard), table, seed).steps()


def guard_from(points: Sequence[Any], kind: str, table: Table, best: int) -> Guard:
    """The sources of a search on the table; points: of the old trials, first those that are believed to be best."""
    space = dict(table.space)
    inside = [point for point in points if all(space[name].contains(value) for name, value in point.items())]
    search = defaults(table.epochs).search
    if kind == "prior":
        return Guard(space=space, prior=inside[0], width=search.prior_width, draws=search.startup_trials)
    box, _ = box_round(inside[:best], space)
    return Guard(space=space, box=narrow(space, box))


def epochs_to(wanted: float, table: Table, seed: int, sampler: str, guard: Guard | None = None) -> int:
    """Epochs over all slots until a validation loss is as low; MOST_EPOCHS where none is by then."""
    for number, step in enumerate(islice(searched(table, seed, sampler, guard), MOST_EPOCHS), start=1):
        if table.validation[step.row, step.epoch - 1] <= wanted:
            return number
    return MOST_EPOCHS


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
