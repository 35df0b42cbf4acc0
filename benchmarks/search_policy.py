"""Regret of our search at equal epochs, against Ray's: python -m benchmarks.search_policy [--tables FOLDER].

FOLDER holds tables of TaskSet (Metz et al. 2020, arXiv:2002.11887) in the form published with DyHPO
(releaunifreiburg/DyHPO, data/taskset/*.json); without --tables it is read from the environment variable
TUNE_APP_TASKSET. Five policies are replayed on every table with the same seeds, on four slots in simulated time, the
real searchers and schedulers in-process:

    ours                      StudySearcher and ResumableAsha with the settings of a run that says nothing about either
    ours, promoting           the same with `scheduler.name=promote`
    Ray's ASHA + OptunaSearch AsyncHyperBandScheduler(max_t=epochs) and OptunaSearch(), nothing else said
    ASHA + random             the same scheduler, random points
    random                    random points, none stopped early

All see the same 50 epochs per configuration, the same points (all axes in the logarithm), and the same seconds per
epoch of a configuration. A proposal trains the nearest row that the search has not used. Regret after n epochs over all
slots: (the lowest validation loss seen by then − the table's lowest) ÷ (that of the median configuration − the table's
lowest); for the test loss, that of the epoch with the lowest validation loss so far, likewise. Some curves diverge: a
score of NaN reaches searcher and scheduler as it would in a real run.

Ours is called worse than another where the 95 % bootstrap interval of the paired difference over the seeds lies above
zero. About 8 minutes on two cores.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna

from benchmarks.harness import Result, main
from benchmarks.learning_curves import Floats, Table, taskset
from benchmarks.policies import POLICIES
from benchmarks.replay import Replay, Step

OURS, *OTHERS = POLICIES
BUDGETS = (250, 1000)
"""Epochs over all slots: a small sweep of some twenty trials, and a large one."""
FOLDER = "TUNE_APP_TASKSET"
RESAMPLES = 4000

Regrets = Mapping[str, Floats]
"""Policy → (tables, seeds, budgets, 2): regret of the validation and of the test loss."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    folder = os.environ.get(FOLDER)
    parser.add_argument("--tables", type=Path, default=Path(folder) if folder else None, help="folder of tables")
    parser.add_argument("--seeds", type=int, default=30, help="paired replays per table and policy")
    parser.add_argument("--processes", type=int, default=2)


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    paths = sorted(arguments.tables.glob("*.json")) if arguments.tables else []
    if not paths:
        where = f"no *.json in {arguments.tables}" if arguments.tables else "no folder of tables"
        print(f"not measured: {where}. Give one: --tables FOLDER, or {FOLDER}=FOLDER", file=sys.stderr)
        return
    regrets = replay_all(paths, arguments.seeds, arguments.processes)
    for other in OTHERS:
        yield from compared(regrets, other, [path.stem for path in paths])


def compared(regrets: Regrets, other: str, tables: Sequence[str]) -> Iterator[Result]:
    """Ours against one other: mean difference per table, and where ours is worse."""
    differences = regrets[OURS] - regrets[other]
    worse = [(b, t) for t in range(len(tables)) for b in range(len(BUDGETS)) if is_worse(differences[t, :, b, 0])]
    worse_test = [(b, t) for t in range(len(tables)) for b in range(len(BUDGETS)) if is_worse(differences[t, :, b, 1])]
    for budget, epochs in enumerate(BUDGETS):
        low, high = interval(differences[:, :, budget, 0].mean(axis=0))
        both = " and ".join(f"{regrets[policy][:, :, budget, 0].mean():.3f}" for policy in (OURS, other))
        yield Result(
            claim=f"regret after {epochs} epochs: ours − {other}, mean of each table",
            values=tuple(differences[:, :, budget, 0].mean(axis=1).tolist()),
            target=0.0,
            at_least=False,
            unit="",
            note=f"mean over tables {both}, difference [{low:.3f}, {high:.3f}]; {differences.shape[1]} seeds",
            details={"tables": list(tables), "interval": [low, high]},
        )
    named = [f"{tables[t]} at {BUDGETS[b]}" for b, t in worse]
    yield Result(
        claim=f"tables × budgets where ours is worse than {other}",
        values=(float(len(worse)),),
        target=0.0,
        at_least=False,
        unit="",
        note=f"of {len(tables) * len(BUDGETS)}; by test loss {len(worse_test)}"
        + "".join(f"; {name}" for name in named),
    )


def replay_all(paths: Sequence[Path], seeds: int, processes: int) -> Regrets:
    tasks = [(path, policy, seed) for path in paths for policy in POLICIES for seed in range(seeds)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        found = np.array(list(pool.map(regret_of, *zip(*tasks), chunksize=5)))
    found = found.reshape(len(paths), len(POLICIES), seeds, len(BUDGETS), 2)
    return {policy: found[:, index] for index, policy in enumerate(POLICIES)}


def regret_of(path: Path, policy: str, seed: int) -> Floats:
    """(budgets, 2) of one replay."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # Ray's searcher warns of every NaN score,
    warnings.filterwarnings("ignore", "All-NaN slice")  # and its scheduler of a rung that has nothing else
    table = taskset(path)
    steps = list(islice(Replay(POLICIES[policy](table, seed), table, seed).steps(), max(BUDGETS)))
    return np.array([regret(table, steps[:epochs]) for epochs in BUDGETS])


def regret(table: Table, steps: Sequence[Step]) -> Floats:
    """(2,) regret of the validation loss, and of the test loss chosen by it; that of the median where nothing lived."""
    scales = regret_scales(table)
    losses = np.array([table.validation[step.row, step.epoch - 1] for step in steps])
    if np.isnan(losses).all():
        return np.ones(2)
    chosen = steps[int(np.nanargmin(losses))]
    found = [side[chosen.row, chosen.epoch - 1] for side in (table.validation, table.test)]
    return np.array([(loss - best) / (median - best) for loss, (best, median) in zip(found, scales)])


def regret_scales(table: Table) -> list[tuple[float, float]]:
    """(lowest, median over all configurations) of the validation loss at its best epoch, and of the test loss there.

    A configuration without a single finite loss counts as the worst.
    """
    filled = np.where(np.isnan(table.validation), np.inf, table.validation)
    epoch = filled.argmin(axis=1)
    rows = np.arange(len(epoch))
    sides = filled[rows, epoch], np.where(np.isnan(table.test), np.inf, table.test)[rows, epoch]
    return [(float(side.min()), float(np.median(side))) for side in sides]


def interval(values: Floats) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (S,)."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def is_worse(differences: Floats) -> bool:
    """Whether the interval of these paired differences in regret, ours − theirs, lies above zero."""
    return interval(differences)[0] > 0


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
