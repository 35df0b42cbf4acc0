"""Regret of our search at equal epochs, against other packages': python -m benchmarks.search_policy [--tables FOLDER].

FOLDER holds tables of TaskSet (Metz et al. 2020, arXiv:2002.11887) in the form published with DyHPO
(releaunifreiburg/DyHPO, data/taskset/*.json); without --tables it is read from the environment variable
TUNE_APP_TASKSET. Ours is replayed on every table, on four slots in simulated time, the real searcher and scheduler
in-process:

    ours                      StudySearcher and ResumableAsha with the settings of a run that says nothing about either
    ours, promoting           the same with `scheduler.name=promote`

The peers were replayed on the same tables with the same seeds and number of slots, and their regrets are read from
--record: `benchmarks.peers.search_peers` says which they are and makes the record. On other tables ours is held against
Ray's ASHA with OptunaSearch and with random points, and random points that are never stopped, all replayed now.

All see the same 50 epochs per configuration, the same points (all axes in the logarithm), and the same seconds per
epoch of a configuration. A proposal trains the nearest row that the search has not used. Regret after n epochs over all
slots: (the lowest validation loss seen by then − the table's lowest) ÷ (that of the median configuration − the table's
lowest); for the test loss, that of the epoch with the lowest validation loss so far, likewise. Some curves diverge: a
score of NaN reaches searcher and scheduler as it would in a real run.

Ours is called worse than another on a table where the 95 % bootstrap interval of the paired difference over the seeds
lies above zero. The best peer at a budget is the one that ours is the largest multiple of, on the seeds that both have
(a slow peer has fewer at the larger budgets).
"""

from __future__ import annotations

import argparse
import gzip
import json
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
from benchmarks.harness import table as markdown_table
from benchmarks.learning_curves import Floats, Table, taskset
from benchmarks.policies import POLICIES
from benchmarks.replay import Replay, Step

OURS = "ours"
AFRESH = (OURS, "ours, promoting")
BUDGETS = (100, 250, 500, 1000)
"""Epochs over all slots: from a small sweep of some ten trials to a large one."""
RECORD = Path(__file__).parent / "curves" / "search_policy.json.gz"
TARGETS = {250: 0.8, 1000: 0.8}
"""What our regret is to be at most, as a share of the best peer's, by budget."""
FOLDER = "TUNE_APP_TASKSET"
SHARED = "FixedTextRNNClassification_imdb_"
"""What the names of the eight tables begin with; left out where they are written into a cell."""
RESAMPLES = 4000
MIN_SEEDS = 5
"""With fewer no table alone says that ours is worse."""

Regrets = Mapping[str, Floats]
"""Policy → (tables, seeds, budgets, 2): regret of the validation and of the test loss."""


def add_tables(parser: argparse.ArgumentParser) -> None:
    folder = os.environ.get(FOLDER)
    parser.add_argument("--tables", type=Path, default=Path(folder) if folder else None, help="folder of tables")


def found_tables(arguments: argparse.Namespace) -> list[Path]:
    """The tables; [] where there are none, which is said."""
    paths = sorted(arguments.tables.glob("*.json")) if arguments.tables else []
    if not paths:
        where = f"no *.json in {arguments.tables}" if arguments.tables else "no folder of tables"
        print(f"not measured: {where}. Give one: --tables FOLDER, or {FOLDER}=FOLDER", file=sys.stderr)
    return paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tables(parser)
    parser.add_argument("--seeds", type=int, default=10, help="replays per table, paired with as many as a peer has")
    parser.add_argument("--record", type=Path, default=RECORD, help="regrets of the peers")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--markdown", type=Path, help="also write there how all stand, as a table")


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    if not (paths := found_tables(arguments)):
        return
    tables = [path.stem for path in paths]
    policies = list(AFRESH)
    try:
        recorded = read_record(arguments.record, tables)
    except (OSError, ValueError) as error:
        print(f"{error}; so here is what needs no other package", file=sys.stderr)
        recorded, policies = {}, list(POLICIES)
    found = replay_all(paths, policies, arguments.seeds, arguments.processes)
    peers = {policy: regrets for policy, regrets in (found | recorded).items() if policy not in AFRESH}
    for other, regrets in {**peers, AFRESH[1]: found[AFRESH[1]]}.items():
        yield from compared(found[OURS], regrets, other, tables)
    yield from against_best(found[OURS], peers)
    if arguments.markdown:
        arguments.markdown.write_text(markdown(found[OURS], {**peers, AFRESH[1]: found[AFRESH[1]]}, tables) + "\n")


def compared(ours: Floats, theirs: Floats, other: str, tables: Sequence[str]) -> Iterator[Result]:
    """Ours against one other, both (tables, seeds, budgets, 2): mean difference per table, and where ours is worse.

    Over the seeds that both have, budget by budget. The interval is that of the mean over seeds:
    the tables share their configurations, so a lucky seed is lucky on all of them.
    """
    pairs = paired(ours, theirs)
    for budget, (mine, theirs) in pairs.items():
        differences = (mine - theirs)[..., 0]
        low, high = interval(differences.mean(axis=0))
        both = " and ".join(f"{side[..., 0].mean():.3f}" for side in (mine, theirs))
        yield Result(
            claim=f"regret after {BUDGETS[budget]} epochs: ours − {other}, mean of each table",
            values=tuple(differences.mean(axis=1).tolist()),
            target=0.0,
            at_least=False,
            unit="",
            note=f"mean over tables {both}, difference [{low:.3f}, {high:.3f}]; {mine.shape[1]} seeds",
            details={"tables": list(tables), "interval": [low, high]},
        )
    judged = {budget: mine - side for budget, (mine, side) in pairs.items() if mine.shape[1] >= MIN_SEEDS}
    if not judged:
        return
    worse, worse_test = (
        [(b, t) for t in range(len(tables)) for b, found in judged.items() if is_worse(found[t, :, side])]
        for side in (0, 1)
    )
    named = [f"{tables[t]} at {BUDGETS[b]}" for b, t in worse]
    yield Result(
        claim=f"tables × budgets where ours is worse than {other}",
        values=(float(len(worse)),),
        target=0.0,
        at_least=False,
        unit="",
        note=f"of {len(tables) * len(judged)}; by test loss {len(worse_test)}" + "".join(f"; {n}" for n in named),
    )


