"""One sweep of four models under two losses each, its trials of different sizes, one of them of two processes: killed,
resumed, run at once, and stopped early while it loses a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from sweeps import ROOT, TINY, Place, histories, killed, reported, rows, running_with_rows, states, trial_workers

from trainables.models import build
from trainables.settings import ModelSettings
from tune_app.results.sweep import Sweep

FAMILY = """
from search_spaces._family import Family
from search_spaces._parameters import Choice

MODELS = {
    "small": {"model": {"width": 4, "depth": 2}, "resources": {"cpus_per_trial": 1}},
    "wide": {"model": {"width": 8, "depth": 2}, "resources": {"cpus_per_trial": 2}},
    "deep": {"model": {"width": 4, "depth": 3}, "resources": {"cpus_per_trial": 1}},
    "pair": {"model": {"width": 6, "depth": 2}, "resources": {"cpus_per_trial": 1, "workers_per_trial": 2}},
}


def loss(point, counts):
    if point["loss"] == "seesaw":
        return {"name": "seesaw", "params": {"p": 0.8, "q": 2.0}}
    return {"name": "static", "params": {"weights": [1.0] * len(counts.classes)}}


FAMILY = Family(
    name="architecture",
    space={"model": Choice(tuple(MODELS), help="network"), "loss": Choice(("uniform", "seesaw"), help="loss")},
    presets={"architecture_small": {"model": "small", "loss": "uniform"}},
    loss=loss,
    settings=lambda point: MODELS[point["model"]],
    baseline="architecture_small",
    cite="an example",
    help="networks and losses",
)
"""
WORDS = (*(word for word in TINY if not word.startswith("model.")), "family=architecture", "search=grid")
ALL = ("scheduler.name=none",)
SIZES = {"small": (4, 2, 1), "wide": (8, 2, 2), "deep": (4, 3, 1), "pair": (6, 2, 1)}
"""(width, depth, CPUs of a process) of each model."""
RANK = "ray::Worker"
"""The name of a process that is a further rank of a trial."""


@pytest.fixture(scope="module")
def extended(place: Place) -> Place:
    """The program with one family more."""
    folder = place.folder / "program"
    shutil.copytree(ROOT / "search_spaces", folder / "search_spaces", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tune_app", "trainables", "cluster"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "search_spaces" / "architecture.py").write_text(FAMILY)
    place.environment["PYTHONPATH"] = str(folder)
    return place


def model_of(config: dict) -> str:
    size = (config["model"]["width"], config["model"]["depth"], config["resources"]["cpus_per_trial"])
    return next(name for name, own in SIZES.items() if own == size)


def board(sweep: Path) -> pd.DataFrame:
    return Sweep(sweep).leaderboard().drop(columns=["minutes", "device_hours", "score_per_hour"])


def intervals(sweep: Path, *, cpus: int) -> list[tuple[float, float]]:
    """When the epochs of trials with so many CPUs began and ended."""
    found = []
    for trial in Sweep(sweep).trials:
        if trial.config["resources"]["cpus_per_trial"] == cpus:
            found += [(row["time_started"], row["time_ended"]) for row in rows(trial.folder / "history.jsonl")]
    return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_four_models_under_two_losses_killed_and_resumed(extended: Place) -> None:
    extended.run("run", *WORDS, *ALL, "name=whole")
    whole, cut = extended.sweep("whole"), extended.sweep("cut")
    run = extended.start("run", *WORDS, *ALL, "name=cut")
    run.until(lambda: reported(cut) >= 7)
    killed(run, cut)
    extended.run("run", f"resume={cut.name}")

    assert states(cut) == states(whole)
    assert set(states(cut).values()) == {"COMPLETE"}
    assert histories(cut) == histories(whole)
    pd.testing.assert_frame_equal(board(cut), board(whole))
    trials = Sweep(cut).trials
    assert [trial.label for trial in trials if trial.baseline] == ["architecture_small"]
    assert {trial.family for trial in trials} == {"architecture"}
    assert sorted((model_of(t.config), t.loss["name"]) for t in trials) == sorted(
        (model, loss) for model in SIZES for loss in ("seesaw", "static")
    )

    for trial in trials:
        width, depth, cpus = SIZES[model_of(trial.config)]
        kept = torch.load(trial.folder / "best.pt", weights_only=True)["model"]
        with torch.device("meta"):
            settings = ModelSettings(name="unet", width=width, depth=depth)
            wanted = build(settings, in_channels=1, num_classes=5, patch=[1, 32, 32]).state_dict()
        assert {name: tensor.shape for name, tensor in kept.items()} == {n: t.shape for n, t in wanted.items()}
        assert f"{cpus} threads" in (trial.folder / "trial.log").read_text()
    alone = intervals(whole, cpus=2)
    assert not [pair for pair in intervals(whole, cpus=1) if any(a < pair[1] and pair[0] < b for a, b in alone)], (
        "Ray has two CPUs: a trial that takes both runs alone"
    )

    extended.run("export", "sweep=cut", "top=8", "out=best")
    for folder in (extended.folder / "best").iterdir():
        config = yaml.safe_load((folder / "config.yaml").read_text())
        name = json.loads((folder / "manifest.json").read_text())["trial"]
        assert (config["family"], config["model"]) == ("architecture", Sweep(cut).trial(name).config["model"])

    asha = extended.sweep("asha")
    run = extended.start("run", *WORDS, "scheduler.grace_period=1", "scheduler.reduction_factor=2", "name=asha")
    run.until(lambda: any("pair" in name for name in running_with_rows(asha)) and bool(trial_workers(run, RANK)))
    for pid in trial_workers(run, RANK):
        os.kill(pid, signal.SIGKILL)
    assert run.wait() == 0, run.output()
    ended = states(asha)
    assert ended.keys() == states(whole).keys()
    assert set(ended.values()) <= {"COMPLETE", "PRUNED"}
    assert "PRUNED" in ended.values()
    found, wanted = histories(asha), histories(whole)
    assert all(found[name] == wanted[name][: len(found[name])] for name in found), "whatever was lost on the way"
    errors = [path.read_text() for path in asha.glob("trials/*pair*/error.txt")]
    assert any("A worker of the trial was lost" in error for error in errors)
