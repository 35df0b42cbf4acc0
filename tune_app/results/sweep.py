"""The one reader of a sweep folder. It works while the sweep runs, after a crash and at the end, and never writes.

    from tune_app.results.sweep import Sweep
    sweep = Sweep("latest")
    sweep.leaderboard()          # pandas: one row per trial, best first
    sweep.history()              # pandas: one row per trial and epoch

A Sweep is what the folder held when it was opened; `refresh()` reads it again.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial

from search_spaces import ClassCounts, Preset, all_presets, trial_of, trial_signature, untuned
from trainables.calibration import CALIBRATED, GAP, score_keys
from trainables.errors import TrainablesError
from trainables.objective import Objective
from trainables.settings import TaskSettings
from trainables.tasks import get_task
from tune_app.errors import InputError
from tune_app.results.cost import COSTS, costs
from tune_app.results.folders import JOURNAL, LOCK, find_sweep, lock_is_held, recorded_status
from tune_app.results.manifest import KINDS, MANIFEST, of_kind, read_known
from tune_app.results.repeats import Noise, arm_labels, arms_frame, pooled_noise
from tune_app.results.trial import Trial, read_trial
from tune_app.settings.schema import DiagnosisSettings

SETTING_KINDS: dict[str, Any] = {
    "seed": int,
    "seeds": int,
    "data": {"name": str, "train_on": str},
    "search": {"num_samples": int},
    "trainer": {"epochs": int, "pct_start": (int, float)},
    "model": dict,
    "hardware": dict,
    "scheduler": dict,
    "resources": dict,
}
"""Of what the rest of the program reads in sweep.yaml, to show a sweep; see `read_known`."""


class Sweep:
    """A sweep folder, opened by its path, its name under `results_dir`, or `latest`.

    Raises InputError where there is no such sweep; the message lists those that exist.
    """

    def __init__(self, sweep: str | Path = "latest", results_dir: str | Path = "") -> None:
        self.folder = find_sweep(sweep, results_dir)
        self.refresh()

    def refresh(self) -> Sweep:
        """Read the folder again."""
        self.manifest, manifest_whole = read_known(self.folder / MANIFEST, KINDS)
        self.settings, settings_whole = read_known(self.folder / "sweep.yaml", SETTING_KINDS)
        self.objective = _objective(self.manifest)
        self.metric, self.mode = self.objective.metric, self.objective.mode
        told = self.manifest.get("notices")
        self.notices = [str(notice) for notice in told] if isinstance(told, list) else []
        self._judged_by = DiagnosisSettings()  # where it has none of ours
        with suppress(KeyError, TypeError, ValueError, TrainablesError):
            self._judged_by = DiagnosisSettings(**self.settings["diagnosis"])
        driver_runs = lock_is_held(self.folder / LOCK)
        self.trials: tuple[Trial, ...] = self._read_trials(driver_runs)
        for name, whole in ((MANIFEST, manifest_whole), ("sweep.yaml", settings_whole)):
            if self.trials and not whole:
                self.notices.append(f"{name} is missing or damaged: what it no longer says counts as unknown")
        # Where the manifest does not say how it ended, what is missing does.
        planned = self.settings.get("search", {}).get("num_samples", 0)
        unfinished = any(trial.status in ("interrupted", "waiting") for trial in self.trials)
        guessed = "crashed" if unfinished or len(self.trials) < planned else "finished"
        self.status = "running" if driver_runs else recorded_status(self.folder) or guessed
        """running, crashed, interrupted or finished."""
        return self

    def __repr__(self) -> str:
        return f"Sweep({self.name!r}, {self.status}, {len(self.trials)} trials, {self.folder})"

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def phantom(self) -> bool:
        """Whether the data were generated ones."""
        data = self.manifest.get("data") or self.settings.get("data") or {}
        return bool(data.get("phantom", data.get("name") == "phantom"))

    @property
    def device(self) -> str:
        """GPU or CPU: what hours are counted of."""
        gpus = any(trial.config.get("resources", {}).get("gpus_per_trial") for trial in self.trials)
        return "GPU" if gpus else "CPU"

    @property
    def validated(self) -> bool:
        """False where the validation crops were trained on, too (final=): then scores are of crops already seen."""
        return (self.settings.get("data") or {}).get("train_on") != "all"

    @property
    def untuned(self) -> Preset:
        """The preset that is its untuned baseline, whether it was run or not."""
        named = all_presets().get((self.manifest.get("baseline") or {}).get("preset", ""))
        return named or untuned(str(self.manifest.get("family", "")))

    def _untuned_signature(self) -> str:
        """What the signature of the baseline is; of a sweep that did not note it, that of uniform weights, which needs
        no counts."""
        if noted := (self.manifest.get("baseline") or {}).get("signature"):
            return str(noted)
        classes = self.manifest.get("classes") or (self.settings.get("data") or {}).get("classes") or []
        if not isinstance(classes, list) or not classes:
            return ""
        ones = ClassCounts(tuple(map(str, range(len(classes)))), (1.0,) * len(classes), (1.0,) * len(classes))
        return trial_signature(trial_of("static", {"weights": "uniform"}, ones), ones)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in channel order."""
        configs = [trial.config.get("data", {}).get("classes") for trial in self.trials]
        known = next((c for c in (self.manifest.get("classes"), *configs) if c), None)
        return tuple(known or dict.fromkeys(key[5:] for t in self.trials for key in t.best if key.startswith("dice/")))

    def leaderboard(self, by: str = "") -> pd.DataFrame:
        """One row per trial, best first: rank, number, name, family, preset, the metric, the calibrated mean,
        threshold_gap and dice/<class> at the best epoch, best_epoch, epochs, minutes, device_hours, score_per_hour,
        gpu_memory_gb (see `tune_app.results.cost`), status, reason, diagnoses, seed, origin, arm, arm_trials, baseline,
        calibrated/<class>, threshold/<class>, calibration, and param/<name> of the search.

        The best epoch is that of the sweep's metric whatever `by` says. `by`: the metric (default), mean_iou,
        dice/<class>, iou/<class>, a class's name, the calibrated mean or calibrated/<class>. Failed trials and those
        without a finite score have no rank. With bounds there are columns for their figures and for `violation`, which
        comes before the score. Trials of one arm are one effective configuration, whatever their names;
        arm_trials counts them. origin: box, prior or space, where a warm start proposed it from. baseline: whether
        that is the untuned one. Calibrated figures are cross-fitted, see `trainables.calibration`; thresholds are
        σ(logit); calibration says which of them are missing, and why.
        """
        by = self._ranking_key(by)
        bounded = ["violation", *self.objective.figures[1:]] if self.objective.bounds else []
        shown = list(dict.fromkeys([self.metric, *bounded, CALIBRATED, GAP, by, *(f"dice/{c}" for c in self.classes)]))
        own = [key for key in score_keys(self.classes) if key not in shown]
        labels, sizes = arm_labels(self.trials), Counter(trial.signature for trial in self.trials)
        rows = [_leaderboard_row(t, shown, own, labels[t.signature], sizes[t.signature]) for t in self.trials]
        frame = pd.DataFrame(rows, columns=None if rows else [*_FIRST, *shown, *_LAST, *own])
        return _ranked(frame, by, ascending=self.mode == "min" and by == self.metric)

    def history(self) -> pd.DataFrame:
        """One row per trial and epoch: name, number, and every figure of history.jsonl. Empty before the first."""
        rows = [{"name": t.name, "number": t.number, **row} for t in self.trials for row in t.history]
        return pd.DataFrame(rows, columns=None if rows else ["name", "number", "epoch", self.metric])

    @property
    def nearest(self) -> str:
        """Where no trial keeps the bounds, a sentence that says so and names the nearest; else ""."""
        ranked = [trial for trial in self.trials if trial.best and not trial.failed]
        best = max(ranked, key=lambda trial: self.objective.key(trial.best), default=None)
        if best is None or not best.violation or not self.validated:
            return ""
        return f"No trial keeps the bounds {self.objective.bounds}: the nearest is {best.name}, with {best.bounded}."

    def best_per_class(self) -> pd.DataFrame:
        """The ranked trial with the highest Dice of each class, at that trial's best epoch: class, dice, name, arm,
        best_epoch, rank, and with bounds violation. Classes without a finite Dice are left out."""
        board = self.leaderboard()
        board = board[board["rank"].notna()]
        rows, told = [], ["name", "arm", "best_epoch", "rank", *(["violation"] if self.objective.bounds else [])]
        for name in self.classes:
            scores = board[f"dice/{name}"].astype(float)
            if (scores > 0).any():
                row = board.iloc[scores.fillna(-math.inf).argmax()]
                rows.append({"class": name, "dice": scores.max(), **row[told]})
        return pd.DataFrame(rows, columns=["class", "dice", *told])

    def arms(self) -> pd.DataFrame:
        """One row per effective configuration, mean and sd over its finished runs; see `tune_app.results.repeats`."""
        return arms_frame(self.trials, self.classes, self.objective)

    def noise(self) -> Noise | None:
        """Standard deviation between repeated runs; None where no arm has two finished runs with different seeds."""
        return pooled_noise(self.arms())

    def diagnoses(self) -> pd.DataFrame:
        """What went wrong: one row per trial and code, name, status, code, since (epoch) and evidence."""
        rows = [(t.name, t.status, one.code, one.epoch, one.evidence) for t in self.trials for one in t.diagnoses]
        return pd.DataFrame(rows, columns=["name", "status", "code", "since", "evidence"])

    def families(self) -> pd.DataFrame:
        """One row per family, arms merged: family, trials, arms, runs, mean (of the arms' means), best, best_arm."""
        rows = []
        for family in dict.fromkeys(trial.family for trial in self.trials):
            members = [trial for trial in self.trials if trial.family == family]
            arms = arms_frame(members, self.classes, self.objective)
            first = arms.iloc[0]
            rows.append(
                {
                    "family": family,
                    "trials": len(members),
                    "arms": len(arms),
                    "runs": int(arms["runs"].sum()),
                    "mean": arms["mean"].mean(),
                    "best": first["mean"],
                    "best_arm": first["arm"] if first["runs"] else "",
                    "violation": first.get("violation", 0.0),
                }
            )
        frame = pd.DataFrame(
            rows, columns=["family", "trials", "arms", "runs", "mean", "best", "best_arm", "violation"]
        )
        return (
            frame.sort_values(["violation", "best"], ascending=[True, self.mode == "min"], kind="stable")
            .drop(columns="violation")
            .reset_index(drop=True)
        )

    def trial(self, name: str) -> Trial:
        """One trial by its name, its name without the number, or its number; InputError lists the names."""
        for key in ("name", "label", "number"):
            for trial in self.trials:
                if str(getattr(trial, key)) == name:
                    return trial
        names = ", ".join(trial.name for trial in self.trials) or "none yet"
        raise InputError(f"trial {name}: {self.name} has no such trial. Choices: {names}.")

    def _ranking_key(self, by: str) -> str:
        keys = dict.fromkeys(key for trial in self.trials for key in trial.best)
        choices = [self.metric, "mean_iou", *(f"dice/{c}" for c in self.classes), *(k for k in keys if "iou/" in k)]
        choices += [CALIBRATED, *(f"calibrated/{c}" for c in self.classes)]
        key = f"dice/{by}" if by in self.classes else by or self.metric
        if key not in choices:
            raise InputError(f"by={by}: a leaderboard is ranked by a score. Choices: {', '.join(choices)}.")
        return key

    def _read_trials(self, driver_runs: bool) -> tuple[Trial, ...]:
        study, intact = read_study(self.folder)
        if not intact:
            self.notices.append(f"{JOURNAL} is damaged: what it lost is read from the trial folders")
        in_study = {}
        for frozen in study:
            told = frozen.user_attrs
            label = told.get("preset") or told.get("family") or "trial"
            in_study[str(told.get("name") or f"{frozen.number:04d}_{label}")] = frozen
        folders = [path.name for path in (self.folder / "trials").glob("*") if path.is_dir()]
        trials, untuned_signature = [], self._untuned_signature()
        for name in dict.fromkeys([*in_study, *sorted(folders)]):
            known = in_study.get(name)
            if not intact and known is not None and not known.state.is_finished() and name in folders:
                known = None  # Its end may stand in the part that was lost.
            prefix = re.match(r"\d+", name)
            trial = read_trial(
                self.folder / "trials" / name,
                known,
                number=int(prefix.group()) if prefix else known.number if known else 0,
                objective=self.objective,
                driver_runs=driver_runs,
                judged_by=self._judged_by,
                untuned=untuned_signature,
            )
            trials.append(trial)
            self.notices += [f"{name}: {one}" for one in trial.damage]
        return tuple(sorted(trials, key=lambda trial: (trial.number, trial.name)))


