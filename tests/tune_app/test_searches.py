"""Searches in two slots with a real Ray: killed, interrupted, extended; workers that die, trials that go wrong."""

from __future__ import annotations

import os
import signal

import pytest
from sweeps import (
    TINY,
    Cut,
    Place,
    exactly_once,
    killed,
    look_at,
    reported,
    rows,
    rungs_of,
    running_with_rows,
    states,
    trial_workers,
    trials_of,
    untouched,
)

from tune_app.display import INTERRUPTED
from tune_app.results import Sweep

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

LONGER = (*TINY, "trainer.epochs=9", "trainer.iterations_per_epoch=20")


# Optuna and ASHA in two slots, killed, taken up, extended.


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
            assert any(value > trial.intermediate_values[last] for value in rungs[last].values())
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


# Signals.


@pytest.mark.slow
def test_interrupted_and_taken_up_twice(place):
    """A worker killed; Ctrl-C, which a shell sends to the whole process group; SIGTERM, as a scheduler sends it."""
    sweep = place.sweep("patience")
    run = place.start("run", *LONGER, "family=tversky", "scheduler.name=none", "search.num_samples=4", "name=patience")
    run.until(lambda: reported(sweep) >= 3)  # of two trials, so that one has a checkpoint of its second epoch
    worker = max(map(rows, sweep.glob("trials/*/result.json")), key=len)[-1]["pid"]
    assert worker in trial_workers(run)
    os.kill(worker, signal.SIGKILL)
    run.until(lambda: len(going_on(sweep)) == 1)
    assert "another process is running this sweep" in place.run("run", "resume=patience", code=2)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait() == 130, run.output()
    assert run.output().count(INTERRUPTED) == 1
    assert run.output().index(INTERRUPTED) < run.output().index("resume=patience")
    assert "Traceback" not in run.output()
    assert Sweep(sweep).status == "interrupted"
    assert "RUNNING" in states(sweep).values()
    seen = reported(sweep)

    run = place.start("run", "resume=patience")
    run.until(lambda: reported(sweep) >= seen + 3)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 130, run.output()
    assert "resume=patience" in run.output()
    assert "RUNNING" in states(sweep).values()

    place.run("run", "resume=patience")
    assert states(sweep) == dict.fromkeys(states(sweep), "COMPLETE")
    assert len(states(sweep)) == 4
    assert exactly_once(sweep)
    (struck,) = (trial for trial in Sweep(sweep).trials if any(one.code == "lost_worker" for one in trial.diagnoses))
    assert struck.status == "finished"
    assert worker in {row["pid"] for row in rows(struck.folder / "result.json")}
    assert (struck.folder / "trial.log").read_text().count("epoch 1/9") == 1, "no epoch is trained twice"


def going_on(sweep):
    """Trials that went on from a checkpoint."""
    return [path for path in sweep.glob("trials/*/trial.log") if "Going on after epoch" in path.read_text()]


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


# Trials that go wrong.


@pytest.mark.slow
def test_hopeless_trials_and_one_that_may_not_be_restarted_are_failed_and_named(place):
    """A learning rate of ten: the weights grow beyond all bounds within an epoch or two. One worker is killed."""
    sweep = place.sweep("hopeless")
    run = place.start(
        "run", *LONGER, "family=seesaw", "name=hopeless", "trainer.lr=10", "search.num_samples=3",
        "diagnosis.diverged_growth=20", "resources.max_failures=0", "resources.max_concurrent=1",
    )  # fmt: skip
    run.until(lambda: bool(trial_workers(run)))
    os.kill(trial_workers(run)[0], signal.SIGKILL)
    assert run.wait() == 1, run.output()
    assert "no trial ended with a score" in run.output()
    trials = Sweep(sweep).trials
    assert [trial.status for trial in trials] == ["failed: error", "failed: diverged", "failed: diverged"]
    assert trials[0].reason.startswith("lost_worker: ")
    assert all(trial.reason.startswith("diverged: ") and trial.epochs < 9 for trial in trials[1:])
    assert "failed: error" in run.output()
    assert "failed: diverged at epoch" in run.output()
    assert list(states(sweep).values()) == ["FAIL", "PRUNED", "PRUNED"], "the searcher learns that it is bad there"
    assert Sweep(sweep).leaderboard()["diagnoses"].str.contains("diverged").sum() == 2
