"""What the sampler is told of the trials, and that it proposes what Optuna's own proposes."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces import Space, space_of
from tune_app.search import tpe
from tune_app.search.history import History
from tune_app.search.study import distribution, propose, suggest_point, trial_of
from tune_app.search.tpe import HistoryTPE, thinned

STARTUP = 8


@pytest.fixture(autouse=True)
def silent() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def optunas_own(study: optuna.Study, seed: int, space: Space) -> dict[str, Any]:
    """What Optuna's TPE proposes on a whole copy of the study."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True)
    copy = optuna.create_study(direction="maximize", sampler=sampler)
    copy.add_trials(study.get_trials(deepcopy=False))
    return suggest_point(copy.ask(), space)


def ours(history: History, seed: int, space: Space) -> dict[str, Any]:
    return propose(HistoryTPE(history, seed=seed, startup_trials=STARTUP), space)


def begin(study: optuna.Study, space: Space, point: dict[str, Any]) -> None:
    axes = {name: distribution(space[name]) for name in point}
    study.add_trial(create_trial(state=TrialState.RUNNING, params=point, distributions=axes))


def end(study: optuna.Study, number: int, draw: random.Random) -> None:
    """Any of the ends that a trial may have, with values that are often equal."""
    trial = trial_of(study, number)
    for epoch in range(1, draw.choice([0, 1, 1, 3]) + 1):
        study._storage.set_trial_intermediate_value(trial._trial_id, epoch, draw.choice([0.1, 0.2, draw.random()]))
    kind = draw.random()
    if kind < 0.1:
        study.tell(number, state=TrialState.FAIL)
    elif kind < 0.5:
        study.tell(number, state=TrialState.PRUNED)
    else:
        study.tell(number, draw.choice([0.5, draw.random()]))


def grown(space: Space, seed: int, trials: int) -> Iterator[tuple[optuna.Study, History]]:
    """A study and the history that was kept beside it, before every trial; several run at once, and end in any order.

    Some trials have no parameters, as planned arms outside the space.
    """
    draw, running = random.Random(seed), []
    study, history = optuna.create_study(direction="maximize"), History()
    for number in range(trials):
        yield study, history
        point = ours(history, number, space) if draw.random() < 0.9 else {}
        begin(study, space, {name: value for name, value in point.items() if not space[name].fixed})
        running.append(number)
        history.take(trial_of(study, number))
        while len(running) > draw.choice([0, 1, 3, 5]):
            ended = running.pop(draw.randrange(len(running)))
            end(study, ended, draw)
            history.take(trial_of(study, ended))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", ["seesaw", "static", "all"])
def test_the_proposals_are_those_of_optuna_on_the_whole_study(family, seed):
    space = space_of(family, {})
    for number, (study, history) in enumerate(grown(space, seed, 70)):
        assert ours(history, number, space) == optunas_own(study, number, space)


def test_the_proposals_are_optunas_after_thousands_of_trials(monkeypatch):
    """Where Optuna computes with other approximations than for a few, and nothing is left out."""
    monkeypatch.setattr(tpe, "MOST_OTHERS", 10**9)
    space, draw = space_of("seesaw", {}), random.Random(0)
    trials = [ended_trial(number, draw) for number in range(2500)]
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    history = History(study.get_trials(deepcopy=False))
    for seed in range(5):
        assert ours(history, seed, space) == optunas_own(study, seed, space)


def ended_trial(number: int, draw: random.Random) -> FrozenTrial:
    axes = {name: distribution(parameter) for name, parameter in space_of("seesaw", {}).items()}
    params = {name: draw.uniform(axis.low, axis.high) for name, axis in axes.items()}
    state = TrialState.COMPLETE if number % 3 else TrialState.PRUNED
    return create_trial(
        state=state, value=draw.random(), params=params, distributions=axes, intermediate_values={1: draw.random()}
    )


@pytest.mark.parametrize("family", ["seesaw", "all"])
def test_a_history_taken_in_trial_by_trial_is_that_of_the_study(family):
    """So a driver that takes a sweep up proposes what the killed one would have."""
    space = space_of(family, {})
    *_, (study, kept) = grown(space, 2, 60)
    trials = study.get_trials(deepcopy=False)
    shuffled = random.Random(0).sample(trials, len(trials))
    for rebuilt in (History(trials), History(shuffled)):
        assert rebuilt.num_scored == kept.num_scored
        assert rebuilt.spaces() == kept.spaces()
        for num_best in (0, 1, 7, 1000):
            for numbers, expected in zip(rebuilt.split(num_best), kept.split(num_best), strict=True):
                assert numbers.tolist() == expected.tolist()
                for axes in kept.spaces():
                    found = rebuilt.observations(numbers, axes)
                    assert {k: v.tolist() for k, v in found.items()} == {
                        k: v.tolist() for k, v in kept.observations(expected, axes).items()
                    }


def trial(number: int, state: TrialState, value: float | None = None, **values: float) -> FrozenTrial:
    curve = {int(epoch[1:]): score for epoch, score in values.items()}
    made = create_trial(state=state, value=value, intermediate_values=curve)
    made.number = number
    return made


def test_complete_trials_are_better_than_pruned_ones_and_among_those_the_longer():
    history = History(
        [
            trial(0, TrialState.PRUNED, 0.9, e1=0.9),
            trial(1, TrialState.COMPLETE, 0.2),
            trial(2, TrialState.PRUNED, 0.1, e1=0.9, e2=0.1),
            trial(3, TrialState.FAIL),
            trial(4, TrialState.COMPLETE, 0.2),
            trial(5, TrialState.RUNNING),
            trial(6, TrialState.PRUNED),
            trial(7, TrialState.WAITING),
        ]
    )
    order = [[int(n) for n in history.split(count)[0]] for count in range(6)]
    assert order == [[], [1], [1, 4], [1, 2, 4], [0, 1, 2, 4], [0, 1, 2, 4, 6]]
    assert history.split(2)[1].tolist() == [0, 2, 5, 6], "running trials are among the others"
    assert history.num_scored == 5


def test_what_has_ended_does_not_change():
    history = History([trial(0, TrialState.COMPLETE, 0.2)])
    history.take(trial(0, TrialState.COMPLETE, 0.9))
    assert history.num_scored == 1
    assert np.array_equal(history.split(5)[0], [0])


def test_of_many_others_an_even_selection_counts() -> None:
    numbers = np.arange(0, 3000, 3)
    assert thinned(numbers, 1000) is numbers
    few = thinned(numbers, 7)
    assert (few[0], few[-1], len(few)) == (0, 2997, 7)
    assert np.ptp(np.diff(few)) <= 3
    assert len(set(thinned(np.arange(501), 500).tolist())) == 500


def test_with_fewer_others_it_still_goes_where_the_best_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """p near 1.5 is best: so say most of its proposals, with all others and with a tenth of them."""
    space = space_of("seesaw")
    history, draw = History(), np.random.default_rng(0)
    study = optuna.create_study(direction="maximize")
    for number in range(200):
        point = {"p": float(draw.uniform(0.05, 2)), "q": float(draw.uniform(0, 3))}
        begin(study, space, point)
        study.tell(number, 1 - abs(point["p"] - 1.5))
        history.take(trial_of(study, number))
    for most in (500, 20):
        monkeypatch.setattr(tpe, "MOST_OTHERS", most)
        found = [ours(history, seed, space)["p"] for seed in range(20)]
        assert np.mean(np.abs(np.array(found) - 1.5) < 0.3) > 0.7