_FIRST = ("rank", "number", "name", "family", "preset")
_LAST = (
    "best_epoch",
    "epochs",
    "minutes",
    *COSTS,
    "status",
    "reason",
    "diagnoses",
    "seed",
    "origin",
    "arm",
    "arm_trials",
    "baseline",
    "calibration",
)


def _leaderboard_row(
    trial: Trial, shown: Sequence[str], own: Sequence[str], arm: str, arm_trials: int
) -> dict[str, Any]:
    """shown: scores that come first. own: figures at thresholds of the trial's own, which come last."""
    return {
        "rank": None,
        **{key: getattr(trial, key) for key in _FIRST[1:]},
        **{key: trial.score(key) for key in shown},
        "best_epoch": trial.best.get("epoch"),
        **{key: getattr(trial, key) for key in ("epochs", "minutes")},
        **costs(trial),
        **{key: getattr(trial, key) for key in ("status", "reason")},
        "diagnoses": ", ".join(one.code for one in trial.diagnoses),
        "seed": trial.seed,
        "origin": trial.origin,
        "arm": arm,
        "arm_trials": arm_trials,
        "baseline": trial.baseline,
        "calibration": trial.calibration.notes,
        **{key: trial.score(key) for key in own},
        **{f"param/{name}": value for name, value in trial.params.items()},
    }


