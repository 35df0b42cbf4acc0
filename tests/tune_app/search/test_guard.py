"""From where proposals come: each source as long as its trials are worth it, from what is in the study alone."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from driven import COUNTS, Config, begin, configure, study_of
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from search_spaces import Choice, Float, Int, Space
from trainables.objective import Objective
from tune_app.search.guard import BOX, ORIGIN, PRIOR, WHOLE, Guard, outcomes
from tune_app.search.searcher import Budget, StudySearcher
from tune_app.search.study import inside, propose

SPACE: Space = {"p": Float(0.0, 2.0), "q": Float(0.0, 4.0)}
TIGHT: Space = {"p": Float(0.2, 0.4), "q": Float(1.0, 1.5)}
BOXED = Guard(space=SPACE, box=TIGHT)
DICE = Objective(metric="mean_dice")


def searcher(folder: Path, guard: Guard, num_trials: int = 40, kind: str = "optuna") -> StudySearcher:
    return StudySearcher(
        study=study_of(folder),
        arms=[],
        space=SPACE,
        family="seesaw",
        kind=kind,
        seed=5,
        startup_trials=8,
        budget=Budget(num_trials=num_trials, epochs=4),
        counts=COUNTS,
        configure=configure,
        objective=DICE,
        guard=guard,
    )


def search(searcher: StudySearcher, score: Any, trials: int) -> list[dict[str, Any]]:
    """What it proposes for so many trials, one after the other, each of which ends with `score` of its point."""
    found = []
    for _ in range(trials):
        begun = begin(searcher)
        assert begun is not None
        trial_id, config = begun
        end(searcher, trial_id, score(config["run"]["params"]))
        found.append(config["run"])
    return found


def end(searcher: StudySearcher, trial_id: str, score: float) -> None:
    row = {"epoch": 4, "mean_dice": score, "best_mean_dice": score}
    searcher.on_trial_complete(trial_id, row)


def near_the_box(point: Config) -> float:
    return 1.0 - abs(point["p"] - 0.3) / 2 - abs(point["q"] - 1.2) / 4


def test_a_prior_that_a_planned_trial_was_is_not_trained_again(tmp_path: Path) -> None:
    guard = Guard(space=SPACE, prior={"p": 0.8, "q": 2})
    fresh = search(searcher(tmp_path, guard), near_the_box, 12)
    assert next(run["params"] for run in fresh if run[ORIGIN] == PRIOR) == {"p": 0.8, "q": 2}
    other = tmp_path / "planned"
    other.mkdir()
    axes = {name: FloatDistribution(axis.low, axis.high) for name, axis in SPACE.items() if isinstance(axis, Float)}
    study_of(other).add_trial(
        create_trial(state=TrialState.COMPLETE, value=0.5, params={"p": 0.8, "q": 2.0}, distributions=axes)
    )
    drawn = search(searcher(other, guard), near_the_box, 12)
    near = [run["params"] for run in drawn if run[ORIGIN] == PRIOR]
    assert near
    assert {"p": 0.8, "q": 2.0} not in near


def far_from_it(point: Config) -> float:
    return 1.0 - near_the_box(point)


def test_proposals_stay_in_a_box_that_holds_the_best_and_leave_one_that_does_not(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    good = search(searcher(tmp_path / "good", BOXED), near_the_box, 40)
    bad = search(searcher(tmp_path / "bad", BOXED), far_from_it, 40)
    for run in good + bad:
        lies = all(TIGHT[name].contains(value) for name, value in run["params"].items())
        assert lies or run[ORIGIN] == WHOLE
        assert run["params"].keys() == SPACE.keys()
    num = {name: sum(run[ORIGIN] == BOX for run in runs) for name, runs in (("good", good), ("bad", bad))}
    assert num["bad"] < 12 <= num["good"] <= 16, num
    assert max(far_from_it(run["params"]) for run in bad) > 0.8, "it comes to where the earlier sweep was not"


@pytest.mark.parametrize(("kind", "num"), [("random", 8), ("optuna", 5)])
def test_points_at_random_are_those_of_the_search_without_a_belief(tmp_path: Path, kind: str, num: int) -> None:
    """In their order, between those of the belief; TPE begins before the eighth, as some of the belief are good."""
    (tmp_path / "cold").mkdir()
    (tmp_path / "warm").mkdir()
    guard = dataclasses.replace(BOXED, prior={"p": 0.3})
    cold = search(searcher(tmp_path / "cold", Guard(space=SPACE), kind=kind), far_from_it, num)
    warm = search(searcher(tmp_path / "warm", guard, kind=kind), far_from_it, 24)
    own = [run["params"] for run in warm if run[ORIGIN] == WHOLE]
    assert num <= len(own) < 24
    assert own[:num] == [run["params"] for run in cold]
    assert len({run["params"]["q"] for run in warm}) == 24, "what a belief does not say is drawn anew"


def test_what_a_belief_proposed_in_vain_is_no_start_for_the_sampler() -> None:
    study = optuna.create_study(direction="maximize")
    for own in [trial(0, WHOLE, (0.9,)), trial(1, BOX, (0.1,)), trial(2, BOX, (0.2,)), trial(3, PRIOR, (0.3,))]:
        study.add_trial(own)
    asked = [BOXED.next(study, seed=seed, number=4) for seed in range(20)]
    assert {one.in_vain for one in asked if one.origin == WHOLE} == {2}, "of four the two best are good"
    assert {one.in_vain for one in asked if one.origin == BOX} == {0}, "in the box TPE begins by itself"


def test_the_first_of_the_prior_is_the_point_itself_and_there_are_no_more_than_said(tmp_path: Path) -> None:
    guard = Guard(space=SPACE, prior={"p": 0.3}, width=0.05, draws=6)
    drawn = [run for run in search(searcher(tmp_path, guard), near_the_box, 40) if run[ORIGIN] == PRIOR]
    assert drawn[0]["params"]["p"] == 0.3
    assert len(drawn) == 6, "asked as long as it may be: it holds the best"
    assert all(abs(run["params"]["p"] - 0.3) < 5 * 0.05 * 2 for run in drawn)
    assert len({run["params"]["p"] for run in drawn}) == len({run["params"]["q"] for run in drawn}) == 6


def test_a_prior_that_misleads_is_given_up_before_its_draws_are_spent(tmp_path: Path) -> None:
    guard = Guard(space=SPACE, prior={"p": 0.3, "q": 1.2}, width=0.02, draws=30)
    runs = search(searcher(tmp_path, guard), far_from_it, 40)
    assert sum(run[ORIGIN] == PRIOR for run in runs) < 15


def test_a_search_without_belief_says_nothing_of_sources(tmp_path: Path) -> None:
    (run,) = search(searcher(tmp_path, Guard(space=SPACE)), near_the_box, 1)
    assert ORIGIN not in run


@pytest.mark.parametrize("killed_at", [1, 5, 9, 14])
def test_a_search_that_is_resumed_proposes_what_the_killed_one_would_have(tmp_path: Path, killed_at: int) -> None:
    """Killed with a trial running: that one begins again, and what follows is the same."""
    guard = dataclasses.replace(BOXED, prior={"p": 1.0}, draws=4)
    (tmp_path / "whole").mkdir()
    whole = search(searcher(tmp_path / "whole", guard), far_from_it, 18)
    (tmp_path / "killed").mkdir()
    first = searcher(tmp_path / "killed", guard)
    done = search(first, far_from_it, killed_at)
    assert begin(first) is not None
    shutil.copytree(tmp_path / "killed", tmp_path / "copy")
    rest = search(searcher(tmp_path / "copy", guard), far_from_it, 18 - killed_at)
    assert done + rest == whole


def trial(
    number: int, origin: str, curve: tuple[float, ...], state: TrialState = TrialState.PRUNED, **more: Any
) -> Any:
    own = create_trial(
        state=state,
        value=max(curve) if state == TrialState.COMPLETE else None,
        intermediate_values=dict(enumerate(curve, start=1)),
        user_attrs={ORIGIN: origin, "name": f"{number}"} if origin else {},
        **more,
    )
    own.number = number
    return own


def test_what_counts_for_a_source_and_against_it() -> None:
    trials = [
        trial(0, BOX, (0.5, 0.6)),
        trial(1, BOX, (0.9,)),
        trial(2, WHOLE, (0.1, 0.2, 0.9), TrialState.COMPLETE),
        trial(3, BOX, (), TrialState.FAIL),
        trial(4, WHOLE, (0.2,), TrialState.RUNNING),
        trial(5, "", (0.8,)),
    ]
    maximise = StudyDirection.MAXIMIZE
    assert outcomes(trials, maximise) == {BOX: (1, 2), WHOLE: (1, 0)}, "of six the two best; that runs may yet rise"
    assert outcomes(trials, maximise, is_paused=lambda name: name == "4") == {BOX: (1, 2), WHOLE: (1, 1)}
    trials[4] = trial(4, WHOLE, (0.2, 0.7), TrialState.RUNNING)
    assert outcomes(trials, maximise) == {BOX: (0, 3), WHOLE: (2, 0)}, "it is among them now"
    trials[2] = trial(2, WHOLE, (0.1, 0.2, 0.9), TrialState.COMPLETE, constraints={"precision": 0.1})
    assert outcomes(trials, maximise) == {BOX: (1, 2), WHOLE: (1, 1)}, "what misses a bound is no best one"
    assert outcomes(trials[:2], StudyDirection.MINIMIZE) == {BOX: (1, 1)}


def test_a_draw_round_a_prior_lies_on_its_axis() -> None:
    space: Space = {"a": Float(0.001, 1.0, log=True), "n": Int(1, 8), "c": Choice(("x", "y", "z"))}
    guard = Guard(space=space, prior={"a": 0.001, "n": 8, "c": "y"}, width=0.3)
    draws = [guard.near(np.random.default_rng(seed)) for seed in range(300)]
    assert all(space[name].contains(value) for draw in draws for name, value in draw.items())
    assert {draw["c"] for draw in draws} == {"x", "y", "z"}
    assert np.mean([draw["c"] == "y" for draw in draws]) == pytest.approx(0.8, abs=0.08), "0.7, and a third of 0.3"
    places = np.log10([draw["a"] for draw in draws]) / 3 + 1
    assert places.mean() == pytest.approx(0.3 * (2 / np.pi) ** 0.5, abs=0.05), "half a normal, from the end of its axis"


def test_a_box_is_modelled_by_the_trials_inside_it() -> None:
    axes = {name: FloatDistribution(axis.low, axis.high) for name, axis in SPACE.items() if isinstance(axis, Float)}
    points = [{"p": 0.3, "q": 1.2}, {"p": 1.0, "q": 1.2}]
    trials = [create_trial(value=0.5, params=point, distributions=axes) for point in points]
    (one,) = inside(trials, TIGHT)
    assert one.params == points[0]
    assert one.distributions["p"] == FloatDistribution(0.2, 0.4)
    (fixed,) = inside(trials, {"p": Float(0.3, 0.3), "q": Float(1.0, 1.5)})
    assert fixed.params == {"q": 1.2}
    study = optuna.create_study(direction="maximize")
    for number in range(20):
        point = {"p": 0.2 + 0.01 * number, "q": 1.0 + 0.02 * number}
        study.add_trial(create_trial(value=point["p"], params=point, distributions=axes))
    given: dict[str, Any] = {"kind": "optuna", "seed": 0, "startup_trials": 8, "whole": SPACE}
    values = [propose(study, TIGHT, number=number, **given)["p"] for number in range(30)]
    assert np.mean(values) > 0.32, "TPE of the box, whose best has the highest p; its middle is 0.3"
    assert all(TIGHT["p"].contains(value) for value in values)
