"""The searcher: unfinished trials first, then the planned arms, then what the sampler proposes.

It differs from Ray's OptunaSearch in what it tells the study: a trial that the scheduler stopped is PRUNED with its
curve, one that broke is FAIL with a reason, one that reached its last epoch is COMPLETE. All state is in the study, so
a restarted search goes on exactly where the killed one stood.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher

from search_spaces import ClassCounts, Parameter, Sections
from trainables.objective import OUT_OF_PATIENCE, Objective
from tune_app.results.trial import PAUSED
from tune_app.search.arms import Arm, all_arms
from tune_app.search.guard import ORIGIN, WHOLE, Guard
from tune_app.search.scheduler import PromotingAsha
from tune_app.search.study import MOST_MISSED, NAN, recorded, trial_of

NAN_EPOCH = "nan_epoch"
"""User attribute of a failed trial: the epoch whose score was NaN."""
TOLD = ("name", "family", "preset", "sections", "baseline", "planned", ORIGIN)
"""Of what the study knows of a trial, what its config repeats under `run`."""


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
    configure: (run, sections, seed) → the trial's config; run: number, name, family, preset, baseline, planned and
        params, with which the trial's folder alone says what the study does.
    untuned: the signature of the untuned baseline.
    promoting: the scheduler, where trials pause and go on. A paused trial is one of the unfinished of the study until
        the search is over, and is told to the sampler as pruned.
    guard: where proposals come from, in a warm start; else all come from the whole space.
    slots: see `allow`.
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
        window_voxels: float | None = None,
        configure: Callable[[Mapping[str, Any], Sections, int], dict[str, Any]],
        objective: Objective,
        untuned: str = "",
        promoting: PromotingAsha | None = None,
        guard: Guard | None = None,
        slots: int | None = None,
    ) -> None:
        super().__init__(metric=objective.metric, mode=objective.mode)
        self._guard = guard or Guard(space=dict(space))
        self._objective, self._promoting = objective, promoting
        self._study, self._space, self._family = study, dict(space), family
        self._kind, self._seed, self._startup_trials = kind, seed, startup_trials
        self._budget, self._counts, self._configure = budget, counts, configure
        self._window_voxels, self._untuned = window_voxels, untuned
        existing = study.get_trials(deepcopy=False)
        self._arms = untried(arms, existing)
        self._unfinished = [t for t in existing if t.state == TrialState.RUNNING]
        self._unfinished.sort(key=lambda t: not self._is_paused(t.user_attrs.get("name", "")))  # they take no slot
        self._num_created = len(existing)
        self._live: dict[str, int] = {}
        self.allow(slots)

    # Ray pickles searchers into its own snapshots, which this program does not use: the study is the state.
    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True

    def allow(self, slots: int | None) -> None:
        """Let so many trials be live at once from now on, paused ones not counted; None: any number.

        Ray's own limit counts paused trials, and is the same from beginning to end.
        """
        self._slots = slots
        if self._promoting:
            self._promoting.slots = slots

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._unfinished:
            frozen = self._unfinished[0]
            name = frozen.user_attrs.get("name", "")
            if not self._is_paused(name) and not self._has_slot():
                return None
            if self._is_paused(name):
                self._note_pause(frozen.number, name)
            del self._unfinished[0]
            return self._start(trial_id, frozen.number, frozen.user_attrs, frozen.params)
        if self._promoting and self._promoting.no_more:
            return Searcher.FINISHED if self._promoting.is_over() else None
        if not self._has_slot():
            return None
        if not self._promoting:
            return self._new(trial_id)
        if self._promoting.next() is not None:
            return None
        new = self._new(trial_id)
        self._promoting.no_more = new == Searcher.FINISHED
        return None if self._promoting.no_more else new  # at its last word Ray would let go of all processes

    def _has_slot(self) -> bool:
        if self._promoting:
            return self._promoting.has_slot()
        return self._slots is None or len(self._live) < self._slots

    def _new(self, trial_id: str) -> dict[str, Any] | str:
        """A trial that has not begun; FINISHED where there is none."""
        if self._num_created >= self._budget.num_trials:
            return Searcher.FINISHED
        if self._arms:
            arm = self._arms.pop(0)
            return self._begin(trial_id, arm, arm.searched, planned=True)
        proposed, origin = self._propose() if self._space else (None, "")
        if not proposed:
            return Searcher.FINISHED
        return self._begin(trial_id, proposed, proposed.point, planned=False, origin=origin)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        number = self._live[trial_id]
        report(self._study, number, result, self._objective)
        name = trial_of(self._study, number).user_attrs["name"] if self._promoting else ""
        if self._is_paused(name):
            tell_misses(self._study, number, result, self._objective)
            self._note_pause(number, name)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self._live.pop(trial_id, None)
        if number is None:
            return
        if self._promoting:
            name = trial_of(self._study, number).user_attrs["name"]
            if error:
                self._promoting.give_up(name)
            elif result is None:  # Ray gives none where a paused trial ends
                result = self._promoting.last_row(name)
        end(self._study, number, result or {}, error, self._objective, self._budget.epochs)

    def _is_paused(self, name: str) -> bool:
        return self._promoting is not None and self._promoting.promotion.is_paused(name)

    def _note_pause(self, number: int, name: str) -> None:
        """Write down that a trial pauses, and at which rung."""
        assert self._promoting is not None
        trial, rung = trial_of(self._study, number), self._promoting.promotion.rung(name)
        if trial.user_attrs.get(PAUSED) != rung:
            self._study._storage.set_trial_user_attr(trial._trial_id, PAUSED, rung)

    def _propose(self) -> tuple[Arm | None, str]:
        """What the sampler proposes, and the source that it was asked for. In a space of choices, where it soon repeats
        itself, that or else the first configuration that was not tried; None where all were."""
        arm, origin = self._guard.propose(
            self._study,
            family=self._family,
            kind=self._kind,
            seed=self._seed,
            number=self._num_created,
            startup_trials=self._startup_trials,
            is_paused=self._is_paused,
        )
        every = all_arms(self._family, self._space, self._seed)
        if every is None:
            return arm, origin
        tried = {
            (t.user_attrs.get("signature"), t.user_attrs.get("seed")) for t in self._study.get_trials(deepcopy=False)
        }
        counts, window = self._counts, self._window_voxels
        new = next((one for one in (arm, *every) if (one.signature(counts, window), one.seed) not in tried), None)
        return new, origin if new is arm else WHOLE if origin else ""

    def _begin(
        self, trial_id: str, arm: Arm, point: Mapping[str, Any], *, planned: bool, origin: str = ""
    ) -> dict[str, Any]:
        """Record the trial whole, in one line of the journal: a crash leaves none that is half described.

        The point's parameters that lie in the space are recorded for planned arms too: the sampler learns from them.
        """
        number = self._num_created
        attributes = self._attributes(arm, number, planned=planned) | ({ORIGIN: origin} if origin else {})
        params, axes = recorded(self._space, point)
        self._study.add_trial(
            create_trial(state=TrialState.RUNNING, params=params, distributions=axes, user_attrs=attributes)
        )
        self._num_created += 1
        return self._start(trial_id, number, attributes, params)

    def _attributes(self, arm: Arm, number: int, *, planned: bool) -> dict[str, Any]:
        trial, signature = arm.trial(self._counts), arm.signature(self._counts, self._window_voxels)
        return {
            "name": folder_name(number, arm.label),
            "label": arm.label,
            "family": arm.own_family,
            "preset": arm.preset,
            "loss": trial["loss"],
            "sections": {name: values for name, values in trial.items() if name != "loss"},
            "seed": arm.seed,
            "signature": signature,
            "baseline": signature == self._untuned,
            "planned": planned,
        }

    def _start(
        self, trial_id: str, number: int, attributes: Mapping[str, Any], params: Mapping[str, Any]
    ) -> dict[str, Any]:
        self._live[trial_id] = number
        told = {key: attributes[key] for key in TOLD if key in attributes}
        trial = {"loss": attributes["loss"], **attributes.get("sections", {})}
        return self._configure({"number": number, **told, "params": dict(params)}, trial, attributes["seed"])


def untried(arms: Sequence[Arm], trials: Sequence[FrozenTrial]) -> list[Arm]:
    """The planned arms of which the study holds no trial yet, in order: a sweep may be given one it began without."""
    begun = Counter((t.user_attrs["label"], t.user_attrs["seed"]) for t in trials if t.user_attrs.get("planned"))
    left = []
    for arm in arms:
        if begun[arm.label, arm.seed]:
            begun[arm.label, arm.seed] -= 1
        else:
            left.append(arm)
    return left


def folder_name(number: int, label: str) -> str:
    """Name of a trial and of its folder: 0003_seesaw_default."""
    return f"{number:04d}_{label}"


def verdict(result: Mapping[str, Any], error: bool, metric: str, epochs: int) -> tuple[TrialState, float | None, str]:
    """What the study is told of an ended trial: state, value (best epoch, only where complete), and the reason of a
    failure or of an end of its own before the last epoch, which is no early stop: more epochs would not be better."""
    if error or "epoch" not in result:
        return TrialState.FAIL, None, "error"
    if result.get("diagnosis") == "nan" or not math.isfinite(result.get(metric, math.nan)):
        return TrialState.FAIL, None, NAN
    stopped = result.get("stopped", "")
    if result["epoch"] < epochs and stopped != OUT_OF_PATIENCE:
        return TrialState.PRUNED, None, ""
    return TrialState.COMPLETE, float(result.get(f"best_{metric}", result[metric])), stopped


def report(study: optuna.Study, number: int, result: Mapping[str, Any], objective: Objective) -> None:
    """Add one epoch to a trial's curve, once; NaN has no place in it."""
    value, trial = result.get(objective.metric), trial_of(study, number)
    if value is not None and math.isfinite(value) and result["epoch"] not in trial.intermediate_values:
        study._storage.set_trial_intermediate_value(trial._trial_id, result["epoch"], value)