def paired(ours: Floats, theirs: Floats) -> dict[int, tuple[Floats, Floats]]:
    """Budget → both sides (tables, seeds, 2), over the seeds that both have there; without budgets that have none."""
    seeds = min(ours.shape[1], theirs.shape[1])
    found = {}
    for budget in range(len(BUDGETS)):
        given = np.flatnonzero(np.isfinite(theirs[:, :seeds, budget]).all(axis=(0, 2)))
        if len(given):
            found[budget] = ours[:, given, budget], theirs[:, given, budget]
    return found


def against_best(ours: Floats, peers: Mapping[str, Floats]) -> Iterator[Result]:
    """Mean regret of ours ÷ that of the peer where this is largest, each over the seeds that both have."""
    for epochs, target in TARGETS.items():
        budget = BUDGETS.index(epochs)
        pairs = {peer: found[budget] for peer, theirs in peers.items() if budget in (found := paired(ours, theirs))}
        means = {peer: [float(side[..., 0].mean()) for side in sides] for peer, sides in pairs.items()}
        best = max(means, key=lambda peer: means[peer][0] / means[peer][1])
        mine, theirs = means[best]
        yield Result(
            claim=f"regret after {epochs} epochs: ours ÷ the best peer's",
            values=(mine / theirs,),
            target=target,
            at_least=False,
            unit="",
            note=f"{mine:.3f} and {theirs:.3f} of {best}, the best of {len(means)}; {pairs[best][0].shape[1]} seeds",
        )


def markdown(ours: Floats, peers: Mapping[str, Floats], tables: Sequence[str]) -> str:
    """Mean regret of all at every budget, ours − theirs with half its interval, and the tables where ours is worst."""
    header = ["", "seeds", *(f"{epochs} epochs" for epochs in BUDGETS), *(f"worst table at {b}" for b in TARGETS)]
    means = [f"{ours[:, :, budget, 0].mean():.3f}" for budget in range(len(BUDGETS))]
    rows = [["**ours**", str(ours.shape[1]), *means, *("" for _ in TARGETS)]]
    for peer, theirs in peers.items():
        pairs = paired(ours, theirs)
        most = max(mine.shape[1] for mine, _ in pairs.values())
        cells, worst = [], []
        for budget, epochs in enumerate(BUDGETS):
            cells.append(cell(*pairs[budget], most) if budget in pairs else "")
            if epochs in TARGETS:
                worst.append(worst_table(*pairs[budget], tables) if budget in pairs else "")
        rows.append([peer, str(most), *cells, *worst])
    return markdown_table(rows, header)


def cell(mine: Floats, theirs: Floats, seeds: int) -> str:
    """Their mean, the difference, half its interval where there are enough seeds, their number where it is not that."""
    differences = (mine - theirs)[..., 0].mean(axis=0)
    low, high = interval(differences)
    half = f" ± {(high - low) / 2:.3f}" if len(differences) >= MIN_SEEDS else ""
    few = f" ({len(differences)} seeds)" if len(differences) < seeds else ""
    return f"{theirs[..., 0].mean():.3f}, {signed(differences.mean(), 3)}{half}{few}"


def worst_table(mine: Floats, theirs: Floats, tables: Sequence[str]) -> str:
    """The one where the mean difference is largest, its short name, and that difference."""
    differences = (mine - theirs)[..., 0].mean(axis=1)
    worst = int(differences.argmax())
    named = tables[worst].removeprefix(SHARED)
    return f"{named} {signed(differences[worst], 2)}"


def signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def replay_all(paths: Sequence[Path], policies: Sequence[str], seeds: int, processes: int) -> Regrets:
    tasks = [(path, policy, seed) for path in paths for policy in policies for seed in range(seeds)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        found = np.array(list(pool.map(regret_of, *zip(*tasks), chunksize=5)))
    found = found.reshape(len(paths), len(policies), seeds, len(BUDGETS), 2)
    return {policy: found[:, index] for index, policy in enumerate(policies)}


def read_record(path: Path, tables: Sequence[str]) -> dict[str, Floats]:
    """Peer → (tables, seeds, budgets, 2), for these tables; NaN at the budgets that a peer was not given.

    ValueError where a table was not recorded.
    """
    document = json.loads(gzip.decompress(path.read_bytes()))
    missing = sorted(set(tables) - set(document["tables"]))
    if missing or tuple(document["budgets"]) != BUDGETS:
        what = f"no table {missing[0]}" if missing else f"other budgets, {document['budgets']}"
        raise ValueError(f"{path.name} has {what} (benchmarks.peers.search_peers records the peers on tables)")
    rows = [document["tables"].index(table) for table in tables]
    found = {}
    for peer, tables_of_peer in document["regret"].items():
        filled = [[[b or [np.nan, np.nan] for b in seed] for seed in table] for table in tables_of_peer]
        found[peer] = np.array(filled, dtype=float)[rows]
    return found


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
