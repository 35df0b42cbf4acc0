"""From where the next proposal comes: the box of an earlier sweep, the neighbourhood of a prior, or the whole space.

Both are somebody's belief, and may mislead. So each is a source beside the whole space, and Thompson sampling (Thompson
1933, doi:10.1093/biomet/25.3-4.285) on what the trials of each came to decides for every proposal anew: a source whose
trials are among the best is asked more often, one whose trials are not is given up. What the whole space proposes at
random is what a search of this seed begins with that has no belief: so one that misleads delays those trials, and takes
none of them away. All that is needed is in the study, and the draw is seeded by (seed, number), so a search that is
resumed proposes what the killed one would have.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search_spaces import Choice, Float, Int, Space, independent
from tune_app.search.arms import Arm
from tune_app.search.study import propose
from tune_app.search.warm_start import BOX_DRAWS, at, box_of, place
from tune_app.settings.schema import Settings

ORIGIN = "origin"
"""User attribute of a proposed trial: its source."""
BOX, PRIOR, WHOLE = "box", "prior", "space"
BELIEVED = {BOX: (3.0, 1.0), PRIOR: (3.0, 1.0), WHOLE: (1.0, 1.0)}
"""Successes and failures that a source is thought to have had before its first trial: Beta(a, b)."""
AMONG_THE_BEST = 1 / 3
"""Share of the trials so far that count as successes."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What the sampler is asked for."""

    origin: str
    space: Space
    """In which it proposes."""
    draw: int
    """Seeds the sampler: in the whole space the number that the trial would have without the beliefs' trials before it,
    and for a belief one below zero, so that no two are alike."""
    hints: Mapping[str, Any] = field(default_factory=dict)
    """Values that are given, on the axes of the sampler."""
    in_vain: int = 0
    """Trials of a belief that were not among the best: no start for the sampler, which needs as many more at random."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """The sources of a search, and the choice between them.

    box: the whole space with some axes narrower; empty where there is none. prior: a point on the axes of the sampler,
    of all or of some of them. width: see `search.prior_width`. draws: how many proposals at most are drawn round it; in
    the box it is twice as many, of which the second half is TPE's. After that TPE, which has been told of all of them,
    goes on in the whole space: it stays where they were good, and costs little where they were not.
    """

    space: Space
    box: Space = field(default_factory=dict)
    prior: Mapping[str, Any] = field(default_factory=dict)
    width: float = 0.1
    draws: int = 8

    def next(
        self, study: optuna.Study, *, seed: int, number: int, is_paused: Callable[[str], bool] = lambda name: False
    ) -> Proposal:
        """What is asked for as trial `number`."""
        if not (self.box or self.prior):
            return Proposal(origin="", space=self.space, draw=number)
        trials = study.get_trials(deepcopy=False)
        asked = Counter(trial.user_attrs.get(ORIGIN) for trial in trials)
        sources = [WHOLE]
        if self.box and asked[BOX] < BOX_DRAWS * self.draws:
            sources.append(BOX)
        if self.prior and asked[PRIOR] < self.draws:
            sources.append(PRIOR)
        rng = np.random.default_rng([seed, number, 0x7A])
        counted = outcomes(trials, study.direction, is_paused)
        promise = {}
        for source in sources:
            (wins, losses), (a, b) = counted.get(source, (0, 0)), BELIEVED[source]
            promise[source] = rng.beta(a + wins, b + losses)
        origin = max(sources, key=promise.__getitem__)
        if origin == PRIOR:
            tried = any(trial.params and trial.params.items() <= self.prior.items() for trial in trials)
            hints = self.near(rng) if asked[PRIOR] or tried else dict(self.prior)
            return Proposal(origin=origin, space=self.space, draw=~number, hints=hints)
        if origin == BOX:
            return Proposal(origin=origin, space=self.box, draw=~number)
        in_vain = sum(losses for source, (_, losses) in counted.items() if source != WHOLE)
        draw = number - asked[BOX] - asked[PRIOR]
        return Proposal(origin=origin, space=self.space, draw=draw, in_vain=in_vain)

    def propose(
        self,
        study: optuna.Study,
        *,
        family: str,
        kind: str,
        seed: int,
        number: int,
        startup_trials: int,
        is_paused: Callable[[str], bool] = lambda name: False,
    ) -> tuple[Arm, str]:
        """What the sampler proposes as trial `number`, see `tune_app.search.study.propose`, and its source."""
        asked = self.next(study, seed=seed, number=number, is_paused=is_paused)
        point = propose(
            study,
            asked.space,
            kind=kind,
            seed=seed,
            number=asked.draw,
            startup_trials=startup_trials + asked.in_vain,
            whole=None if asked.space is self.space else self.space,
            hints=asked.hints,
        )
        return Arm(family=family, point=point, seed=seed), asked.origin

    def near(self, rng: np.random.Generator) -> dict[str, Any]:
        """A point near the prior: normal on each number's own scale, within its range; a choice kept as a rule."""
        axes = independent(self.space)
        return {name: self._near(axes[name], value, rng) for name, value in self.prior.items()}

    def _near(self, axis: Float | Int | Choice, value: Any, rng: np.random.Generator) -> Any:
        if isinstance(axis, Choice):
            anew = rng.random() < self.width
            return axis.options[int(rng.integers(len(axis.options)))] if anew else value
        where = -1.0
        while not 0 <= where <= 1:
            where = rng.normal(place(axis, value), self.width)
        return at(axis, where)


def guard_of(settings: Settings, space: Space) -> Guard:
    """The sources of a sweep with these settings."""
    return Guard(
        space=space,
        box=box_of(settings, space),
        prior=settings.warm.point,
        width=settings.search.prior_width,
        draws=settings.search.startup_trials,
    )


def outcomes(
    trials: Sequence[FrozenTrial], direction: StudyDirection, is_paused: Callable[[str], bool] = lambda name: False
) -> dict[str, tuple[int, int]]:
    """{source: (trials among the best third of all, trials that are not)}; planned trials are part of the third only.

    What has failed is not among the best. A trial that runs counts as soon as it is among them, and not before: it may
    come to be.
    """
    order = sorted((t for t in trials if t.state != TrialState.FAIL), key=lambda t: _standing(t, direction))
    order = [trial for trial in order if trial.intermediate_values or trial.state == TrialState.COMPLETE]
    failed = sum(trial.state == TrialState.FAIL for trial in trials)
    best = {trial.number for trial in order[: math.ceil(AMONG_THE_BEST * (len(order) + failed))]}
    found: dict[str, tuple[int, int]] = {}
    for trial in trials:
        origin = trial.user_attrs.get(ORIGIN)
        undecided = trial.state == TrialState.RUNNING and not is_paused(trial.user_attrs.get("name", ""))
        if not origin or (undecided and trial.number not in best):
            continue
        wins, losses = found.get(origin, (0, 0))
        won = trial.number in best
        found[origin] = (wins + won, losses + (not won))
    return found


def _standing(trial: FrozenTrial, direction: StudyDirection) -> tuple[float, ...]:
    """The lower the better: what keeps its bounds first, then what was let run longer, then the better score."""
    sign = -1 if direction == StudyDirection.MAXIMIZE else 1
    missed = sum(value for value in trial.constraints.values() if value > 0)
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return missed, -math.inf, sign * trial.value
    epoch, value = max(trial.intermediate_values.items(), default=(-1, 0.0))
    return missed, -epoch, sign * value
