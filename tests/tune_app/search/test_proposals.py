"""What the sampler is told of the trials, and that it proposes what it would on the study itself."""

from __future__ import annotations

import random
import warnings
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces import Space, space_of
from tune_app.search import study as study_module
from tune_app.search.study import propose, suggest_point, thinned

STARTUP = 8


def proposed(study: optuna.Study, space: Space, number: int) -> dict[str, Any]:
    return propose(study, space, kind="optuna", seed=3, number=number, startup_trials=STARTUP)


def stock(number: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed = (3 * 1_000_003 + number * 7919 + 1) % 2**32
        return TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True)


def end(trial: optuna.Trial, draw: random.Random) -> None:
    """Any of the ends that a trial may have, with values that are often equal."""
    for epoch in range(1, draw.choice([0, 1, 1, 3]) + 1):
        trial.report(draw.choice([0.1, 0.2, draw.random()]), epoch)
    kind = draw.random()
    if kind < 0.1:
        trial.study.tell(trial, state=TrialState.FAIL)
    elif kind < 0.5:
        trial.study.tell(trial, state=TrialState.PRUNED)
    else:
        trial.study.tell(trial, draw.choice([0.5, draw.random()]))


@pytest.mark.parametrize("family", ["seesaw", "static", "all"])
def test_the_proposals_are_those_of_optuna_asked_on_the_study_itself(family: str) -> None:
    """Several trials run at once and end in any order; some have no parameters, as planned arms outside the space."""
    space, draw = space_of(family, {}), random.Random(0)
    study = optuna.create_study(direction="maximize")
    running: list[optuna.Trial] = []
    for number in range(60):
        ours = proposed(study, space, number)
        study.sampler = stock(number)
        trial = study.ask()
        if draw.random() < 0.9:
            assert suggest_point(trial, space) == ours
        trial.set_user_attr("name", f"{number:04d}")
        running.append(trial)
        while len(running) > draw.choice([0, 1, 3, 5]):
            end(running.pop(draw.randrange(len(running))), draw)
    assert {trial.state for trial in study.trials} >= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert len(study.trials) == 60, "nothing is written to the study"


def told(number: int, state: TrialState, value: float | None = None, curve: tuple[float, ...] = ()) -> FrozenTrial:
    trial = create_trial(state=state, value=value, intermediate_values=dict(enumerate(curve, start=1)))
    trial.number = number
    return trial


def test_of_many_trials_the_best_are_told_and_of_the_others_an_even_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "MOST_TOLD", 7)
    monkeypatch.setattr(study_module, "BEST_TOLD", 3)
    trials = [told(number, TrialState.PRUNED, curve=(0.9,)) for number in range(23)]
    trials[4] = told(4, TrialState.COMPLETE, 0.1)
    trials[15] = told(15, TrialState.PRUNED, curve=(0.2, 0.1))
    trials[16] = told(16, TrialState.COMPLETE, 0.2)
    trials[20] = told(20, TrialState.RUNNING, curve=(0.9, 0.9, 0.9))
    assert [trial.number for trial in thinned(trials, StudyDirection.MAXIMIZE)] == [0, 4, 7, 14, 15, 16, 22]
    assert thinned(trials[:7], StudyDirection.MAXIMIZE) == trials[:7]
    trials[16] = create_trial(value=0.9, constraints={"precision": 0.1})
    trials[16].number = 16
    assert [trial.number for trial in thinned(trials, StudyDirection.MAXIMIZE)][:4] == [0, 1, 4, 8], (
        "what misses a bound is no best one"
    )


def test_with_a_tenth_of_the_others_it_still_goes_where_the_best_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """p near 1.5 is best: so say most of its proposals."""
    space = space_of("seesaw")
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(200):
        trial = study.ask()
        study.tell(trial, 1 - abs(suggest_point(trial, space)["p"] - 1.5))
    monkeypatch.setattr(study_module, "MOST_TOLD", 45)
    near = [abs(proposed(study, space, number)["p"] - 1.5) < 0.3 for number in range(20)]
    assert sum(near) > 14