def _ranked(frame: pd.DataFrame, by: str, *, ascending: bool) -> pd.DataFrame:
    """Sorted by a score, equal scores in the order of their numbers; rank 1, 2, … where a trial may have one."""
    frame = frame.assign(_failed=frame["status"].astype(str).str.startswith("failed"), _key=frame[by].astype(float))
    bounded = ["violation"] if "violation" in frame else []
    keys = {"_failed": True} | dict.fromkeys(bounded, True) | {"_key": ascending, "number": True}
    frame = frame.sort_values(list(keys), ascending=list(keys.values()), kind="stable")
    eligible = ~frame["_failed"].astype(bool) & frame["_key"].notna()
    frame = frame.drop(columns=["_failed", "_key"]).reset_index(drop=True)
    ranks = eligible.cumsum().where(eligible).astype("Int64").to_numpy()
    types = dict.fromkeys(["rank", "best_epoch", "seed", "number", "epochs", "arm_trials"], "Int64")
    return frame.assign(rank=ranks).astype(types)


def _objective(manifest: Mapping[str, Any]) -> Objective:
    """Of a sweep; bounds that are damaged are left out, and without a metric it is that of the usual task."""
    told = {key: manifest[key] for key in ("metric", "mode", "at_least", "at_most") if manifest.get(key)}
    with suppress(TrainablesError):
        return Objective.from_config(told, get_task(TaskSettings().name))
    return Objective.from_config({"metric": told.get("metric")}, get_task(TaskSettings().name))


