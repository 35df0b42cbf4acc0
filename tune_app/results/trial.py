"""One trial as its folder and the study tell it: settings, history, status. Nothing here writes.

Legend: E epochs, K validation crops, C classes, B histogram bins.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any
from zipfile import BadZipFile

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from trainables.calibration import ARRAYS, Calibration, calibrate
from trainables.objective import Objective
from trainables.trial_folder import CHECKSUM, is_intact
from tune_app.results.diagnosis import HOPELESS, Diagnosis, diagnose, hopeless, of_error
from tune_app.results.manifest import read_known
from tune_app.settings.schema import DiagnosisSettings

STATUSES = (
    "running",
    "finished",
    "stopped early",
    "paused",
    "failed: nan",
    "failed: diverged",
    "failed: collapsed",
    "failed: uniform_output",
    "failed: error",
    "waiting",
    "interrupted",
)
"""interrupted: the trial was running when the driver ended; `run resume=` goes on from its last epoch. paused: at a
rung, of a sweep whose trials are promoted; it goes on where it is among the best there, and has ended with the sweep.
"""
PAUSED, PROMOTED = "paused", "promoted"
"""In the study, of a trial: the rung where it last paused, and the one from which it last went on."""

GIVEN_UP = "Given up: more failures than resources.max_failures."
"""Last line of the error.txt of a trial that is not tried again."""
OCCURRED = re.compile(r"\(occurred at (\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)\)")
RAY_KEYS = (
    "training_iteration",
    "trial_id",
    "date",
    "timestamp",
    "time_this_iter_s",
    "time_total_s",
    "pid",
    "hostname",
    "node_ip",
    "time_since_restore",
    "iterations_since_restore",
)
"""What Ray adds to a reported row."""

CONFIG_KINDS = {
    "run": {"number": int, "name": str, "preset": (str, NoneType), "planned": (bool, NoneType), "params": dict},
    "loss": {"name": str, "params": dict},
    "seed": int,
    "data": {"classes": list},
    "model": dict,
    "trainer": {"epochs": int},
    "hardware": dict,
    "resources": {"cpus_per_trial": (int, float), "gpus_per_trial": (int, float)},
}
"""Of what the rest of the program reads in a trial's config; see `read_known`."""


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep. Scores are those of the best epoch, the best row by the objective."""

    name: str
    number: int
    folder: Path
    status: str
    objective: Objective
    reason: str = ""
    family: str = ""
    preset: str = ""
    seed: int | None = None
    loss: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Any] = field(default_factory=dict)
    """Settings that its point gave, over those of the sweep: {"trainer": {"lr": 1e-3}}."""
    signature: str = ""
    baseline: bool = False
    """Whether it is the untuned baseline of its sweep, under whatever name."""
    origin: str = ""
    """Where a proposal of a warm start came from: box, prior or space; empty for every other trial."""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    history: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    judged_by: DiagnosisSettings = field(default_factory=DiagnosisSettings, repr=False)
    error: str = field(default="", repr=False)
    """The text of its last error; a trial that went on after it has one too."""
    error_epoch: int = 0
    """Epochs finished before it."""
    as_of: int = 0
    """An epoch whose scores are taken instead of the best one's."""
    damage: tuple[str, ...] = ()
    """What its files have lost, in a sentence each."""

    @property
    def metric(self) -> str:
        """The figure that ranks."""
        return self.objective.metric

    @cached_property
    def diagnoses(self) -> tuple[Diagnosis, ...]:
        """Everything that went wrong in it, by name."""
        epochs = int(self.config.get("trainer", {}).get("epochs") or self.epochs)
        return tuple(
            diagnose(
                self.history,
                self.judged_by,
                self.objective,
                epochs=epochs,
                error=self.error,
                error_epoch=self.error_epoch,
            )
        )

    @property
    def label(self) -> str:
        """The name without its number: seesaw_default of 0003_seesaw_default."""
        return re.sub(r"^\d+_", "", self.name)

    @property
    def failed(self) -> bool:
        return self.status.startswith("failed")

    @property
    def epochs(self) -> int:
        return len(self.history)

    @property
    def minutes(self) -> float:
        """Minutes spent in epochs, restarts included; NaN where no epoch said how long it took."""
        seconds = [row["seconds_epoch"] for row in self.history if is_finite(row.get("seconds_epoch"))]
        return sum(seconds) / 60 if seconds else math.nan

    @cached_property
    def best(self) -> Mapping[str, Any]:
        """The row of the best epoch, the first of equals, or of `as_of`; {} while there is no finite score."""
        scored = [row for row in self.history if is_finite(row.get(self.metric)) and self.as_of in (0, row["epoch"])]
        return max(scored, key=self.objective.key, default={})

    @property
    def violation(self) -> float:
        """By how much the best epoch misses the bounds, see `Objective.violation`; NaN while there is no score."""
        return self.objective.violation(self.best) if self.best else math.nan

    @property
    def bounded(self) -> str:
        """The figures of the best epoch that miss a bound, in words."""
        return self.objective.missed(self.best)

    @cached_property
    def calibration(self) -> Calibration:
        """Dice at ½ and at thresholds of its own, at the best epoch; read and worked out once."""
        if not self.best:
            return Calibration(problem="no epoch has a finite score")
        counted = {key[5:]: value for key, value in self.best.items() if key.startswith("dice/")}
        found = self.validation(ARRAYS)
        if not found and self.validation(("confusion",)):
            return Calibration(problem="the largest output decides, there is no threshold to choose")
        return calibrate(found, self.best["epoch"], counted)

    def score(self, key: str) -> float:
        """A figure of the best epoch, calibrated ones and `violation` included; NaN where there is none."""
        if key == "violation":
            return self.violation
        return float(self.best[key]) if key in self.best else self.calibration.score(key)

    def last(self, key: str, epochs: int) -> float:
        """The mean of a figure over the last `epochs` rows, or as many as there are; NaN where one of them lacks it."""
        rows = self.history[-epochs:]
        return sum(float(row.get(key, math.nan)) for row in rows) / len(rows) if rows else math.nan

    def validation(self, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """validation.npz, or the arrays `names` of it: epochs (E,), tp, fp, fn (E, K, C), known (K, C), hist_positive,
        hist_negative (K, C, B) of the best epoch, crops (K,), classes (C,), edges (B + 1,). {} where it is missing, cut
        short, or lacks one of them."""
        path = self.folder / "validation.npz"
        with (
            suppress(OSError, ValueError, EOFError, KeyError, BadZipFile),
            path.open("rb") as file,  # np.load, given the path, leaves a damaged file open.
            np.load(file, allow_pickle=False) as arrays,
        ):
            return {name: arrays[name] for name in (arrays.files if names is None else names)}
        return {}


def devices_of(trial: Trial) -> float:
    """GPUs of a trial, or its CPUs where it has none."""
    return devices_in(trial.config)


def devices_in(config: Mapping[str, Any]) -> float:
    """The same, from the config of a trial; 1 where it says nothing."""
    resources = config.get("resources", {})
    cpus = (resources.get("cpus_per_trial") or 1) * (resources.get("workers_per_trial") or 1)
    return float(resources.get("gpus_per_trial") or cpus)


def device_hours(trial: Trial) -> float:
    """Hours of training and validation times the trial's devices; 0 where no epoch said how long it took."""
    return (trial.minutes if math.isfinite(trial.minutes) else 0.0) / 60 * devices_of(trial)


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where it is missing, cut short or something else."""
    return read_known(path, {})[0]


def read_config(folder: Path) -> tuple[dict[str, Any], bool]:
    """(the config of a trial, without values of a wrong kind; whether that is all); of Ray's copy where it is lost."""
    config, whole = read_known(folder / "config.json", CONFIG_KINDS)
    return (config, whole) if config else read_known(folder / "params.json", CONFIG_KINDS)


def read_history(path: Path) -> tuple[dict[str, Any], ...]:
    """The rows of history.jsonl by epoch; the later of two rows of one epoch counts, null is NaN."""
    return read_rows(path)[0]


def read_rows(path: Path) -> tuple[tuple[dict[str, Any], ...], int]:
    """(the rows as `read_history` gives them, how many lines are damaged and left out).

    A last line without its end is no damage: the file of a running trial may end anywhere. A line without a checksum is
    damaged where others have one; the histories of earlier versions have none.
    """
    rows: dict[int, dict[str, Any]] = {}
    with suppress(OSError):
        *lines, last = path.read_text(encoding="utf-8", errors="replace").split("\n")
        intact = [is_intact(line) for line in [*lines, last]]
        sealed = any(known is not None for known in intact)
        found = [_history_row(line) if known or not sealed else None for line, known in zip([*lines, last], intact)]
        rows = {row["epoch"]: row for row in found if row is not None}
        return tuple(rows[epoch] for epoch in sorted(rows)), found[:-1].count(None)
    return (), 0


def read_reported(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a result.json; a last line cut short by a crash is left out."""
    rows: list[Mapping[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and "epoch" in row:
                    rows.append(row)
    return rows


def _history_row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not (isinstance(row, dict) and is_finite(row.get("epoch"))):
        return None
    ours = {k: v for k, v in row.items() if k not in (CHECKSUM, *RAY_KEYS) and not isinstance(v, dict | list)}
    return {k: math.nan if v is None else v for k, v in ours.items()} | {"epoch": int(row["epoch"])}


def read_trial(
    folder: Path,
    frozen: FrozenTrial | None,
    *,
    number: int,
    objective: Objective,
    driver_runs: bool,
    judged_by: DiagnosisSettings | None = None,
    untuned: str = "",
) -> Trial:
    """One trial from its folder (which may not exist yet) and its record in the study (which may be lost)."""
    judged_by = judged_by or DiagnosisSettings()
    error = _read_text(folder / "error.txt").rstrip().removesuffix(GIVEN_UP)
    config, config_whole = read_config(folder)
    attrs = frozen.user_attrs if frozen else config.get("run") or {}
    told = set(frozen.intermediate_values) if frozen and frozen.state.is_finished() else set()
    history, lost_rows = _recorded(folder, told)
    if not history and frozen:  # its folder is gone: what the study knows
        curve = sorted(frozen.intermediate_values.items())
        history = tuple({"epoch": epoch, objective.metric: value} for epoch, value in curve)
    loss = attrs.get("loss") or config.get("loss") or {}
    status = _study_status(frozen, attrs) if frozen else _folder_status(folder, config, history)
    if status == "running" and not driver_runs:
        status = "interrupted"
    alike = attrs.get("signature") or loss  # equal for trials of one effective loss; one that says nothing is alone
    ended = hopeless(history, judged_by) if status == "stopped early" and judged_by.stop_hopeless else None
    if ended:
        status = f"failed: {ended.code}"
    return Trial(
        name=folder.name,
        number=number,
        folder=folder,
        status=status,
        objective=objective,
        reason=_reason(status, error, attrs, history, judged_by, objective),
        family=str(attrs.get("family") or loss.get("name") or ""),
        preset=str(attrs.get("preset") or ""),
        seed=attrs.get("seed", config.get("seed")),
        loss=loss,
        params=frozen.params if frozen else attrs.get("params") or {},
        sections=attrs.get("sections") or {},
        signature=json.dumps(alike, sort_keys=True, default=str) if alike else folder.name,
        baseline=bool(attrs.get("baseline", attrs.get("signature") == untuned != "")),
        origin=str(attrs.get("origin") or ""),
        config=config,
        history=history,
        judged_by=judged_by,
        error=error,
        error_epoch=_epochs_before(error, history),
        damage=tuple(_damage(folder, history, config_whole=config_whole, lost_rows=lost_rows)),
    )


def _recorded(folder: Path, told: Set[int]) -> tuple[tuple[dict[str, Any], ...], int]:
    """(history.jsonl, how many of its lines are damaged or gone); an epoch that it lost is that of Ray's log.

    told: epochs that the study has of a trial that has ended.
    """
    history, damaged = read_rows(folder / "history.jsonl")
    lost = told - {row["epoch"] for row in history} if history else set()
    if history and not damaged and not lost:
        return history, 0
    rows = {row["epoch"]: row for row in (*read_history(folder / "result.json"), *history)}
    return tuple(rows[epoch] for epoch in sorted(rows)), max(damaged, len(lost))


def _damage(folder: Path, history: Sequence[object], *, config_whole: bool, lost_rows: int) -> Iterator[str]:
    """Of a trial that has begun; one that has not may still lack its files."""
    if history and not folder.is_dir():
        yield "its folder is gone: only what the study has of it is known"
    elif history and not config_whole:
        yield "config.json is missing or damaged: what it no longer says counts as unknown"
    if lost_rows:
        yield f"history.jsonl is damaged; epochs that it lost ({lost_rows} at most) are read from result.json"


def _study_status(frozen: FrozenTrial, attrs: Mapping[str, Any]) -> str:
    if frozen.state == TrialState.FAIL:
        return "failed: nan" if attrs.get("reason") == "nan" else "failed: error"
    if frozen.state != TrialState.COMPLETE and is_paused(attrs):
        return "paused"
    return {
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "stopped early",
        TrialState.RUNNING: "running",
        TrialState.WAITING: "waiting",
    }[frozen.state]


def is_paused(attrs: Mapping[str, Any]) -> bool:
    """Whether a trial with these attributes in the study that has not finished has paused, and not gone on since."""
    return int(attrs.get(PAUSED, 0)) > int(attrs.get(PROMOTED, 0))


def _folder_status(folder: Path, config: Mapping[str, Any], history: Iterable[Mapping[str, Any]]) -> str:
    """The status of a trial the study does not know: what its last row and Ray's error file say."""
    last = max(history, key=lambda row: row["epoch"], default=None)
    if last is not None and last.get("diagnosis") == "nan":
        return "failed: nan"
    if last is not None and (last.get("done") is True or last["epoch"] == config.get("trainer", {}).get("epochs")):
        return "finished"
    if was_given_up(folder):
        return "failed: error"
    return "waiting" if last is None and not config else "running"


def _reason(
    status: str,
    error: str,
    attrs: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    judged_by: DiagnosisSettings,
    objective: Objective,
) -> str:
    """Why a trial failed, or ended by itself before its last epoch, in one line; "" for any other.

    Ray's error.txt outlives a recovery, so status decides.
    """
    if not status.startswith("failed"):
        return str(attrs.get("reason") or "") if status == "finished" else ""
    found = hopeless(history, judged_by) if status.removeprefix("failed: ") in HOPELESS else None
    if found:
        return str(found)
    if status == "failed: nan":
        named = diagnose(history[-1:], judged_by, objective, epochs=len(history))
        return str(named[0]) if named else "nan: the loss was not finite"
    return str(of_error(error, 0)) if error.strip() else str(attrs.get("reason") or "error")


def was_given_up(folder: Path) -> bool:
    """Whether the last error of a trial was one too many; after any other it went on, or goes on when resumed."""
    return _read_text(folder / "error.txt").rstrip().endswith(GIVEN_UP)


def _epochs_before(error: str, history: Sequence[Mapping[str, Any]]) -> int:
    """Epochs that had ended at the last of Ray's errors, by the time, to the second, that Ray wrote above it."""
    times = OCCURRED.findall(error)
    if not times:
        return 0
    after = datetime.strptime(times[-1], "%Y-%m-%d_%H-%M-%S").timestamp() + 1
    return sum(not row.get("time_ended", 0.0) > after for row in history)


def _read_text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
