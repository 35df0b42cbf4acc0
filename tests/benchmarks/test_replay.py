"""Replaying searches on tiny tables made up here."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from benchmarks.learning_curves import Table, taskset
from benchmarks.policies import POLICIES
from benchmarks.replay import METRIC, Replay, Search
from search_spaces import Choice, Float

EPOCHS = 9


def table(scores: np.ndarray, **space: Any) -> Table:
    """scores (n, R, E) over points that lie evenly on the axis x."""
    places = np.linspace(0.0, 1.0, len(scores)).tolist()
    return Table(
        name="made up",
        space=space or {"x": Float(0.0, 1.0)},
        points=[{"x": x} for x in places],
        scores=scores,
        validation=-scores[:, 0],
        test=-scores[:, 0],
    )


def rising(rows: int = 40, repeats: int = 1) -> Table:
    """Curves that keep their order: row r ends at (r + 1) / rows."""
    final = (np.arange(rows) + 1) / rows
    return table(np.repeat((final[:, None] * np.linspace(0.2, 1.0, EPOCHS))[:, None], repeats, axis=1))


class Fixed(Searcher):
    """Proposes what it is given, and writes down what it hears."""

    def __init__(self, configs: list[dict[str, Any]]) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.configs, self.heard = configs, []

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        return self.configs.pop(0) if self.configs else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.heard.append(("result", trial_id, result["epoch"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        assert result is not None
        self.heard.append(("complete", trial_id, result["epoch"]))


class StopAt(FIFOScheduler):
    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch, self.heard = epoch, []

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self.heard.append((trial.trial_id, result["epoch"]))
        return TrialScheduler.STOP if result["epoch"] == self.epoch else TrialScheduler.CONTINUE


def test_distance_is_in_the_tuned_scale() -> None:
    points = [{"lr": 1e-4, "kind": "a"}, {"lr": 1e-2, "kind": "a"}, {"lr": 1e-2, "kind": "b"}, {}]
    made = Table(
        name="t",
        space={"lr": Float(1e-4, 1.0, log=True), "kind": Choice(("a", "b"))},
        points=points,
        scores=np.zeros((4, 1, 1)),
        validation=np.zeros((4, 1)),
        test=np.zeros((4, 1)),
    )
    assert made.distances({"lr": 1e-2, "kind": "a"}) == pytest.approx([0.5, 0.0, math.inf, math.inf])


def test_points_of_different_families_are_never_near() -> None:
    space = {"family": Choice(("s", "t")), "s.p": Float(0, 2), "t.a": Float(0, 1)}
    points = [{"family": "s", "s.p": 2.0}, {"family": "t", "t.a": 0.5}]
    made = Table(
        name="t",
        space=space,
        points=points,
        scores=np.zeros((2, 1, 1)),
        validation=np.zeros((2, 1)),
        test=np.zeros((2, 1)),
    )
    assert made.distances({"family": "s", "s.p": 1.0}) == pytest.approx([0.5, math.inf])


def test_a_row_is_used_once_while_others_are_left() -> None:
    searcher = Fixed([{"x": 0.0}] * 4)
    replay = Replay(Search(searcher, StopAt(1)), rising(3), seed=0, slots=1)
    assert [step.row for step in replay.steps()] == [0, 1, 2, 0]


def test_a_row_that_is_used_again_gets_another_repeat() -> None:
    replay = Replay(Search(Fixed([{"x": 0.0}] * 6), StopAt(1)), rising(2, repeats=3), seed=0, slots=1)
    seen = Counter((step.row, step.repeat) for step in replay.steps())
    assert len(seen) == 6


def test_a_planned_row_is_taken_as_it_is() -> None:
    replay = Replay(Search(Fixed([{"row": 2}, {"row": 2}]), StopAt(1)), rising(5), seed=0, slots=1)
    assert [step.row for step in replay.steps()] == [2, 2]


def test_scheduler_and_searcher_hear_what_ray_would_tell_them() -> None:
    searcher, scheduler = Fixed([{"x": 0.0}]), StopAt(3)
    assert len(list(Replay(Search(searcher, scheduler), rising(2), seed=0, slots=1).steps())) == 3
    assert scheduler.heard == [("0", 1), ("0", 2), ("0", 3)]
    assert searcher.heard == [("result", "0", 1), ("result", "0", 2), ("complete", "0", 3)]


def test_the_last_epoch_ends_a_trial_without_asking_the_scheduler() -> None:
    searcher, scheduler = Fixed([{"x": 0.0}]), StopAt(10**6)
    steps = list(Replay(Search(searcher, scheduler), rising(2), seed=0, slots=1).steps())
    assert [step.epoch for step in steps] == list(range(1, EPOCHS + 1))
    assert scheduler.heard[-1] == ("0", EPOCHS - 1)
    assert searcher.heard[-1] == ("complete", "0", EPOCHS)


def test_slots_work_at_the_same_time() -> None:
    steps = Replay(Search(Fixed([{"x": 0.0}] * 8), StopAt(4)), rising(9), seed=0, slots=4).steps()
    assert {step.trial for step in islice(steps, 4 * 2)} == {0, 1, 2, 3}


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_seed_gives_the_same_replay(name: str) -> None:
    def steps() -> list[Any]:
        return list(islice(Replay(POLICIES[name](rising(), 3), rising(), seed=3).steps(), 60))

    assert steps() == steps()


@pytest.mark.parametrize("name", POLICIES)
def test_policies_survive_diverging_curves(name: str) -> None:
    scores = rising().scores.copy()
    scores[::3, :, 4:] = math.nan
    made = table(scores)
    steps = list(islice(Replay(POLICIES[name](made, 0), made, seed=0).steps(), 150))
    assert len(steps) == 150
    assert any(math.isnan(step.score) for step in steps)


def test_ours_stops_a_trial_that_diverged() -> None:
    scores = rising().scores.copy()
    scores[:, :, 1:] = math.nan
    made = table(scores)
    steps = list(islice(Replay(POLICIES["ours"](made, 0), made, seed=0).steps(), 40))
    assert max(step.epoch for step in steps) == 2


def test_ours_beats_random_on_curves_that_keep_their_order() -> None:
    def best(name: str, seed: int) -> float:
        made = rising(200)
        return max(step.score for step in islice(Replay(POLICIES[name](made, seed), made, seed).steps(), 90))

    assert np.mean([best("ours", s) - best("random", s) for s in range(8)]) > 0


def test_taskset_is_read_with_its_nan_and_without_the_untrained_epoch(tmp_path: Any) -> None:
    hp = {"learning_rate": 1e-3, "beta1": 0.9, "l1": 1e-5}
    rows = [
        {"hp": hp, "valid": {"loss": [9.0, 1.0, math.inf]}, "test": {"loss": [9.0, 2.0, 3.0]}},
        {"hp": hp | {"l1": 1e-3, "beta1": 0.5}, "valid": {"loss": [9.0, 0.5, math.nan]}, "test": {"loss": [9, 1, 1]}},
    ]
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(rows))
    found = taskset(path)
    assert found.name == "tiny"
    assert found.epochs == 2
    assert np.array_equal(found.validation, [[1.0, math.nan], [0.5, math.nan]], equal_nan=True)
    assert found.scores[:, 0, 0] == pytest.approx(np.exp([-1.0, -0.5]))
    assert found.points[0] == pytest.approx({"learning_rate": 1e-3, "one_minus_beta1": 0.1, "l1": 1e-5})
    assert found.test.tolist() == [[2.0, 3.0], [1.0, 1.0]]


def test_trials_are_told_apart_by_the_scheduler() -> None:
    """Two trials on one row are two to ASHA: the name holds the number."""
    search = POLICIES["ours"](rising(), 0)
    configs = [search.searcher.suggest(str(n)) for n in range(3)]
    assert len({config["run"]["name"] for config in configs}) == 3
