"""The Optuna study of a sweep: the record of every trial that was ever begun.

It lies in the sweep folder as an append-only journal (study.journal), which `optuna-dashboard` opens and which needs no
file locks that network file systems lack. One Optuna trial per trial of the sweep, under the same number.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search_spaces import Choice, Parameter, parameters_of
from trainables.files import drop_torn_line
from tune_app.search.history import History
from tune_app.search.tpe import HistoryTPE

JOURNAL, OBJECTIVE = "study.journal", "mean Dice"
UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)


def open_study(sweep_dir: Path, name: str) -> optuna.Study:
    """The study of the sweep folder, created where there is none; for the one driver of the sweep.

    A last line cut short by a crash is cut off: Optuna would append to it and could then never read the journal again.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    drop_torn_line(sweep_dir / JOURNAL)
    path = str(sweep_dir / JOURNAL)
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    existing = optuna.get_all_study_names(storage)  # one at most; the folder may have been renamed since
    if existing:
        study = optuna.load_study(study_name=existing[0], storage=storage)
    else:
        study = optuna.create_study(study_name=name, storage=storage, direction=StudyDirection.MAXIMIZE)
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([OBJECTIVE])
    return study


def sampler_for(kind: str, seed: int, number: int, startup_trials: int, history: History) -> BaseSampler:
    """The sampler of trial `number`: seeded by (seed, number), so it has no state that a crash could lose.

    history: the trials of the study; what the sampler learns from.
    """
    own_seed = (seed * 1_000_003 + number * 7919 + 1) % 2**32
    if kind != "optuna":
        return RandomSampler(seed=own_seed)
    return HistoryTPE(history, seed=own_seed, startup_trials=startup_trials)


def distribution(parameter: Parameter) -> BaseDistribution:
    """Optuna's distribution of one parameter."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(list(parameter.options))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def propose(sampler: BaseSampler, space: Mapping[str, Parameter]) -> dict[str, Any]:
    """A new point. Nothing is written to the study of the sweep: a crash at that moment leaves no half-described trial.

    The sampler is asked on a study of its own, in memory and empty: it knows the trials by their `History`.
    """
    return suggest_point(optuna.create_study(direction=StudyDirection.MAXIMIZE, sampler=sampler).ask(), space)


def suggest_point(trial: optuna.Trial, space: Mapping[str, Parameter]) -> dict[str, Any]:
    """A point of the space; parameters named `family.name` only where that family is chosen."""
    point = {name: _suggest(trial, name, space[name]) for name in space if "." not in name}
    inner = parameters_of(space, str(point.get("family", "")))
    return point | {name: _suggest(trial, name, space[name]) for name in inner}


def _suggest(trial: optuna.Trial, name: str, parameter: Parameter) -> Any:
    if parameter.fixed:
        return parameter.grid(1)[0]
    if isinstance(parameter, Choice):
        return trial.suggest_categorical(name, parameter.options)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)


def trial_of(study: optuna.Study, number: int) -> FrozenTrial:
    """One trial of the study, without listing them all."""
    storage = study._storage
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def curve(trial: FrozenTrial) -> list[tuple[int, float]]:
    """[(epoch, mean Dice)] as reported."""
    return sorted(trial.intermediate_values.items())
