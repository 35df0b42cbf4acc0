"""Epochs until a search holds something as good as the grid's best: python -m benchmarks.early_stopping (1 minute).

`family=compare` trains the fifteen published configurations to the end, 15 × E epochs. `family=all`, with every other
setting as it comes, goes through the same presets and then searches, and ASHA stops what lags behind. Both are replayed
on recorded curves of the phantom (`benchmarks.record_curves`), four slots in simulated time, the real searcher and
scheduler. Replay n takes the curves of recorded seed n modulo their number (a sweep has one seed), and draws anew how
long epochs take and what the sampler proposes.

    value of a trial       the mean over the recorded seeds of its configuration's best Dice up to the epoch the trial
                           has reached: what one may expect of a model trained that far, so neither a lucky seed nor a
                           configuration that merely began counts for more than it is worth
    target                 the largest value at the last epoch among the fifteen, minus 0.01
    what the search holds  the four trials with the highest Dice it has itself observed, with their one seed: those
                           that `confirm` retrains. Which of them is worth the target is not visible to it
    reached                the first epoch, counted over all slots, at which one of the four has the target's value

The number is epochs to the target ÷ epochs of the grid; a replay that has not reached it after twice the grid's epochs
counts as 2. That the search could still exchange what it holds for something worse is told in the note, as `kept`: the
share of replays which, from the epoch they reached the target to the grid's number of epochs, never held less. The
order of the presets is the program's; `shuffled` is the median with the presets in random orders, since where the best
one stands in the list is luck.

`first place` is the median where only the one trial with the highest observed Dice counts. It says more about noise
than about the search: with one seed each, the full grid itself ends with a first place worth the target for the share
of recorded seeds told after it.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Iterable, Iterator
from heapq import nlargest
from itertools import islice
from pathlib import Path

import numpy as np
import optuna

from benchmarks.harness import Result, main, number
from benchmarks.learning_curves import Floats, Table, phantom
from benchmarks.policies import ours, planned_row
from benchmarks.replay import Replay, Step
from search_spaces import PUBLISHED, ClassCounts
from tune_app.search.arms import Arm, planned_arms, searched_space, with_baseline
from tune_app.settings.command_line import compose
from tune_app.settings.schema import MOST_TRIALS, Settings

TABLE = Path(__file__).parent / "curves" / "phantom.json.gz"
TARGET, TOLERANCE = 0.35, 0.01
LIMIT = 2
"""Grids' worth of epochs after which a replay is given up."""
TOP = 4
"""Trials that `confirm` retrains unless told otherwise."""
WINDOW_VOXELS = 1e6
"""Of a count window; decides here only whether a preset counts as uniform weights."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", type=Path, default=TABLE, help="as benchmarks.record_curves writes it")
    parser.add_argument("--replays", type=int, default=100)


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = phantom(arguments.table)
    settings = default_settings()
    assert settings.trainer.epochs == table.epochs, "the curves are as long as a trial of the default budget"
    replays = range(arguments.replays)
    found = [epochs_to_target(table, settings, seed) for seed in replays]
    first_place = [epochs_to_target(table, settings, seed, top=1)[0] for seed in replays]
    shuffled = [epochs_to_target(table, settings, seed, shuffle=True)[0] for seed in replays]
    ratios = [ratio for ratio, _ in found]
    low, high = np.percentile(ratios, [25, 75])
    yield Result(
        claim=f"epochs of family=all to within {TOLERANCE} of the best of the full compare grid ÷ epochs of that grid",
        values=tuple(ratios),
        target=TARGET,
        at_least=False,
        note=f"{len(ratios)} replays of {len(table.points)} configurations × {table.repeats} seeds, middle half "
        f"{number(low)} … {number(high)}; kept {100 * np.mean([kept for _, kept in found]):.0f} %; shuffled "
        f"{number(statistics.median(shuffled))}; first place {number(statistics.median(first_place))}, and the grid's "
        f"own is worth it for {sum(first_places_of_the_grid(table))} of {table.repeats} seeds",
        details={"shuffled": shuffled, "first_place": first_place},
    )


def default_settings() -> Settings:
    """Of `python -m tune_app.run family=all`, with as many trials as it takes: the replay says when it is enough."""
    composed = compose("run", Settings, ["family=all"])
    assert composed is not None
    settings = composed.settings
    return dataclasses.replace(settings, search=dataclasses.replace(settings.search, num_samples=MOST_TRIALS))


def epochs_to_target(
    table: Table, settings: Settings, seed: int, *, top: int = TOP, shuffle: bool = False
) -> tuple[float, bool]:
    """(epochs to the target ÷ epochs of the grid, whether it was then kept) of one replay."""
    grid = len(PUBLISHED) * table.epochs
    arms, baseline = preset_rows(table, settings, np.random.default_rng(seed) if shuffle else None)
    search = ours(table, seed, settings, arms=arms, baseline=baseline)
    steps = islice(Replay(search, table, seed).steps(), LIMIT * grid)
    good = np.array([value >= target(table) for value in held_values(steps, values_by_epoch(table), top)])
    if not good.any():
        return float(LIMIT), False
    first = int(good.argmax())
    return (first + 1) / grid, bool(good[first : max(grid, first + 1)].all())


def preset_rows(table: Table, settings: Settings, shuffle: np.random.Generator | None) -> tuple[list[Arm], str]:
    """The arms that the sweep plans, as rows of the table, and the label of the baseline among them."""
    space, counts = searched_space(settings), ClassCounts.published()
    planned = planned_arms(settings, space)
    if shuffle is not None:
        planned = [planned[index] for index in shuffle.permutation(len(planned))]
    arms, baseline = with_baseline(settings, planned, space, counts, WINDOW_VOXELS)
    names = list(table.names)
    return [planned_row(names.index(arm.preset), arm) for arm in arms], baseline


def values_by_epoch(table: Table) -> Floats:
    """(n, E): mean over the seeds of the best score up to each epoch; 0 for one that has none yet."""
    best = np.fmax.accumulate(table.scores, axis=2)
    return np.nan_to_num(best, nan=0.0).mean(axis=1)


def published_rows(table: Table) -> list[int]:
    return [list(table.names).index(name) for name in PUBLISHED]


def target(table: Table) -> float:
    return float(values_by_epoch(table)[published_rows(table), -1].max()) - TOLERANCE


def first_places_of_the_grid(table: Table) -> list[bool]:
    """For each recorded seed, whether the one of the fifteen with the highest Dice is worth the target."""
    rows = published_rows(table)
    observed = np.nan_to_num(table.scores[rows], nan=0.0).max(axis=2)
    return (values_by_epoch(table)[rows, -1][observed.argmax(axis=0)] >= target(table)).tolist()


def held_values(steps: Iterable[Step], values: Floats, top: int) -> Iterator[float]:
    """After every epoch, what the best of the `top` trials with the highest observed scores is worth by then; 0 while
    there is none."""
    reached: dict[int, Step] = {}
    observed: dict[int, float] = {}
    for step in steps:
        reached[step.trial] = step
        if step.score > observed.get(step.trial, -np.inf):
            observed[step.trial] = step.score
        held = [reached[trial] for trial in nlargest(top, observed, key=observed.__getitem__)]
        yield max((float(values[last.row, last.epoch - 1]) for last in held), default=0.0)


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
