"""What `scale` divides by what, and that it drives our own searcher; not how long that takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.idle_sweep import Clock, Cost, Nowhere, alone
from benchmarks.idle_trial import KEYS, idle_row
from benchmarks.scale import describe, growth, memory, per_result, ratios


def cost(trials: int, cpu: float = 0.0, **fields: float) -> Cost:
    return Cost(trials=trials, results=trials, cpu=cpu, **fields)  # type: ignore[arg-type]


def test_a_large_sweep_is_compared_with_those_next_to_it() -> None:
    assert ratios([(1, 2.0), (4, 8.0), (1, 4.0), (4, 6.0), (1, 1.0)], 1, 4) == (4.0, 2.0, 1.5, 6.0)
    assert ratios([(1, 2.0), (4, 8.0), (9, 4.0)], 1, 4) == (4.0,)


def test_growth_and_memory_have_their_targets() -> None:
    grown = growth("here", [cost(10, 1.0), cost(40, 4.2), cost(10, 1.0), cost(5, 0.1)], 10, 40)
    assert (grown.values, grown.target, grown.reached) == ((4.2, 4.2), pytest.approx(4.4), True)
    sizes = [cost(250, megabytes=10.0), cost(1000, megabytes=25.0), cost(4000, megabytes=100.0)]
    held = memory(sizes, 250, 1000, 4000)
    assert held.values == pytest.approx((0.025 / 0.02,))
    assert not held.reached
    each = per_result([cost(250, 1.0), cost(4000, 400.0), cost(4000, 200.0)], 4000)
    assert (each.values, each.target, each.reached) == ((100.0, 50.0), 100.0, True)
    assert each.note == "7.5% of an epoch of a second"


def test_what_a_result_costs_is_said_with_whose_it_is() -> None:
    measured = Cost(trials=100, results=200, cpu=2.0, wall=3.0, parts={"study": 0.5, "display": 0.001})
    assert describe(measured) == (
        "100 trials, 200 results: 10.0 ms processor and 15.0 ms wall time per result (Ray and the rest 75%, study 25%)"
    )


@pytest.mark.parametrize("family", ["seesaw", "all"])
def test_a_sweep_without_ray_reports_all_its_trials(tmp_path: Path, family: str) -> None:
    found = alone(tmp_path, 20, family, Clock())
    assert found.trials == 20
    assert 20 < found.results < 60
    assert (tmp_path / "study.journal").read_text().count('"op_code":4') == 20


def test_a_third_of_the_trials_is_better_than_the_others_however_many_there_are() -> None:
    for count in (30, 300, 3000):
        scores = [idle_row(number, 1)["mean_dice"] for number in range(count)]
        assert sum(score > 2 / 3 for score in scores) == pytest.approx(count / 3, abs=2)


def test_a_row_has_as_many_figures_as_that_of_five_classes() -> None:
    row = idle_row(7, 2)
    assert len(row) == len(KEYS) + 5 == 93
    assert all(0 <= row[key] < 1 for key in KEYS)


def test_a_watched_method_is_timed_and_does_what_it_did() -> None:
    class Watched:
        def twice(self, value: int) -> int:
            return 2 * value

    clock = Clock()
    clock.watch("part", Watched, "twice")
    assert Watched().twice(4) == 8
    assert clock.seconds["part"] > 0


def test_nothing_is_kept_of_what_is_shown() -> None:
    stream = Nowhere()
    print("words", file=stream)
    assert stream.getvalue() == ""
