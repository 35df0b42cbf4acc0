"""The Optuna study of a sweep: the record of every trial that was ever begun.

It lies in the sweep folder as an append-only journal (study.journal), which `optuna-dashboard` opens and which needs no
file locks that network file systems lack. One Optuna trial per trial of the sweep, under the same number.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search_spaces import Choice, Float, Int, Parameter, Simplex, independent, parameters_of
from trainables.files import drop_torn_line
from trainables.objective import Objective
from tune_app.results.folders import JOURNAL
from tune_app.results.tables import in_words

Axes = dict[str, BaseDistribution]
UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
"""With something to tell the sampler as it is."""
NAN = "nan"
"""`reason` of a trial that failed because its score was NaN."""
MOST_MISSED = 1e9
"""What a figure that is not there misses its bound by: JSON knows no ∞."""
MOST_TOLD, BEST_TOLD = 500, 25
"""Trials that the sampler is told of, and how many of those are the best ones. More would hardly change a proposal and
make every one slower."""


def open_study(sweep_dir: Path, name: str, objective: Objective) -> optuna.Study:
    """The study of the sweep folder, created where there is none, for this objective; for the one driver of the sweep.

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
        study = optuna.create_study(study_name=name, storage=storage, direction=f"{objective.mode}imize")
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([in_words(objective.metric)])
    return study


def recorded(space: Mapping[str, Parameter], point: Mapping[str, Any]) -> tuple[dict[str, Any], Axes]:
    """A point as Optuna records it, with the distributions of its axes; without those that are fixed."""
    params: dict[str, Any] = {}
    for name, value in point.items():
        axis = space[name]
        if not axis.fixed:
            params |= axis.on_axes(name, value) if isinstance(axis, Simplex) else {name: value}
    return params, distributions(space, params)


def distributions(space: Mapping[str, Parameter], names: Iterable[str]) -> Axes:
    """Those of some of the axes. KeyError where there is no such axis."""
    axes = independent(space)
    return {name: distribution(axes[name]) for name in names}


def distribution(parameter: Float | Int | Choice) -> BaseDistribution:
    """Optuna's distribution of one axis."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(list(parameter.options))
    if isinstance(parameter, Int):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def propose(
    study: optuna.Study,
    space: Mapping[str, Parameter],
    *,
    kind: str,
    seed: int,
    number: int,
    startup_trials: int,
    whole: Mapping[str, Parameter] | None = None,
    hints: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """A point that is drawn at random, or by TPE (Watanabe 2023, arXiv:2304.11127) from the trials so far.

    The sampler is asked on a copy in memory: nothing is written to the study, so that a crash at that moment leaves no
    half-described trial. It is seeded by (seed, number), so it has no state that a crash could lose.

    number: that of the trial, or any other that no other proposal of the search has.
    startup_trials: that have trained an epoch, before TPE is asked.
    whole: the space of the study, where `space` is a part of it: only the trials inside the part are told.
    hints: values on the axes of the sampler that are given beforehand; the others are proposed.
    """
    own_seed = (seed * 1_000_003 + number * 7919 + 1) % 2**32
    told: Sequence[FrozenTrial] = ()
    sampler: BaseSampler = RandomSampler(seed=own_seed)
    if kind == "optuna":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of `group`, which conditional spaces need
            sampler = TPESampler(seed=own_seed, n_startup_trials=startup_trials, multivariate=True, group=True)
        known = study.get_trials(deepcopy=False, states=(*ENDED, TrialState.RUNNING, TrialState.FAIL))
        known = known if whole is None else inside(known, space)
        if sum(bool(t.intermediate_values) or t.state in ENDED or became_nan(t) for t in known) >= startup_trials:
            told = thinned(as_told(known), study.direction)
    copied = optuna.create_study(direction=study.direction, sampler=sampler)
    for trial in told:
        bare = copy.copy(trial)
        bare.user_attrs = {}  # the loss, the name: Optuna copies deeply what it is given
        copied.add_trial(bare)
    if hints:
        copied.enqueue_trial(dict(hints))
    return suggest_point(copied.ask(), space)


def inside(trials: Iterable[FrozenTrial], part: Mapping[str, Parameter]) -> list[FrozenTrial]:
    """The trials that lie in a part of their space, as trials of that part: an axis that is fixed in it is none."""
    axes, found = independent(part), []
    for trial in trials:
        if all(name in axes and axes[name].contains(value) for name, value in trial.params.items()):
            names = [name for name in trial.params if not axes[name].fixed]
            own = copy.copy(trial)
            own.params, own.distributions = {name: trial.params[name] for name in names}, distributions(part, names)
            found.append(own)
    return found


def as_told(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials as the sampler is told of them, in the same order; copies where they are told as something else.

    One that runs or has paused is told as what it would be if it ended here: pruned, with its curve so far. One that
    became NaN is told as pruned without a curve, which is the worst there is. One that failed for another reason says
    nothing of its point, and is left out. Where there are bounds, one of which it is not known by how much it misses
    them is told to miss them by most.
    """
    bounds = {name for trial in trials for name in trial.constraints}
    told = []
    for trial in trials:
        if trial.state in ENDED:
            told.append(trial)
        elif trial.state != TrialState.FAIL or became_nan(trial):
            copied = copy.copy(trial)
            copied.state, copied.datetime_complete = TrialState.PRUNED, trial.datetime_complete or trial.datetime_start
            if became_nan(trial):
                copied.intermediate_values = {}
            if bounds and not trial.constraints:
                copied.system_attrs = {}
                for name in sorted(bounds):
                    copied.set_constraint(name, MOST_MISSED)
            told.append(copied)
    return told


def became_nan(trial: FrozenTrial) -> bool:
    """Whether it failed because its score was NaN."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get("reason") == NAN


def thinned(trials: Sequence[FrozenTrial], direction: StudyDirection) -> Sequence[FrozenTrial]:
    """MOST_TOLD of the trials at most, in the same order: the BEST_TOLD best, of the others an even selection."""
    if len(trials) <= MOST_TOLD:
        return trials
    order = sorted(
        range(len(trials)), key=lambda i: _rank(trials[i], -1 if direction == StudyDirection.MAXIMIZE else 1)
    )
    others = sorted(order[BEST_TOLD:])
    even = np.linspace(0, len(others) - 1, MOST_TOLD - BEST_TOLD).round().astype(int)
    return [trials[i] for i in sorted([*order[:BEST_TOLD], *(others[i] for i in even)])]


def _rank(trial: FrozenTrial, sign: int) -> tuple[float, ...]:
    """The lower the better, as TPE sees it: complete before pruned, of those the ones that ran longer."""
    missed = sum(value for value in trial.constraints.values() if value > 0)
    if trial.state == TrialState.COMPLETE:
        return missed, 0, sign * trial.value
    epoch, value = max(trial.intermediate_values.items(), default=(-1, 0.0))
    return missed, 1, -epoch, sign * value


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
    if isinstance(parameter, Simplex):
        axes = parameter.axes(name).items()
        return parameter.of_axes([trial.suggest_float(axis, part.low, part.high) for axis, part in axes])
    if isinstance(parameter, Int):
        return trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)


def trial_of(study: optuna.Study, number: int) -> FrozenTrial:
    """One trial of the study, without listing them all."""
    storage = study._storage
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def curve(trial: FrozenTrial) -> list[tuple[int, float]]:
    """[(epoch, score)] as reported."""
    return sorted(trial.intermediate_values.items())
