"""Sweeps of fixed arms, and in one slot, with a real Ray: killed, taken up, repeated, refused, exported."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from sweeps import (
    TINY,
    Cut,
    Place,
    ended_and_begun,
    exactly_once,
    histories,
    killed,
    look_at,
    open_to_strangers,
    reported,
    reported_epochs,
    states,
    trials_of,
    untouched,
)

from tune_app.results import Sweep

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

FIXED = (*TINY, "family=static", "search=grid", "search.grid_points=3", "scheduler.name=none")
ONE_SLOT = (*TINY, "family=seesaw", "search.num_samples=6", "search.startup_trials=3", "resources.max_concurrent=1")


# Fixed arms without early stopping: a killed sweep ends as an unkilled one.


@dataclass
class Watched:
    """A sweep that ran to its end, and what another user could read or write of its Ray; None where none can look."""

    folder: Path
    open: list[str] | None
    opened_by_ray: bool


@pytest.fixture(scope="module")
def watched(place: Place) -> Watched:
    place.temporary.chmod(0o1777)  # as /tmp is
    run = place.start("run", *FIXED, "name=whole")
    run.until(lambda: reported(place.sweep("whole")) >= 1)
    (session,) = place.temporary.glob("tune_app-*/ray/session_latest")
    opened = session.stat().st_mode & 0o002
    found = open_to_strangers(place.temporary)
    assert run.wait() == 0, run.output()
    output = run.output()
    for words in ("*** PHANTOM DATA", "8/8 trials done", "export sweep=whole", "rank", "golgi_mem"):
        assert words in output
    assert "extend=whole" not in output, "a grid cannot be extended"
    return Watched(place.sweep("whole"), found, bool(opened))


@pytest.fixture(scope="module")
def whole(watched: Watched) -> Path:
    return watched.folder


def test_no_other_user_reads_or_writes_what_ray_puts_on_disk(place: Place, watched: Watched) -> None:
    assert not list(place.temporary.glob("tune_app-*")), "nothing of Ray is left"
    if watched.open is None:
        pytest.skip("needs root, and setpriv of util-linux, to look as another user")
    assert watched.opened_by_ray, "Ray has stopped opening its folder to everybody: ours around it is needless"
    assert [path for path in watched.open if "tune_app-" in path] == []


@pytest.fixture(scope="module")
def cut_short(place: Place, whole: Path) -> Cut:
    """Killed in the middle; besides, the newest checkpoint of a running trial is cut short, as by a full disk."""
    sweep = place.sweep("cut")
    run = place.start("run", *FIXED, "name=cut")
    run.until(lambda: ended_and_begun(sweep, epochs=4, ended=2))
    before = killed(run, sweep)
    assert set(before.states.values()) == {"COMPLETE", "RUNNING"}
    assert len(before.states) < 8
    name = next(name for name, state in before.states.items() if state == "RUNNING")
    last = sweep / "trials" / name / "last.pt"
    if last.is_file():
        os.truncate(last, last.stat().st_size // 2)
    place.run("run", "resume=latest")
    return before


def test_fixed_arms_killed_and_resumed_are_those_of_an_unkilled_run(place, whole, cut_short):
    assert histories(place.sweep("cut")) == histories(whole)
    assert states(place.sweep("cut")) == states(whole) == dict.fromkeys(states(whole), "COMPLETE")
    assert all(epochs == [1, 2, 3, 4] for epochs in reported_epochs(place.sweep("cut")).values())
    assert exactly_once(place.sweep("cut"))


def test_no_finished_trial_is_touched_by_a_resume(place, cut_short):
    assert cut_short.files
    assert untouched(cut_short, place.sweep("cut"))


def test_the_board_of_a_resumed_sweep_is_that_of_an_unkilled_one(place, whole, cut_short):
    boards = [Sweep(folder).leaderboard().drop(columns="minutes") for folder in (whole, place.sweep("cut"))]
    assert boards[0].equals(boards[1])
    assert Sweep(place.sweep("cut")).status == "finished"


@pytest.mark.slow
def test_resuming_a_finished_sweep_changes_nothing(place, whole):
    before = look_at(whole)
    output = place.run("run", "resume=whole")
    assert "rank" in output
    assert untouched(before, whole)


def test_what_resume_and_extend_refuse(place, whole):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert "trainer.epochs=5" in place.run("run", "resume=whole", "trainer.epochs=5", code=2)
    assert "fixed list" in place.run("run", "extend=whole", "search.num_samples=2", code=2)
    assert "has the untuned baseline already" in place.run("run", "extend=whole", "search.baseline=true", code=2)
    assert "exists already" in place.run("run", *FIXED, "name=whole", code=2)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_more_gpus_than_there_are(place):
    words = ("resources.num_gpus=0", "resources.gpus_per_trial=0.5", "name=greedy")
    output = place.run("run", *TINY, *words, code=2)
    assert output.count("error:") == 1
    assert "0 GPUs" in output
    assert not place.sweep("greedy").exists()


@pytest.mark.slow
def test_a_final_training_takes_all_crops_and_is_exported_as_not_validated(place, whole):
    place.run("export", "sweep=whole", "top=1", "out=best")
    output = place.run("run", "final=best/1", "name=last", "cluster.dashboard=false", "resources.num_cpus=2")
    assert "NOT VALIDATED" in output
    exported = place.sweep("last") / "export" / "1"
    manifest = json.loads((exported / "manifest.json").read_text())
    assert (manifest["validated"], manifest["mean_dice"]) == (False, None)
    assert (exported / "model.pt2").is_file()
    before = Sweep(whole).trial(Sweep(whole).leaderboard().iloc[0]["name"])
    assert manifest["best_epoch"] == before.best["epoch"]
    (trial,) = Sweep(place.sweep("last")).trials
    assert [row["loss"] for row in trial.history] != [row["loss"] for row in before.history], "of other crops"
    assert "export/1" in place.run("run", "resume=last")


@pytest.mark.slow
def test_an_exported_configuration_trains_again(place, whole):
    place.run("export", "sweep=whole", "top=1", "out=best")
    best = Sweep(whole).leaderboard().iloc[0]["name"]
    place.run("run", "trial=best/1/config.yaml", "name=again", "cluster.dashboard=false", "resources.num_cpus=2")
    (again,) = histories(place.sweep("again")).values()
    assert again == histories(whole)[best]


# One slot: the same seed gives the same sweep, killed or not.


@pytest.mark.slow
def test_one_slot_and_one_seed_give_one_sweep(place):
    place.run("run", *ONE_SLOT, "name=once")
    twice = place.sweep("twice")
    run = place.start("run", *ONE_SLOT, "name=twice")
    run.until(lambda: reported(twice) >= 9)
    before = killed(run, twice)
    place.run("run", "resume=twice")
    assert histories(twice) == histories(place.sweep("once"))
    params = [[(trial.number, trial.params, trial.state, trial.values) for trial in trials_of(place.sweep(name))]
              for name in ("once", "twice")]  # fmt: skip
    assert params[0] == params[1]
    assert len({str(values) for _, values, _, _ in params[0]}) == 6
    assert untouched(before, twice)
    assert exactly_once(twice)
