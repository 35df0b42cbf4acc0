"""What the sampler is told of the trials, and that it proposes what it would on the study itself."""

from __future__ import annotations

import random
import warnings
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _get_pruned_trial_score
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces import Space, space_of
from tune_app.search import study as study_module
from tune_app.search.study import MOST_MISSED, as_told, propose, suggest_point, thinned

STARTUP = 8


def proposed(study: optuna.Study, space: Space, number: int) -> dict[str, Any]:
    return propose(study, space, kind="optuna", seed=3, number=number, startup_trials=STARTUP)


def stock(number: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed = (3 * 1_000_003 + number * 7919 + 1) % 2**32
        return TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True)


def end(trial: optuna.Trial, draw: random.Random) -> None:
    """Any of the ends that a trial may have."""
    kind = draw.random()
    if kind < 0.1:
        trial.set_user_attr("reason", draw.choice(["nan", "error"]))
        trial.study.tell(trial, state=TrialState.FAIL)
    elif kind < 0.5:
        trial.study.tell(trial, state=TrialState.PRUNED)
    else:
        trial.study.tell(trial, draw.choice([0.5, draw.random()]))


def as_if_all_had_ended(study: optuna.Study) -> optuna.Study:
    """The study with every running trial pruned where it is, and with what became NaN pruned before its first epoch;
    empty before enough of them have trained an epoch."""
    made = optuna.create_study(direction=study.direction)
    trained = 0
    for trial in study.trials:
        became_nan = trial.user_attrs.get("reason") == "nan"
        ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        trained += ended or became_nan or bool(trial.intermediate_values)
        made.add_trial(
            create_trial(
                state=trial.state if ended or (trial.state.is_finished() and not became_nan) else TrialState.PRUNED,
                value=trial.value,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values={} if became_nan else trial.intermediate_values,
            )
        )
    return made if trained >= STARTUP else optuna.create_study(direction=study.direction)


@pytest.mark.parametrize("family", ["seesaw", "static", "all"])
def test_the_proposals_are_those_of_optuna_on_a_study_whose_running_trials_end_where_they_are(family: str) -> None:
    """Several trials run at once and end in any order, with values that are often equal; some have no parameters, as
    planned arms outside the space."""
    space, draw = space_of(family, {}), random.Random(0)
    study = optuna.create_study(direction="maximize")
    running: list[optuna.Trial] = []
    for number in range(60):
        ours = proposed(study, space, number)
        reference = as_if_all_had_ended(study)
        reference.sampler = stock(number)
        assert suggest_point(reference.ask(), space) == ours
        trial = study.ask()
        if draw.random() < 0.9:
            suggest_point(trial, space)
        trial.set_user_attr("name", f"{number:04d}")
        running.append(trial)
        for one in running:
            if draw.random() < 0.5:
                one.report(draw.choice([0.1, 0.2, draw.random()]), number - one.number + 1)
        while len(running) > draw.choice([0, 1, 3, 5]):
            end(running.pop(draw.randrange(len(running))), draw)
    ends = {(trial.state, trial.user_attrs.get("reason")) for trial in study.trials}
    assert ends >= {(TrialState.FAIL, "nan"), (TrialState.FAIL, "error"), (TrialState.PRUNED, None)}
    assert len(study.trials) == 60, "nothing is written to the study"


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_what_became_nan_is_told_as_the_worst_and_what_broke_is_not_told(direction: str) -> None:
    """A trial that trained long before it became NaN is none that ran long, of which TPE thinks well."""
    study = optuna.create_study(direction=direction)
    axis = {"x": FloatDistribution(0.0, 1.0)}
    for number, (state, reason) in enumerate(
        [(TrialState.FAIL, "nan"), (TrialState.FAIL, "error"), (TrialState.RUNNING, ""), (TrialState.PRUNED, "")]
    ):
        study.add_trial(
            create_trial(
                state=state,
                params={"x": number / 10},
                distributions=axis,
                intermediate_values={1: 0.5, 2: 0.5} if state == TrialState.FAIL else {1: 0.1},
                user_attrs={"reason": reason},
            )
        )
    became_nan, running, pruned = as_told(study.trials)
    for trial in (became_nan, running, pruned):
        trial._validate()
        assert trial.state == TrialState.PRUNED
    assert (became_nan.params, became_nan.intermediate_values) == ({"x": 0.0}, {})
    assert (running.params, running.intermediate_values) == ({"x": 0.2}, {1: 0.1})
    scores = [_get_pruned_trial_score(trial, study) for trial in (became_nan, running, pruned)]
    assert scores[0] > scores[1] == scores[2], "Optuna's own order, the lower the better"
    assert study.trials[0].intermediate_values == {1: 0.5, 2: 0.5}, "the study itself is as it was"


def test_where_there_are_bounds_a_trial_of_which_nothing_is_known_yet_counts_as_missing_them() -> None:
    """Otherwise Optuna would hold it for one that keeps them, and so for better than all that miss them by a little."""
    study = optuna.create_study(direction="maximize")
    study.add_trial(create_trial(value=0.9, constraints={"precision": 0.1}))
    study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={1: 0.9}))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"reason": "nan"}))
    paused = create_trial(state=TrialState.RUNNING, constraints={"precision": -0.1})
    study.add_trial(paused)
    missed = [trial.constraints["precision"] for trial in as_told(study.trials)]
    assert missed == [0.1, MOST_MISSED, MOST_MISSED, -0.1]
    assert study.trials[1].constraints == {}, "the study itself is as it was"


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
    trials[20] = told(20, TrialState.PRUNED)
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
