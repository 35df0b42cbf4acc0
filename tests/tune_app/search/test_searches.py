"""Searches in two slots with a real Ray: killed, resumed, extended; four trials on two cards."""

from __future__ import annotations

import signal

import pytest
from sweeps import (
    LONGER,
    TINY,
    Cut,
    Place,
    exactly_once,
    killed,
    look_at,
    rows,
    rungs_of,
    running_with_rows,
    states,
    trial_workers,
    trials_of,
    untouched,
)

from tune_app.results.sweep import Sweep

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

# Optuna and ASHA in two slots, killed, resumed, extended.


@pytest.fixture(scope="module")
def searched(place: Place) -> Cut:
    sweep = place.sweep("search")
    run = place.start("run", *LONGER, "family=seesaw", "search.num_samples=9", "name=search")
    run.until(lambda: len(running_with_rows(sweep)) == 2 and len(list(sweep.glob("trials/0*"))) >= 5)
    before = killed(run, sweep)
    place.run("run", "resume=search")
    return before


@pytest.mark.slow
def test_a_killed_search_loses_and_repeats_nothing(place, searched):
    sweep = place.sweep("search")
    assert list(searched.states.values()).count("RUNNING") == 2
    after = states(sweep)
    assert len(after) == 9
    assert set(after.values()) <= {"COMPLETE", "PRUNED"}
    assert "PRUNED" in after.values()
    assert {name: after[name] for name in searched.files} == {
        name: state for name, state in searched.states.items() if state != "RUNNING"
    }
    assert len(searched.files) >= 2
    assert untouched(searched, sweep)
    assert exactly_once(sweep)


@pytest.mark.slow
def test_the_rungs_are_those_of_before(place, searched):
    after = rungs_of(place.sweep("search"))
    assert any(searched.rungs.values())
    for epoch, values in searched.rungs.items():
        assert values.items() <= after[epoch].items()


@pytest.mark.slow
def test_a_trial_stopped_early_was_not_among_the_best_of_its_rung(place, searched):
    sweep = place.sweep("search")
    for trial in trials_of(sweep):
        if trial.state.name == "PRUNED":
            rungs = rungs_of(sweep)
            last = max(epoch for epoch in rungs if epoch <= max(trial.intermediate_values))
            assert any(score > trial.intermediate_values[last] for _, score in rungs[last].values())
        else:
            assert max(trial.intermediate_values) == 9
            assert trial.value == max(trial.intermediate_values.values())


@pytest.mark.slow
def test_the_untuned_baseline_is_the_first_trial_and_runs_to_the_end(place, searched):
    board = Sweep(place.sweep("search")).leaderboard().set_index("number")
    assert board["baseline"].tolist().count(True) == 1
    assert board.loc[0, ["name", "status", "epochs"]].tolist() == ["0000_weight_uniform", "finished", 9]
    assert board.loc[0, "calibrated_mean_dice"] > 0
    assert "seesaw" in place.run("summary", "sweep=search", "rank_by=calibrated").split("Calibrated: ")[0]


@pytest.mark.slow
def test_extending_adds_exactly_two(place, searched):
    """With its journal zeroed, too, as by a file system that lost power."""
    sweep = place.sweep("search")
    before = look_at(sweep)
    assert len(before.files) == 9
    journal = sweep / "study.journal"
    journal.write_bytes(bytes(journal.stat().st_size))
    output = place.run("run", "extend=search", "search.num_samples=2")
    assert "made anew from 9 trials in their folders" in output
    assert len(states(sweep)) == 11
    assert untouched(before, sweep)
    assert exactly_once(sweep)
    assert Sweep(sweep).settings["search"]["num_samples"] == 11
    assert Sweep(sweep).status == "finished"


@pytest.mark.nodes
@pytest.mark.slow
def test_two_gpus_hold_four_trials_at_half_a_gpu_each(place):
    sweep = place.sweep("four")
    words = ("resources.num_gpus=2", "resources.num_cpus=4", "trainer.epochs=5000", "scheduler.name=none")
    run = place.start("run", *TINY, *words, "family=seesaw", "search.num_samples=6", "name=four")
    run.until(lambda: len(running_with_rows(sweep)) >= 4)
    pids = {rows(sweep / "trials" / name / "result.json")[-1]["pid"] for name in running_with_rows(sweep)}
    assert len(pids) == 4
    assert set(trial_workers(run)) >= pids
    assert len(states(sweep)) == 4, "and nothing is proposed before there is a place for it"
    assert "4 trials at once, each 1 CPU and 0.5 GPU" in run.output()
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 130, run.output()
