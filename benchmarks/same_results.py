"""Whether two versions of this program find the same to the bit: python -m benchmarks.same_results record FOLDER.

`record` runs sweeps one trial at a time on the CPU (the default one, family=all, family=compare with two seeds, one
interrupted and resumed, one confirmed) and writes FOLDER/record.json: every row of every history, every proposal and
decision of the study and every leaderboard, without times and folders. `compare RECORD RECORD` prints where two differ
and ends with exit code 1 if they do. Both records must come from one machine: another processor rounds differently.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.sweeps import ON_CPU, environment, run_sweep, to_the_end

SMALL = (
    "hardware.precision=off",
    "hardware.threads=1",
    "trainer.compile=false",
    "trainer.epochs=4",
    "trainer.iterations_per_epoch=6",
    "resources.num_cpus=1",
    "resources.cpus_per_trial=1",
    "cluster.dashboard=false",
    "scheduler.grace_period=1",
    "scheduler.reduction_factor=2",
    "search.startup_trials=4",
)
"""One trial at a time: what is proposed and stopped depends on nothing but the results before."""
SWEEPS = {
    "default": ("search.num_samples=12",),
    "all": ("family=all", "search.num_samples=16"),
    "compare": ("family=compare", "seeds=2"),
}
RESUMED = ("family=tversky", "search.num_samples=6")
CONFIRMED = ("top=2", "replicates=2", "resources.num_cpus=1", "cluster.dashboard=false")
NOT_COMPARED = ("seconds_", "time_", "patches_per_s", "compiled_graphs", "crc32", "minutes")
"""Beginnings of the names of figures that differ between two runs of one version."""
PATIENCE_S = 600
SHOWN = 40
"""Places where two records differ that are named one by one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("record").add_argument("folder", type=Path)
    comparing = verbs.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "record":
        record(arguments.folder.resolve())
        return
    found = list(differences(*(json.loads(path.read_text()) for path in (arguments.before, arguments.after))))
    more = [f"and {len(found) - SHOWN} more places"] if len(found) > SHOWN else []
    print("\n".join(found[:SHOWN] + more) or "the same to the bit")
    sys.exit(1 if found else 0)


def record(folder: Path) -> None:
    """Run the sweeps in the folder, which must not hold any, and write record.json."""
    told = {}
    for name, words in SWEEPS.items():
        sweep, _ = run_sweep(folder, name, *SMALL, *words, cache=folder / "cache")
        told[name] = result_of(sweep)
    told["resumed"] = result_of(interrupted_and_resumed(folder))
    to_the_end(command("confirm", folder, "sweep=default", *CONFIRMED), environment(folder, folder / "cache"))
    told["confirmed"] = result_of(folder / "default" / "confirmation")
    told["default, confirmed"] = {"leaderboard": leaderboard(folder / "default")}
    (folder / "record.json").write_text(json.dumps(told, indent=1))


def command(verb: str, folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", f"tune_app.{verb}", f"results_dir={folder}", *words]


def interrupted_and_resumed(folder: Path) -> Path:
    """A sweep that Ctrl-C ends when its second trial has ended an epoch, and that is resumed."""
    run = command("run", folder, "name=resumed", *ON_CPU, *SMALL, *RESUMED)
    variables = environment(folder, folder / "cache")
    process = subprocess.Popen(run, env=variables, stdout=subprocess.DEVNULL)
    ends = time.monotonic() + PATIENCE_S
    while not [*folder.glob("resumed/trials/0001_*/history.jsonl")]:
        if process.poll() is not None or time.monotonic() > ends:
            process.terminate()
            raise RuntimeError(f"{' '.join(run)} did not come to its second trial")
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.wait()
    to_the_end(command("run", folder, "resume=resumed"), variables)
    return folder / "resumed"


def result_of(sweep: Path) -> dict[str, Any]:
    """Histories, proposals, decisions and leaderboard of a sweep."""
    return {
        "trials": {path.parent.name: history(path) for path in sorted(sweep.glob("trials/*/history.jsonl"))},
        "study": study(sweep),
        "leaderboard": leaderboard(sweep),
    }


def history(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(NOT_COMPARED)} for row in rows]


def study(sweep: Path) -> list[dict[str, Any]]:
    """Of each trial of the study: what was proposed, what was told of it, and how it ended."""
    storage = JournalStorage(JournalFileBackend(str(sweep / "study.journal")))
    [summary] = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=summary.study_name, storage=storage).trials
    return [
        {
            "params": trial.params,
            "distributions": {name: str(distribution) for name, distribution in sorted(trial.distributions.items())},
            "attributes": trial.user_attrs,
            "reported": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
            "state": trial.state.name,
            "value": trial.values,
        }
        for trial in trials
    ]


def leaderboard(sweep: Path) -> list[dict[str, str]]:
    words = [sys.executable, "-m", "tune_app.summary", f"sweep={sweep}", "format=csv"]
    printed = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment(sweep.parent)).stdout
    rows = csv.DictReader(io.StringIO(printed))
    return [{name: value for name, value in row.items() if not name.startswith(NOT_COMPARED)} for row in rows]


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """One line per place where two records differ, in order."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from differences(before.get(name), after.get(name), f"{where} {name}")
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{where.strip()}: {len(before)} before, {len(after)} after"
        for number, pair in enumerate(zip(before, after, strict=False)):
            yield from differences(*pair, f"{where} {number}")
    elif before != after and not (before != before and after != after):  # NaN is NaN
        yield f"{where.strip()}: {before!r} before, {after!r} after"


if __name__ == "__main__":
    main()
