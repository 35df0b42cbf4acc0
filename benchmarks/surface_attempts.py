"""What the published attempts of `family=surface` do on generated sheets: python -m benchmarks.surface_attempts.

Every attempt, with three seeds, on the default data of experiment=surface in patches of 24³: once with ten times the
published learning rates (the network has an eighth of the published filters, and few steps), there also every attempt
with a variance term once more without that term, all else alike; and once with the published ones. All trainings see as
many patches, so an attempt of a larger batch takes fewer steps. No Ray and no early stopping: an `Engine` per training,
two at a time. One line of JSON per training is appended to --lines, and one that is there already is not trained again.
Prints the tables of docs/surface.md: a row per attempt, mean ± standard deviation over the seeds, and what the variance
term changes. About 60 s of one core per training, 120 trainings.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from benchmarks.harness import table
from search_spaces import ClassCounts, all_presets
from search_spaces.surface import FAMILY, TERMS
from trainables.engine import Engine
from trainables.settings import TrialSettings
from tune_app.results.diagnosis import diagnose
from tune_app.settings.command_line import compose
from tune_app.settings.schema import Settings, laid_over

PATCHES_PER_EPOCH, EPOCHS, SEEDS, BATCH = 150, 8, 3, 2
RATES = (10.0, 1.0)
"""Factors on the learning rates of the attempts, in the order in which they are trained."""
VARIANCE = TERMS.index("variance_published")
KEPT = ("fg_ratio", "mean_p", "var_p", "spread_p", "f1", "calibrated_f1", "calibrated_fg_ratio", "surface_dice")
SHOWN = {
    "calibrated_f1": "calibrated F1",
    "surface_dice": "surface Dice",
    "fg_ratio": "foreground ÷ labels'",
    "spread_p": "Var(p) ÷ p̄(1 − p̄)",
}
Row = Mapping[str, Any]
Key = tuple[str, bool, float, int]
"""Attempt, whether it keeps its variance term, factor on the learning rate, seed."""


def trainings() -> Iterator[Key]:
    """Seed 0 of all first."""
    attempts = [preset for preset in all_presets().values() if preset.family == FAMILY.name]
    for rate in RATES:
        for seed in range(SEEDS):
            for preset in attempts:
                yield preset.name, True, rate, seed
                if preset.point["weights"][VARIANCE] and rate == RATES[0]:
                    yield preset.name, False, rate, seed


def settings() -> Settings:
    """Those of the experiment, for all trainings."""
    words = (f"trainer.epochs={EPOCHS}", f"trainer.batch_size={BATCH}", "data.patch=[24,24,24]", "hardware=cpu")
    composed = compose("run", Settings, ["experiment=surface", *words])
    assert composed is not None  # it is None only where help was asked for
    return composed.settings


def train(of_all: Settings, key: Key) -> dict[str, Any]:
    """One training: figures per epoch, and what the diagnosis names, at which epoch."""
    name, with_variance, rate, seed = key
    point = dict(all_presets()[name].point)
    point["weights"] = [w if with_variance or i != VARIANCE else 0.0 for i, w in enumerate(point["weights"])]
    trial = FAMILY.trial(point, ClassCounts(of_all.data.classes, [1], [1]))  # no weight of this family follows counts
    steps = PATCHES_PER_EPOCH // point.get("batch_size", BATCH)
    trial["trainer"] |= {"lr": point["lr"] * rate, "iterations_per_epoch": steps}
    own = laid_over(of_all, trial)
    config = TrialSettings(
        data=own.data,
        model=own.model,
        trainer=own.trainer,
        hardware=replace(own.hardware, threads=1),
        task=own.task,
        objective=asdict(own.order),
    )
    engine = Engine(config, trial["loss"], seed)
    rows = [engine.run_epoch() for _ in range(EPOCHS)]
    found = diagnose(rows, own.diagnosis, own.order, epochs=EPOCHS)
    kept = {figure: [round(row[figure], 5) for row in rows] for figure in KEPT}
    return {"key": list(key), "codes": {one.code: one.epoch for one in found}, **kept}


def recorded(path: Path) -> dict[Key, dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {tuple(line["key"]): line for line in lines}


def spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def tables(runs: Mapping[Key, Row]) -> Iterator[str]:
    """Per factor on the learning rate: attempts at their last epoch, then what their variance term changes."""
    for rate in RATES:
        whole = [seed for seed in range(SEEDS) if all(key in runs for key in trainings() if key[2:] == (rate, seed))]
        groups: dict[tuple[str, bool], list[Row]] = {}
        for seed in whole:
            for key in trainings():
                if key[2:] == (rate, seed):
                    groups.setdefault(key[:2], []).append(runs[key])
        if not whole:
            continue
        header = ["attempt", "its weight", *SHOWN.values(), "without the term", "named"]
        yield f"\nlearning rates × {rate:g}, seeds {', '.join(map(str, whole))}\n"
        yield table([_cells(name, groups) for name, kept in groups if kept], header) + "\n"
        if rate == RATES[0]:
            yield table([_change(figure, groups) for figure in SHOWN], ["with − without", "mean", "95 %", "attempts"])


def _cells(name: str, groups: Mapping[tuple[str, bool], list[Row]]) -> list[str]:
    runs, without = groups[name, True], groups.get((name, False))
    codes = sorted({code for run in runs for code in run["codes"]})
    return [
        f"`{name}`",
        f"{all_presets()[name].point['weights'][VARIANCE]:g}",
        *(spread([run[figure][-1] for run in runs]) for figure in SHOWN),
        spread([run["spread_p"][-1] for run in without]) if without else "",
        ", ".join(f"{code} {sum(code in run['codes'] for run in runs)} of {len(runs)}" for code in codes) or "nothing",
    ]


def _change(figure: str, groups: Mapping[tuple[str, bool], list[Row]]) -> list[str]:
    """What the variance term changes: the mean over attempts of their mean over seeds, each against itself without."""
    changes = [
        fmean(w[figure][-1] - o[figure][-1] for w, o in zip(groups[name, True], without, strict=True))
        for (name, with_variance), without in groups.items()
        if not with_variance
    ]
    low, high = stats.t.interval(0.95, len(changes) - 1, fmean(changes), stats.sem(changes))
    return [SHOWN[figure], f"{fmean(changes):+.3f}", f"{low:+.3f} … {high:+.3f}", str(len(changes))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=Path, default=Path("surface_attempts.jsonl"), help="appended to")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    done = recorded(arguments.lines)
    todo = [key for key in trainings() if key not in done]
    print(f"{len(done)} trainings recorded, {len(todo)} to go", flush=True)
    pool = ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn"), initializer=partial(os.nice, 19))
    with pool, arguments.lines.open("a") as file:
        of_all = settings()
        for future in as_completed([pool.submit(train, of_all, key) for key in todo]):
            file.write(json.dumps(future.result()) + "\n")
            file.flush()
    print("\n".join(tables(recorded(arguments.lines))))


if __name__ == "__main__":
    main()
