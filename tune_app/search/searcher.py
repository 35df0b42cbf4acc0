"""The searcher: unfinished trials first, then the planned arms, then what the sampler proposes.

It differs from Ray's OptunaSearch in what it tells the study: a trial that the scheduler stopped is PRUNED with its
curve, one that broke is FAIL with a reason, one that reached its last epoch is COMPLETE. All state is in the study, so
a restarted search goes on exactly where the killed one stood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from search_spaces import ClassCounts, Parameter, effective_signature
from tune_app.search.arms import Arm
from tune_app.search.study import UNFINISHED, distribution, sampler_for, suggest_point


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many trials, and how long each."""

    num_trials: int
    """Trials of the sweep, planned arms included."""
    epochs: int
    """Epochs of a trial that is not stopped."""


class StudySearcher(Searcher):
    """Ray Tune searcher over an Optuna study.

    study: as opened by `open_study`, with the unfinished trials of an earlier run in it.
    arms: planned arms in order; the ones already in the study are skipped.
    space: what the sampler searches; empty where only planned arms are tried.
    configure: (number, name, loss, seed) → the trial's config.
    """

    def __init__(
        self,
        *,
        study: optuna.Study,
        arms: Sequence[Arm],
        space: Mapping[str, Parameter],
        family: str,
        kind: str,
        seed: int,
        startup_trials: int,
        budget: Budget,
        counts: ClassCounts,
        configure: Callable[[int, str, Mapping[str, Any], int], dict[str, Any]],
        metric: str = "mean_dice",
    ) -> None:
        super().__init__(metric=metric, mode="max")
        self._study, self._arms, self._space, self._family = study, list(arms), space, family
        self._kind, self._seed, self._startup_trials = kind, seed, startup_trials
        self._budget, self._counts, self._configure = budget, counts, configure
        existing = study.get_trials(deepcopy=False)
        self._unfinished = [t for t in existing if t.state in UNFINISHED]
        self._num_created = len(existing)
        self._num_planned = sum(t.user_attrs.get("planned", False) for t in existing)
        self._live: dict[str, optuna.Trial] = {}

    # Ray pickles searchers into its own snapshots, which this program does not use: the study is the state.
    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._unfinished:
            return self._continue(trial_id)
        if self._num_created >= self._budget.num_trials:
            return Searcher.FINISHED
        if self._num_planned < len(self._arms):
            return self._begin_planned(trial_id)
        return self._begin_searched(trial_id) if self._space else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._report(self._live[trial_id], result)

    def _report(self, trial: optuna.Trial, result: Mapping[str, Any]) -> None:
        """Add one epoch to the trial's curve, once."""
        value = result.get(self._metric)
        known = self._study._storage.get_trial(trial._trial_id).intermediate_values
        if value is not None and math.isfinite(value) and result["epoch"] not in known:
            trial.report(value, step=result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._live.pop(trial_id, None)
        if trial is not None:
            if result and "epoch" in result:  # Ray hands the last result over here only
                self._report(trial, result)
            state, value, reason = verdict(result, error, self._metric, self._budget.epochs)
            tell(self._study, trial, state, value, reason)

    def _continue(self, trial_id: str) -> dict[str, Any]:
        frozen = self._unfinished.pop(0)
        self._seed_sampler(frozen.number)
        waiting = frozen.state == TrialState.WAITING
        trial = self._study.ask() if waiting else optuna.Trial(self._study, frozen._trial_id)
        assert trial.number == frozen.number
        if "loss" not in frozen.user_attrs:  # killed between asking and recording: the same seed proposes the same
            arm = Arm(family=self._family, point=suggest_point(trial, self._space), seed=self._seed)
            self._describe(trial, self._attributes(arm, trial.number, planned=False))
        self._suggest_fixed(trial)
        return self._start(trial_id, trial)

    def _begin_planned(self, trial_id: str) -> dict[str, Any]:
        arm = self._arms[self._num_planned]
        self._num_planned += 1
        self._study.enqueue_trial(dict(arm.searched), user_attrs=self._attributes(arm, self._num_created, planned=True))
        trial = self._study.ask()
        self._num_created += 1
        self._suggest_fixed(trial)
        return self._start(trial_id, trial)

    def _begin_searched(self, trial_id: str) -> dict[str, Any]:
        self._seed_sampler(self._num_created)
        trial = self._study.ask()
        self._num_created += 1
        arm = Arm(family=self._family, point=suggest_point(trial, self._space), seed=self._seed)
        self._describe(trial, self._attributes(arm, trial.number, planned=False))
        return self._start(trial_id, trial)

    def _seed_sampler(self, number: int) -> None:
        self._study.sampler = sampler_for(self._kind, self._seed, number, self._startup_trials)

    def _suggest_fixed(self, trial: optuna.Trial) -> None:
        """Record the parameters of a planned arm that lie in the space, so that the sampler learns from it."""
        for name in trial.user_attrs.get("searched", {}):
            if not self._space[name].fixed:
                trial._suggest(name, distribution(self._space[name]))

    def _attributes(self, arm: Arm, number: int, *, planned: bool) -> dict[str, Any]:
        loss = arm.loss_config(self._counts)
        return {
            "name": folder_name(number, arm.label),
            "label": arm.label,
            "family": loss["name"],
            "preset": arm.preset,
            "loss": loss,
            "seed": arm.seed,
            "signature": effective_signature(loss, self._counts),
            "searched": dict(arm.searched),
            "planned": planned,
        }

    @staticmethod
    def _describe(trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
        for name, value in attributes.items():
            trial.set_user_attr(name, value)

    def _start(self, trial_id: str, trial: optuna.Trial) -> dict[str, Any]:
        self._live[trial_id] = trial
        attributes = trial.user_attrs
        return self._configure(trial.number, attributes["name"], attributes["loss"], attributes["seed"])


def folder_name(number: int, label: str) -> str:
    """Name of a trial and of its folder: 0003_seesaw_default."""
    return f"{number:04d}_{label}"


def verdict(
    result: Mapping[str, Any] | None, error: bool, metric: str, epochs: int
) -> tuple[TrialState, float | None, str]:
    """What the study is told of an ended trial: state, value (best epoch, only where complete), reason of a failure."""
    if error or not result or "epoch" not in result:
        return TrialState.FAIL, None, "error"
    if result.get("diagnosis") == "nan" or not math.isfinite(result.get(metric, math.nan)):
        return TrialState.FAIL, None, result.get("diagnosis") or "nan"
    if result["epoch"] < epochs:
        return TrialState.PRUNED, None, ""
    return TrialState.COMPLETE, float(result.get(f"best_{metric}", result[metric])), ""


def tell(study: optuna.Study, trial: optuna.Trial, state: TrialState, value: float | None, reason: str) -> None:
    """Record the end of a trial."""
    if reason:
        trial.set_user_attr("reason", reason)
    study.tell(trial, value, state=state)
