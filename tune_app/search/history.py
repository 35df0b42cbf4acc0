"""What a sampler has to know of the trials so far, taken in trial by trial and kept as columns of numbers.

Optuna's TPE goes through every trial of the study for every proposal, one Python object at a time: 4 000 trials cost
more than the search's other work together. Here a trial is looked at when it begins and when it ends. What is kept
follows from the study alone, whatever the order in which its trials were taken in.

Shapes: N trials by their numbers, M chosen ones.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.search_space.group_decomposed import _SearchSpaceGroup
from optuna.trial import FrozenTrial, TrialState

SCORED = (TrialState.COMPLETE, TrialState.PRUNED)
Numbers = NDArray[np.intp]
"""Numbers of trials, ascending."""


class History:
    """The points of all trials, and which of them did best; of a study that is maximised."""

    def __init__(self, trials: Iterable[FrozenTrial] = ()) -> None:
        self._counts = np.zeros(0, dtype=bool)  # (N,) running or scored
        self._ended = np.zeros(0, dtype=bool)  # (N,)
        self._columns: dict[str, NDArray[np.float64]] = {}  # (N,) each; NaN where a trial lacks the parameter
        self._complete: list[tuple[float, int]] = []  # (−value, number), best first
        self._pruned: list[tuple[float, float, int]] = []  # (−last epoch, −value there, number), best first
        self._spaces: dict[frozenset[str], tuple[int, Mapping[str, BaseDistribution]]] = {}
        for trial in trials:
            self.take(trial)

    @property
    def num_scored(self) -> int:
        """Trials that are complete or pruned."""
        return len(self._complete) + len(self._pruned)

    def take(self, trial: FrozenTrial) -> None:
        """Take in a trial as it stands now; again when it has ended."""
        number = trial.number
        self._grow(number + 1)
        if self._ended[number]:
            return
        self._counts[number] = trial.state == TrialState.RUNNING or trial.state in SCORED
        self._ended[number] = trial.state.is_finished()
        for name, axis in trial.distributions.items():
            self._column(name)[number] = axis.to_internal_repr(trial.params[name])
        if trial.state in SCORED:
            self._rank(trial)
            axes = frozenset(trial.distributions)
            if axes not in self._spaces or number < self._spaces[axes][0]:
                self._spaces[axes] = (number, trial.distributions)

    def spaces(self) -> list[dict[str, BaseDistribution]]:
        """Groups of parameters that were always set together, in the order in which Optuna's TPE finds them.

        A trial changes the groups only where it is the first with its set of parameters.
        """
        group = _SearchSpaceGroup()
        for _, axes in sorted(self._spaces.values(), key=lambda first: first[0]):
            group.add_distributions(dict(axes))
        return list(group.search_spaces)

    def split(self, num_best: int) -> tuple[Numbers, Numbers]:
        """(the `num_best` best, all others that count). Complete trials are better than pruned ones."""
        best = [number for *_, number in self._complete[:num_best]]
        best += [number for *_, number in self._pruned[: num_best - len(best)]]
        others = self._counts.copy()
        others[best] = False
        return np.sort(np.array(best, dtype=np.intp)), np.flatnonzero(others)

    def observations(self, numbers: Numbers, names: Iterable[str]) -> dict[str, NDArray[np.float64]]:
        """{name: (M,) values in Optuna's internal form} of those among `numbers` that have all of the parameters."""
        values = {name: self._column(name)[numbers] for name in names}
        complete = ~np.logical_or.reduce([np.isnan(column) for column in values.values()])
        return {name: column[complete] for name, column in values.items()}

    def _rank(self, trial: FrozenTrial) -> None:
        """As Optuna's TPE ranks: the longer a pruned trial ran, the better."""
        if trial.state == TrialState.COMPLETE:
            insort(self._complete, (-trial.value, trial.number))
        elif trial.intermediate_values:
            epoch, value = max(trial.intermediate_values.items())
            insort(self._pruned, (-epoch, -value, trial.number))
        else:
            insort(self._pruned, (1, 0.0, trial.number))

    def _column(self, name: str) -> NDArray[np.float64]:
        if name not in self._columns:
            self._columns[name] = np.full(len(self._counts), np.nan)
        return self._columns[name]

    def _grow(self, size: int) -> None:
        """Room for trials with numbers below `size`, doubled at least."""
        more = size - len(self._counts)
        if more <= 0:
            return
        more = max(more, len(self._counts), 64)
        self._counts = np.concatenate([self._counts, np.zeros(more, dtype=bool)])
        self._ended = np.concatenate([self._ended, np.zeros(more, dtype=bool)])
        for name, column in self._columns.items():
            self._columns[name] = np.concatenate([column, np.full(more, np.nan)])