def read_settings(folder: Path) -> dict[str, Any]:
    """sweep.yaml of a folder, without sections that are none; {} where it is missing or damaged."""
    return read_known(folder / "sweep.yaml", SETTING_KINDS)[0]


ATTRIBUTE_KINDS = {
    "name": str,
    "label": str,
    "family": str,
    "preset": (str, NoneType),
    "loss": dict,
    "seed": (int, NoneType),
    "sections": dict,
    "signature": str,
    "baseline": bool,
    "planned": bool,
    "origin": str,
    "reason": str,
}
"""Of what the searcher tells of a trial; see `of_kind`."""


class ReadOnlyJournal(BaseJournalBackend):
    """The records of a journal up to the first line that is not complete; `damaged` tells that lines follow it."""

    def __init__(self, path: Path) -> None:
        self.records: list[dict[str, Any]] = []
        self.damaged = False
        for line in path.read_bytes().splitlines(keepends=True):
            if not self._append(line):
                # The beginning of a last line is a write in progress, not damage.
                self.damaged = line.endswith(b"\n") or not line.startswith(b"{")
                break

    def _append(self, line: bytes) -> bool:
        try:
            record = json.loads(line)
        except ValueError:
            return False
        if not (isinstance(record, dict) and line.endswith(b"\n")):
            return False
        self.records.append(record)
        return True

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self.records[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise PermissionError("a results reader never writes to the study")


def read_study(folder: Path) -> tuple[list[FrozenTrial], bool]:
    """(trials of the last study in the journal, whether the journal could be read to its end).

    It cannot be read beyond a trial whose values are of another kind than the searcher writes. A journal that is
    absent, or empty because the sweep has just begun, holds no trials and is intact.
    """
    path = folder / JOURNAL
    if not path.is_file():
        return [], True
    try:
        journal = ReadOnlyJournal(path)
        storage = JournalStorage(journal)
        studies = storage.get_all_studies()
        trials = storage.get_all_trials(studies[-1]._study_id) if studies else []
        sound = list(takewhile(_is_sound, trials))
    except Exception:  # Optuna's replay raises anything from KeyError to RuntimeError on records it cannot follow.
        return [], False
    return sound, not journal.damaged and len(sound) == len(trials)


def _is_sound(trial: FrozenTrial) -> bool:
    told, numbers = trial.user_attrs, [*(trial.values or ()), *trial.intermediate_values.values()]
    return of_kind(told, ATTRIBUTE_KINDS) == told and all(isinstance(one, int | float) for one in numbers)
