"""What each verb shows in a terminal, at several widths:  python screens.py RESULTS

The program that `test_screens.py` runs in a pseudo-terminal, whose width it changes as a person would. RESULTS holds a
recorded sweep, `swept`. Before each screen a line names it: SEPARATOR, name, width.
"""

from __future__ import annotations

import fcntl
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path

from planned import ray_trial
from rich.console import Console

from cluster.lifecycle import NameSettings, status
from tune_app.confirmation.confirm import finding_text
from tune_app.plan import PlanSettings, plan_and_print
from tune_app.results.finding import read_confirmation
from tune_app.results.summary import SummarySettings, summarise_and_print
from tune_app.results.sweep import Sweep
from tune_app.settings.command_line import compose, exit_code
from tune_app.sweep.progress import Display, Progress

UNLIMITED = 1000
WIDTHS = (80, 100, 120, 160, UNLIMITED)
SEPARATOR = "\x1e"


def run(results: Path) -> None:
    """The live table of the recorded sweep: two trials have ended, three run, one of them in its first epoch."""
    sweep = Sweep(results / "swept")
    display = Display(
        Progress(num_trials=12, epochs=9, classes=sweep.classes, objective=sweep.objective, slots=3, planned=6.0)
    )
    display.setup()
    try:
        for number, trial in enumerate(sweep.trials):
            shown = ray_trial(results / "swept" / "trials", trial.name)
            display.on_trial_start(0, [], shown)
            for row in trial.history:
                shown.last_result = row
                display.on_trial_result(0, [], shown, row)
            if number < 2:
                display.on_trial_complete(0, [], shown)
        display.on_step_end(0, [])
    finally:
        display.close()


def summary(results: Path) -> None:
    summarise_and_print(SummarySettings(sweep=str(results / "swept")))


def confirm(results: Path) -> None:
    print(finding_text(read_confirmation(results / "swept"), Console().width))


def plan(results: Path) -> None:
    words = ["family=seesaw", f"results_dir={results}", "gpus=0", "resources.num_cpus=2"]
    composed = compose("plan", PlanSettings, words)
    assert composed
    plan_and_print(composed)


def cluster(results: Path) -> None:
    status(NameSettings())


SCREENS: dict[str, Callable[[Path], None]] = {
    "run": run,
    "summary": summary,
    "confirm": confirm,
    "plan": plan,
    "cluster": cluster,
}


def show_all(results: Path) -> int:
    assert sys.__stdout__
    for width in WIDTHS:
        fcntl.ioctl(sys.__stdout__.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        for name, show in SCREENS.items():
            print(f"{SEPARATOR}{name} {width}", flush=True)
            if code := exit_code(lambda show=show: show(results)):  # type: ignore[misc]
                return code
    return 0


if __name__ == "__main__":
    sys.exit(show_all(Path(sys.argv[1])))
