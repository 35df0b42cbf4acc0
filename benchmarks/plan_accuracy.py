"""The plan against what came of it: python -m benchmarks.plan_accuracy (4 minutes on two cores).

`python -m tune_app.plan measure=true`, then the default sweep of `make run`, in an empty results folder: nothing is
known but a few measured steps. The number is the larger of plan ÷ reality and reality ÷ plan, for the epochs under
early stopping and for the hours on the clock, which is what the report shows as "Plan and reality".
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Result, main, number
from benchmarks.sweeps import ON_CPU, run_sweep
from tune_app.plan import PlanSettings, plan
from tune_app.reporting.findings import gather
from tune_app.reporting.ledger import figures
from tune_app.results.sweep import Sweep
from tune_app.settings.command_line import compose

FACTOR = 1.5
COMPARED = ("epochs", "hours on the clock")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sweeps", type=int, default=1, help="default sweeps, each planned anew")


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="plan") as folder:
        pairs = [planned_and_found(Path(folder) / str(repetition)) for repetition in range(arguments.sweeps)]
    for what in COMPARED:
        told = ", ".join(f"{number(planned)} and {number(found)}" for planned, found in (pair[what] for pair in pairs))
        yield Result(
            claim=f"default sweep, {what}: plan and reality, the larger ÷ the smaller",
            values=tuple(max(pair[what]) / min(pair[what]) for pair in pairs),
            target=FACTOR,
            at_least=False,
            note=f"planned and found: {told}",
        )


def planned_and_found(folder: Path) -> dict[str, tuple[float, float]]:
    """{what: (expected by the plan, found)} of one default sweep."""
    composed = compose("plan", PlanSettings, ["measure=true", f"results_dir={folder}", *ON_CPU])
    assert composed is not None
    expected = plan(composed).as_dict()
    sweep, _ = run_sweep(folder, "default")
    rows = figures(gather(Sweep(sweep)), expected)
    return {what: (float(value["expected"]), found) for what, value, found in rows if what in COMPARED}


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
