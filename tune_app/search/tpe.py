"""Optuna's TPE on a `History` instead of a study: the same proposals, without going through all trials."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.sampler import default_gamma
from optuna.trial import FrozenTrial

from tune_app.search.history import History, Numbers
from tune_app.search.mixture import log_pdf

Axes = dict[str, BaseDistribution]

MOST_OTHERS = 500
"""Trials that the density of the others is made of. More would hardly change it and make every proposal slower."""


class HistoryTPE(TPESampler):
    """Multivariate tree-structured Parzen estimator (Watanabe 2023, arXiv:2304.11127) of conditional spaces.

    The study it is asked for holds nothing but the new trial. What TPE would read there, it reads from `history`: the
    pages below are those of `TPESampler` with that change and one more, MOST_OTHERS. Up to there a test holds the two
    together.
    """

    def __init__(self, history: History, *, seed: int, startup_trials: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of `group`, which conditional spaces need
            super().__init__(seed=seed, n_startup_trials=startup_trials, multivariate=True, group=True)
        self._history = history
        self._groups: list[Axes] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Axes:
        self._groups = [
            {name: axis for name, axis in sorted(group.items()) if not axis.single()}
            for group in self._history.spaces()
        ]
        return {name: axis for group in self._groups for name, axis in group.items()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Axes) -> dict[str, Any]:
        if self._is_starting():
            return {}
        return {name: value for group in self._groups if group for name, value in self._point(group).items()}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        if self._is_starting():
            return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)
        return self._point({param_name: param_distribution})[param_name]

    def _is_starting(self) -> bool:
        return self._history.num_scored < self._n_startup_trials

    def _point(self, axes: Axes) -> dict[str, Any]:
        """The most promising of a few points drawn where the best trials lie."""
        best, others = self._history.split(default_gamma(self._history.num_scored))
        good, poor = self._estimator(best, axes), self._estimator(thinned(others, MOST_OTHERS), axes)
        drawn = good.sample(self._rng.rng, self._n_ei_candidates)
        promise = log_pdf(good._mixture_distribution, good._transform(drawn))
        promise -= log_pdf(poor._mixture_distribution, poor._transform(drawn))
        chosen = self._compare(drawn, promise)
        return {name: axis.to_external_repr(chosen[name]) for name, axis in axes.items()}

    def _estimator(self, numbers: Numbers, axes: Axes) -> _ParzenEstimator:
        observations = self._history.observations(numbers, axes)
        return _ParzenEstimator(observations, axes, self._parzen_estimator_parameters)


def thinned(numbers: Numbers, most: int) -> Numbers:
    """At most so many of the numbers, evenly spaced."""
    if len(numbers) <= most:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, most).round().astype(np.intp)]
