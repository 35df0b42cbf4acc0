"""The way of the README on real data, as a user types it, on volumes that other code has written; with a real Ray.

check → frequencies → run → export → confirm (killed and resumed) → trial → final → report → predict → compare.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zarr
from sweeps import TINY, Place, ended_and_begun, exactly_once, killed, steady, untouched

from tune_app.results.sweep import Sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

CROP = "heart-b/crop3"


@pytest.fixture(scope="module")
def data(foreign_root: Path) -> tuple[str, ...]:
    return ("data=cellmap", f"data.root={foreign_root}", "data.voxel_nm=[8,8,8]", "data.classes=auto")


@pytest.fixture(scope="module")
def searched(place: Place, data: tuple[str, ...]) -> Path:
    words = ("experiment=class_weighting", *data, *TINY, "family=seesaw", "search.num_samples=3", "scheduler.name=none")
    output = place.run("run", *words, "name=searched")
    assert "PHANTOM" not in output
    assert "3/3 trials done" in output
    place.run("export", "sweep=searched", "top=1", "out=best")
    return place.sweep("searched")


@pytest.fixture(scope="module")
def alone(place: Place, searched: Path) -> Path:
    """The exported configuration, trained on another seed."""
    place.run("run", "trial=best/1/config.yaml", "seed=1", "name=alone", "cluster.dashboard=false")
    return place.sweep("alone")


def test_the_data_are_checked_and_counted_before_anything_is_trained(place: Place, data: tuple[str, ...]) -> None:
    output = place.run("data", "action=check", *data)
    assert "no EM" in output
    assert "golgi_mem" in place.run("frequencies", *data)


def test_a_killed_confirmation_ends_as_one_that_was_left_alone(place: Place, searched: Path, alone: Path) -> None:
    """kill -9 in the middle damages the journals. Resumed, it has trained every arm on every seed once, as new."""
    confirmation = searched / "confirmation"
    arguments = ("sweep=searched", "top=1", "replicates=2")
    run = place.start("confirm", *arguments)
    run.until(lambda: confirmation.is_dir() and ended_and_begun(confirmation, epochs=4, ended=1))
    before = killed(run, confirmation)
    assert not (searched / "confirmation.json").exists()
    assert "python -m tune_app.confirm resume=searched" in place.run("confirm", *arguments, code=2)
    assert "tune_app.confirm resume=searched" in place.run("run", f"resume={confirmation}", code=2)
    for folder in (searched, confirmation):
        (folder / "study.journal").write_bytes((folder / "study.journal").read_bytes()[:100] + b"\n")
    output = place.run("confirm", "resume=searched")
    assert "study.journal was damaged" in output
    assert "arms" in output or "No winner" in output
    assert untouched(before, confirmation)
    assert exactly_once(confirmation)
    runs = Sweep(confirmation).trials
    assert sorted({trial.seed for trial in runs}) == [1, 2]
    assert len(runs) == len({(trial.label, trial.seed) for trial in runs}) == 4
    assert all(trial.status == "finished" and trial.epochs == 4 for trial in runs)
    assert (searched / "confirmation.json").read_text() == (confirmation / "confirmation.json").read_text()
    again = place.run("confirm", "resume=searched")
    assert "No winner" in again or "is the best of" in again
    assert "Confirmed on fresh seeds" in place.run("summary", "sweep=searched")

    (single,) = Sweep(alone).trials
    twin = next(trial for trial in runs if trial.loss == single.loss and trial.seed == 1)
    assert [steady(row) for row in single.history] == [steady(row) for row in twin.history]


def test_a_final_training_takes_all_crops_and_is_exported_as_not_validated(place: Place, searched: Path) -> None:
    output = place.run("run", "final=best/1", "name=last", "cluster.dashboard=false")
    assert "NOT VALIDATED" in output
    exported = place.sweep("last") / "export" / "1"
    manifest = json.loads((exported / "manifest.json").read_text())
    assert (manifest["validated"], manifest["mean_dice"]) == (False, None)
    assert (exported / "model.pt2").is_file()
    before = Sweep(searched).trial(Sweep(searched).leaderboard().iloc[0]["name"])
    assert manifest["best_epoch"] == before.best["epoch"]
    (trial,) = Sweep(place.sweep("last")).trials
    assert [row["loss"] for row in trial.history] != [row["loss"] for row in before.history], "of other crops"
    assert "export/1" in place.run("run", "resume=last")


def test_the_winner_is_reported_applied_and_compared(place: Place, foreign_root: Path, alone: Path) -> None:
    place.run("report", "sweep=searched", "out=report.html")
    assert "nuc" in (place.folder / "report.html").read_text()
    output = place.run("predict", "checkpoint=best/1", f"data.root={foreign_root}", f"crop={CROP}", "out=pred.zarr")
    assert "nuc" in output
    labels = zarr.open_group(str(place.folder / "pred.zarr"), mode="r")
    assert {name for name, _ in labels["labels"].groups()} >= {"nuc", "pm"}
    output = place.run("compare", "a=searched", "b=alone", "out=comparison.html")
    assert "same data" in output
    assert "searched" in (place.folder / "comparison.html").read_text()