def end(
    study: optuna.Study, number: int, result: Mapping[str, Any], error: bool, objective: Objective, epochs: int
) -> None:
    """Record the end of a trial with its last row, which Ray hands over nowhere else; by which share its best epoch
    misses each bound is told to Optuna as a constraint."""
    if "epoch" in result:
        report(study, number, result, objective)
    state, value, reason = verdict(result, error, objective.metric, epochs)
    attributes = {"reason": reason} if reason else {}
    if reason == NAN:
        attributes[NAN_EPOCH] = result["epoch"]
    for name, attribute in attributes.items():
        study._storage.set_trial_user_attr(trial_of(study, number)._trial_id, name, attribute)
    if state != TrialState.FAIL:
        tell_misses(study, number, result, objective)
    study.tell(number, value, state=state)


def tell_misses(study: optuna.Study, number: int, result: Mapping[str, Any], objective: Objective) -> None:
    """Tell Optuna by which share the best epoch of a trial misses each bound, instead of what it was told before."""
    told = copy.deepcopy(trial_of(study, number))
    told.system_attrs = {}
    for name, miss in objective.misses(objective.best_of(result)).items():
        told.set_constraint(name, min(miss, MOST_MISSED))
    for name, value in told.system_attrs.items():
        study._storage.set_trial_system_attr(told._trial_id, name, value)
