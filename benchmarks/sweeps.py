"""Whole sweeps for measuring: started as a person starts them, in a folder of their own, and read from what they left.

Times are Unix seconds. What a row of history.jsonl says of time is explained in docs/results.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_app.results.sweep import Sweep, read_study

ON_CPU = ("hardware=cpu",)
"""The default sweep of a machine without a GPU, also where there is one."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Where the time of a sweep went."""

    first_setup: float
    """When the first trial began to be set up."""
    last_result: float
    """When the driver had recorded the end of the last trial."""
    stepping: float
    """Seconds inside training and validation steps, over all trials: neither waiting for patches nor compiling."""
    loading: float
    """Seconds spent waiting for patches."""
    compiling: float
    """Seconds spent compiling."""
    epochs: int

    @property
    def wall(self) -> float:
        """Seconds from the first setup to the last result."""
        return self.last_result - self.first_setup

    def efficiency(self, slots: int) -> float:
        """Share of the slots' time that was spent inside training and validation steps."""
        return self.stepping / (slots * self.wall)


def times_of(rows: Iterable[Mapping[str, Any]], last_result: float) -> Times:
    """The sums of the rows of all trials. Trials that were restarted count with what their history kept."""
    rows = list(rows)

    def total(*names: str) -> float:
        return float(sum(row[name] for row in rows for name in names))

    return Times(
        first_setup=min(row["time_setup"] for row in rows),
        last_result=last_result,
        stepping=total("seconds_compute", "seconds_validate"),
        loading=total("seconds_load"),
        compiling=total("seconds_compile"),
        epochs=len(rows),
    )


def times_of_sweep(folder: Path) -> Times:
    """The times of a finished sweep."""
    ends = [trial.datetime_complete.timestamp() for trial in read_study(folder)[0] if trial.datetime_complete]
    return times_of((row for trial in Sweep(folder).trials for row in trial.history), max(ends))


def run_sweep(folder: Path, name: str, *words: str, cache: Path | None = None) -> tuple[Path, float]:
    """`python -m tune_app.run WORDS` to its end: the sweep's folder and the seconds that the command took.

    cache: the folder for the phantom, packed crops and compiled graphs; None leaves the person's own. Neither the
    settings nor the results of the person are touched. Raises RuntimeError with the output where the command fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tune_app.run", f"results_dir={folder}", f"name={name}", *ON_CPU, *words]
    started = time.perf_counter()
    output = to_the_end(command, environment(folder, cache))
    assert (folder / name / "manifest.json").is_file(), output
    return folder / name, time.perf_counter() - started


def environment(folder: Path, cache: Path | None = None) -> dict[str, str]:
    """The environment of a command that must not depend on the person's settings. Compiled graphs go to the cache."""
    own = {"TUNE_APP_SETTINGS": "/dev/null", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    own |= {"TUNE_APP_CACHE": str(cache)} if cache else {}
    left_out = ("TUNE_APP_RESULTS", "TUNE_APP_DATA_ROOT", "RAY_ADDRESS", "TORCHINDUCTOR_CACHE_DIR")
    return {name: value for name, value in os.environ.items() if name not in left_out} | own


def to_the_end(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What a command prints. Interrupted, it is told to end and waited for, so that no Ray is left running."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return output
