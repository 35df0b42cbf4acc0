"""Searches with a real Ray that are interrupted, whose workers die, whose trials go wrong."""

from __future__ import annotations

import os
import signal

import pytest
from sweeps import LONGER, exactly_once, reported, rows, states, trial_workers

from tune_app.results.sweep import Sweep
from tune_app.sweep.progress import INTERRUPTED

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_interrupted_and_taken_up_twice(place):
    """A worker killed; Ctrl-C, which a shell sends to the whole process group; SIGTERM, as a scheduler sends it."""
    sweep = place.sweep("patience")
    run = place.start("run", *LONGER, "family=tversky", "scheduler.name=none", "search.num_samples=3", "name=patience")
    run.until(lambda: reported(sweep) >= 3)  # of two trials, so that one has a checkpoint of its second epoch
    worker = max(map(rows, sweep.glob("trials/*/result.json")), key=len)[-1]["pid"]
    assert worker in trial_workers(run)
    os.kill(worker, signal.SIGKILL)
    run.until(lambda: len(going_on(sweep)) == 1)
    workers = trial_workers(run)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)  # however long another driver takes to start, the sweep does not end meanwhile
    assert "another process is running this sweep" in place.run("run", "resume=patience", code=2)
    told_while_it_ran = [(one.code, one.epoch) for trial in Sweep(sweep).trials for one in trial.diagnoses]
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait() == 130, run.output()
    assert run.output().count(INTERRUPTED) == 1
    assert run.output().index(INTERRUPTED) < run.output().index("resume=patience")
    assert "Traceback" not in run.output()
    assert Sweep(sweep).status == "interrupted"
    assert "RUNNING" in states(sweep).values()
    seen = reported(sweep)

    run = place.start("run", "resume=patience")
    run.until(lambda: reported(sweep) > seen)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 130, run.output()
    assert "resume=patience" in run.output()
    assert "RUNNING" in states(sweep).values()

    place.run("run", "resume=patience")
    assert states(sweep) == dict.fromkeys(states(sweep), "COMPLETE")
    assert len(states(sweep)) == 3
    assert exactly_once(sweep)
    (struck,) = (trial for trial in Sweep(sweep).trials if any(one.code == "lost_worker" for one in trial.diagnoses))
    assert struck.status == "finished"
    assert worker in {row["pid"] for row in rows(struck.folder / "result.json")}
    log = (struck.folder / "trial.log").read_text()
    assert log.count("epoch 1/9") == 1, "no epoch is trained twice"
    trained = log.partition("Going on after")[0].count("INFO epoch ")
    told = [(one.code, one.epoch) for one in struck.diagnoses]
    assert told_while_it_ran == told == [("lost_worker", trained)]


def going_on(sweep):
    """Trials that went on from a checkpoint."""
    return [path for path in sweep.glob("trials/*/trial.log") if "Going on after epoch" in path.read_text()]


def test_hopeless_trials_and_one_that_may_not_be_restarted_are_failed_and_named(place):
    """A learning rate of ten: the weights grow beyond all bounds within an epoch or two. One worker is killed."""
    sweep = place.sweep("hopeless")
    run = place.start(
        "run",
        *LONGER,
        "family=seesaw",
        "name=hopeless",
        "trainer.lr=10",
        "search.num_samples=3",
        "diagnosis.diverged_growth=20",
        "resources.max_failures=0",
        "resources.max_concurrent=1",
    )
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
