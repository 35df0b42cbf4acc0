"""Searches in one slot with a real Ray: the same seed gives the same sweep, killed or not; no other user gets in."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from documents import checked
from ray.tune import ExperimentAnalysis
from sweeps import (
    TINY,
    Place,
    exactly_once,
    histories,
    killed,
    open_to_strangers,
    reported,
    states,
    trials_of,
    untouched,
)

from tune_app.results.sweep import Sweep
from tune_app.search.promotion import Promotion

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

ONE_SLOT = (*TINY, "family=seesaw", "search.num_samples=6", "search.startup_trials=3", "resources.max_concurrent=1")


@dataclass
class Watched:
    """A sweep that ran to its end, and what another user could read or write of its Ray; None where none can look."""

    folder: Path
    open: list[str] | None
    opened_by_ray: bool


@pytest.fixture(scope="module")
def watched(place: Place) -> Watched:
    place.temporary.chmod(0o1777)  # as /tmp is
    write = "import sys; open('told.txt', 'a').write(sys.argv[1])"
    told = f"notify.command={sys.executable} -c \"{write}\" '{{event}} {{best}}'"
    run = place.start("run", *ONE_SLOT, "name=once", told, "format=json")
    run.until(lambda: reported(place.sweep("once")) >= 1)
    (session,) = place.temporary.glob("tune_app-*/ray/session_latest")
    opened = session.stat().st_mode & 0o002
    found = open_to_strangers(place.temporary)
    assert run.wait() == 0, run.output()
    output = run.output()
    document = checked(output[output.index('{\n  "schema"') :])
    assert (document["status"], document["trials"].keys() <= {"finished", "stopped early"}) == ("finished", True)
    best = document["best"]
    assert (place.folder / "told.txt").read_text() == f"finished {best['name']} {best['score']:.4f}"
    for words in ("*** PHANTOM DATA", "6/6 trials done", "export sweep=once", "extend=once", "rank", "golgi_mem"):
        assert words in output
    return Watched(place.sweep("once"), found, bool(opened))


def test_no_other_user_reads_or_writes_what_ray_puts_on_disk(place: Place, watched: Watched) -> None:
    assert not list(place.temporary.glob("tune_app-*")), "nothing of Ray is left"
    if watched.open is None:
        pytest.skip("needs root, and setpriv of util-linux, to look as another user")
    assert watched.opened_by_ray, "Ray has stopped opening its folder to everybody: ours around it is needless"
    assert [path for path in watched.open if "tune_app-" in path] == []


def test_rays_own_analysis_opens_the_sweep(watched: Watched) -> None:
    frame = ExperimentAnalysis(str(watched.folder / "trials")).dataframe(metric="mean_dice", mode="max")
    best = {trial.name: trial.best["mean_dice"] for trial in Sweep(watched.folder).trials}
    assert len(best) == 6
    assert dict(zip(frame["config/run/name"], frame["mean_dice"])) == best


@pytest.mark.slow
def test_one_slot_and_one_seed_give_one_sweep_killed_or_not(place: Place, watched: Watched) -> None:
    """The running trial's checkpoint is cut short, too, as by a full disk, and the journal is gone.

    Made anew, it gives the sampler the same history.
    """
    once, twice = watched.folder, place.sweep("twice")
    run = place.start("run", *ONE_SLOT, "name=twice")
    run.until(lambda: reported(twice) >= 9)
    before = killed(run, twice)
    assert before.files
    (name,) = (name for name, state in before.states.items() if state == "RUNNING")
    last = twice / "trials" / name / "last.pt"
    if last.is_file():
        os.truncate(last, last.stat().st_size // 2)
    (twice / "study.journal").unlink()
    assert "study.journal was missing: made anew" in place.run("run", "resume=latest")
    assert histories(twice) == histories(once)
    params = [
        [(trial.number, trial.params, trial.state, trial.values) for trial in trials_of(sweep)]
        for sweep in (once, twice)
    ]
    assert params[0] == params[1]
    assert len({str(values) for _, values, _, _ in params[0]}) == 6
    boards = [
        Sweep(sweep).leaderboard().drop(columns=["minutes", "device_hours", "score_per_hour"])
        for sweep in (once, twice)
    ]
    assert boards[0].equals(boards[1])
    assert Sweep(twice).status == "finished"
    assert untouched(before, twice)
    assert exactly_once(twice)


@pytest.mark.slow
def test_resuming_a_finished_sweep_changes_nothing(place: Place, watched: Watched) -> None:
    before = {path: path.read_bytes() for path in watched.folder.rglob("*") if path.is_file()}
    assert "rank" in place.run("run", "resume=once")
    assert {path: path.read_bytes() for path in watched.folder.rglob("*") if path.is_file()} == before


PAUSING = (
    *ONE_SLOT,
    "search.baseline=false",
    "scheduler.name=promote",
    "scheduler.grace_period=1",
    "scheduler.reduction_factor=2",
)


@pytest.mark.slow
def test_a_killed_sweep_of_pausing_trials_goes_on_as_it_would_have(place: Place) -> None:
    """In one slot the order in which epochs end says what was begun and what went on: each time what the epochs before
    say, and what the rule alone would have done."""
    sweep = place.sweep("pausing")
    run = place.start("run", *PAUSING, "name=pausing")
    run.until(lambda: reported(sweep) >= 5)
    before = killed(run, sweep)
    output = place.run("run", "resume=latest")
    assert " paused at epoch 1" in output
    assert untouched(before, sweep)
    assert exactly_once(sweep)
    found = Sweep(sweep)
    assert found.status == "finished"
    assert {trial.name: trial.status for trial in found.trials} == {
        trial.name: "finished" if trial.epochs == 4 else "paused" for trial in found.trials
    }
    assert {1, 4} <= {trial.epochs for trial in found.trials} <= {1, 2, 4}
    assert set(states(sweep).values()) == {"PRUNED", "COMPLETE"}
    assert not list(sweep.glob("trials/*/last.pt")), "nothing is left of what a paused trial needs to go on"

    promotion = Promotion((1, 2), 2.0)
    epochs = sorted((row["time_ended"], trial.name, row) for trial in found.trials for row in trial.history)
    begun: set[str] = set()
    for _, name, row in epochs:
        if name not in begun:
            assert promotion.next() is None
            begun.add(name)
        elif promotion.is_paused(name):
            assert name == promotion.next(nothing_else=len(begun) == len(found.trials))
            promotion.promote(name)
        promotion.take(name, row["epoch"], (0.0, row["mean_dice"]))
    assert promotion.next(nothing_else=True) is None
