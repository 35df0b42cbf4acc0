"""Records learning curves on the phantom, for replaying searches: python -m benchmarks.record_curves [--lines FILE].

Trains every configuration with several seeds at a reduced budget: the presets of all families (the fifteen published
ones among them) and, of every family, as many random points of its part of the space that `family=all` searches. No
Ray, no early stopping: an `Engine` per process. One line of JSON per run is appended to --lines; a run that is there
already is not trained again, so the recording can be ended and started at will. Seed 0 of all configurations comes
first, then seed 1, and so on: a table of some seeds is complete in itself. At the end the table is written.

Configurations that come out as the same effective loss (three of the published ones do on this data) are trained once,
and share their curves. About 8 s of one core per run, 70 minutes for the default on two cores of their own.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces import Choice, ClassCounts, Parameter, space_of, together_in_all
from trainables.data import open_packed
from trainables.engine import Engine
from trainables.settings import DataSettings, HardwareSettings, ModelSettings, TrainerSettings, TrialSettings
from trainables.tasks.multilabel import TASK
from tune_app.search.arms import Arm, planned_arms
from tune_app.settings.schema import SearchSettings, Settings
from tune_app.sweep.counts import class_counts, count_window_voxels

TABLE = Path(__file__).parent / "curves" / "phantom.json.gz"
DATA = DataSettings(patch=[1, 48, 48])
MODEL = ModelSettings(width=8, depth=3)
TRAINER = TrainerSettings(
    epochs=9,
    iterations_per_epoch=24,
    batch_size=8,
    validation_batches=6,
    lr=6e-3,
    pct_start=0.1,
    count_update_every=10,
    count_window="10",
    compile=False,
)
"""The quick budget of the program with patches of 48² instead of 64², batches of 8 instead of 16, and 24 steps per
epoch instead of 20: two fifths of its time."""
HARDWARE = HardwareSettings(device="cpu", precision="off", threads=1)
SPACE_SEED = 2026

_engine: Engine | None = None


def configurations(counts: ClassCounts, window_voxels: float, per_family: int) -> list[dict[str, Any]]:
    """The presets, then `per_family` random points of each family: name, family, searched point, loss, signature.

    `searched` is the point in the coordinates of the joint space, empty for a preset that lies outside it.
    """
    space = space_of("all")
    search = SearchSettings(num_samples=1_000)  # room for all presets
    presets = planned_arms(Settings(family="all", data=DATA, model=MODEL, trainer=TRAINER, search=search), space)
    rng = np.random.default_rng(SPACE_SEED)
    points = [
        {"family": name} | random_point(name, space, rng) for name in together_in_all() for _ in range(per_family)
    ]
    arms = presets + [Arm(family="all", point=point, seed=0, searched=point) for point in points]
    return [described(arm, counts, window_voxels) for arm in arms]


def random_point(family: str, space: Mapping[str, Parameter], rng: np.random.Generator) -> dict[str, Any]:
    """A uniform point of the family's parameters, in the logarithm where the axis is logarithmic."""
    return {name: random_value(parameter, rng) for name, parameter in space.items() if name.startswith(f"{family}.")}


def random_value(parameter: Parameter, rng: np.random.Generator) -> Any:
    if isinstance(parameter, Choice):
        return parameter.options[rng.integers(len(parameter.options))]
    low, high, u = parameter.low, parameter.high, rng.random()
    return float(low * (high / low) ** u if parameter.log else low + (high - low) * u)


def described(arm: Arm, counts: ClassCounts, window_voxels: float) -> dict[str, Any]:
    return {
        "name": arm.label,
        "preset": arm.preset,
        "searched": dict(arm.searched),
        "loss": arm.trial(counts)["loss"],
        "signature": arm.signature(counts, window_voxels),
    }


def train(signature: str, loss: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One run in this process: mean Dice per epoch and Dice per class and epoch, and CPU seconds."""
    global _engine
    started = time.process_time()
    if _engine is None:
        settings = TrialSettings(data=DATA, model=MODEL, trainer=TRAINER, hardware=HARDWARE)
        _engine = Engine(settings, loss, seed)
    else:
        _engine.reset(loss, seed, TRAINER)
    rows = [_engine.run_epoch() for _ in range(TRAINER.epochs)]
    return {
        "signature": signature,
        "seed": seed,
        TASK.metric: [round(row[TASK.metric], 5) for row in rows],
        "dice": {name: [round(row[f"dice/{name}"], 5) for row in rows] for name in _engine.classes},
        "cpu_s": round(time.process_time() - started, 2),
    }


def read_lines(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """{(signature, seed): run} of what was recorded; a line cut short by a crash is left out."""
    runs = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            run = json.loads(line)
        except ValueError:
            continue
        runs[run["signature"], run["seed"]] = run
    return runs


def record(wanted: Iterable[dict[str, Any]], seeds: int, lines: Path, processes: int) -> None:
    """Train what is missing, seed by seed, and append each run when it is finished."""
    done = read_lines(lines)
    losses = {configuration["signature"]: configuration["loss"] for configuration in wanted}
    tasks = [(s, losses[s], seed) for seed in range(seeds) for s in losses if (s, seed) not in done]
    print(f"{len(done)} runs recorded, {len(tasks)} to go", flush=True)
    context = get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=os.nice, initargs=(19,))
    with pool, lines.open("a") as file:
        if lines.stat().st_size:
            file.write("\n")  # ends a line that a crash cut short
        for future in as_completed([pool.submit(train, *task) for task in tasks]):
            file.write(json.dumps(future.result()) + "\n")
            file.flush()


def write_table(wanted: list[dict[str, Any]], seeds: int, lines: Path, table: Path) -> None:
    """The seeds that are complete, for all configurations: curves[configuration][seed][epoch]."""
    runs = read_lines(lines)
    complete = [seed for seed in range(seeds) if all((c["signature"], seed) in runs for c in wanted)]
    rows = [
        {key: c[key] for key in ("name", "preset", "searched", "loss")}
        | {key: [runs[c["signature"], seed][key] for seed in complete] for key in (TASK.metric, "dice")}
        for c in wanted
    ]
    settings = {"data": asdict(DATA), "model": asdict(MODEL), "trainer": asdict(TRAINER), "hardware": asdict(HARDWARE)}
    document = {"date": str(date.today()), "settings": settings, "seeds": complete, "configurations": rows}
    text = json.dumps(document, separators=(",", ":")).encode()
    table.parent.mkdir(exist_ok=True)
    table.write_bytes(gzip.compress(text, mtime=0))
    print(f"{table}: {len(rows)} configurations, seeds {complete}, {table.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=Path, default=Path("phantom_curves.jsonl"), help="appended to, run by run")
    parser.add_argument("--table", type=Path, default=TABLE, help="written at the end")
    parser.add_argument("--table-only", action="store_true", help="train nothing, write the table of what there is")
    parser.add_argument("--per-family", type=int, default=17, help="random points per family")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    settings = Settings(family="all", data=DATA, model=MODEL, trainer=TRAINER)
    dataset = open_packed(DATA)
    counts, window = class_counts(settings, dataset), count_window_voxels(settings, dataset)
    wanted = configurations(counts, window, arguments.per_family)
    if not arguments.table_only:
        record(wanted, arguments.seeds, arguments.lines, arguments.processes)
    write_table(wanted, arguments.seeds, arguments.lines, arguments.table)


if __name__ == "__main__":
    main()
