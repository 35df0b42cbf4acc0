"""What the benchmarks of whole sweeps make of the rows that a sweep leaves."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import compile_cache, sweep_efficiency, trial_start
from benchmarks.bare_loop import configs_of
from benchmarks.sweeps import environment, times_of


def row(setup: float, started: float, *, compiled: float = 0.0, **fields: Any) -> dict[str, Any]:
    """An epoch of ten seconds, and the seconds it compiled."""
    parts = {"seconds_load": 1.0, "seconds_compute": 7.0, "seconds_validate": 2.0, "seconds_compile": compiled}
    times = {"time_setup": setup, "time_started": started, "time_ended": started + 10.0 + compiled}
    return {**parts, **times, "compiled_graphs": 2 * (compiled > 0), **fields}


def test_efficiency_counts_steps_alone():
    rows = [row(100.0, 102.0, compiled=5.0), row(100.0, 117.0), row(101.0, 103.0), row(120.0, 120.5)]
    times = times_of(rows, last_result=140.0)
    assert (times.first_setup, times.wall, times.epochs) == (100.0, 40.0, 4)
    assert (times.stepping, times.loading, times.compiling) == (36.0, 4.0, 5.0)
    assert times.efficiency(slots=2) == 36.0 / 80.0
    words = sweep_efficiency.where_it_went(times, 2)
    assert words == ("2 slots × 40 s, 4 epochs; loading 5.0 %, compiling 6.2 %, files, Ray and idle slots 43.8 %")


def test_a_start_goes_from_the_last_row_of_one_trial_to_the_first_step_of_the_next():
    later = [row(30.0, 31.0, time_first_step=33.0), row(30.0, 45.0)]
    first = [row(0.0, 1.0, time_first_step=2.0), row(0.0, 12.0)]
    last = [row(56.0, 56.0, time_first_step=56.5)]
    assert trial_start.gaps([later, last, first]) == [33.0 - 22.0, 56.5 - 55.0]


def test_reuse_is_forced_on_whatever_the_program_asks():
    made = trial_start.with_actors(lambda **fields: fields, False)(reuse_actors=True, num_samples=3)
    assert made == {"reuse_actors": False, "num_samples": 3}


def test_graphs_are_those_of_the_process_with_most():
    assert compile_cache.most_graphs([row(0.0, 1.0), row(0.0, 1.0, compiled=2.0)]) == 2


def test_a_sweep_that_lacks_a_family_is_no_proof():
    compile_cache.require_all(["static", "seesaw"], ["seesaw", "static", "seesaw"])
    with pytest.raises(RuntimeError, match="no configuration of tversky"):
        compile_cache.require_all(["static", "tversky"], ["static"])


def test_a_peer_that_trained_something_else_is_refused():
    sweep_efficiency.require_same({"a": [0.1, 0.2]}, {"a": [0.1, 0.2]})
    for theirs in ({"a": [0.1, 0.3]}, {"a": [0.1]}, {}, {"a": [0.1, 0.2], "b": []}):
        with pytest.raises(RuntimeError, match="did not train what the sweep did"):
            sweep_efficiency.require_same({"a": [0.1, 0.2]}, theirs)


def test_the_bare_loop_takes_the_configurations_in_order(tmp_path):
    for number in (1, 0):
        folder = tmp_path / "trials" / f"{number:04d}_x"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(f'{{"seed": {number}}}')
    assert configs_of(tmp_path) == [{"seed": 0}, {"seed": 1}]


def test_a_measured_run_does_not_depend_on_the_settings_of_a_person(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_APP_RESULTS", "elsewhere")
    monkeypatch.setenv("TUNE_APP_CACHE", "own")
    assert "TUNE_APP_RESULTS" not in environment(tmp_path)
    assert environment(tmp_path)["TUNE_APP_CACHE"] == "own"
    assert environment(tmp_path, tmp_path / "c")["TUNE_APP_CACHE"] == str(tmp_path / "c")
