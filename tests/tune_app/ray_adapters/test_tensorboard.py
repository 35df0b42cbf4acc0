"""What TensorBoard shows of a sweep's trials, asked of its own reader and of its server."""

from __future__ import annotations

import io
import json
import math
import time
import urllib.request
from typing import Any

import numpy as np
import optuna
import pytest
from matplotlib.image import imread
from planned import ray_trial, study_of_one
from report_sweep import write_prediction
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainables.trial_folder import TrialFolder
from tune_app.ray_adapters.loggers import InSweepFolder
from tune_app.ray_adapters.tensorboard import TensorBoardLogger, scalars

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PATIENCE_S = 240.0
CLASSES = ("nuc", "pm")


def row(epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "training_iteration": epoch,
        "mean_dice": epoch / 7,
        "dice/nuc": np.float32(0.5),
        "dice/pm": math.nan,
        "diagnosis": "",
        "done": epoch == 3,
        "config": {"seed": 1},
        "pid": 5,
        "timestamp": 6,
        "time_total_s": 7.0,
        "time_this_iter_s": 7.0,
        "time_started": 8.0,
        "loss": 2.0,
        "loss/nuc": 1.0,
        "val_loss": 3.0,
        "weight/nuc": 1.5,
        "sigmoid/nuc/sd": 0.1,
        "seconds_epoch": 4.0,
        "lr": 0.01,
        "odd": np.int64(3),
    }


def test_figures_are_in_groups_by_their_meaning():
    assert scalars(row(1)) == pytest.approx(
        {
            "dice/mean": 1 / 7,
            "dice/nuc": 0.5,
            "loss/train": 2.0,
            "loss/nuc": 1.0,
            "loss/validation": 3.0,
            "weight/nuc": 1.5,
            "sigmoid/nuc/sd": 0.1,
            "time/seconds_epoch": 4.0,
            "optimizer/lr": 0.01,
            "other/odd": 3.0,
        }
    )


def test_a_row_can_be_read_before_the_next(tmp_path):
    """Also by a TensorBoard that is open while the driver is killed."""
    logger, trial = InSweepFolder(TensorBoardLogger(study_of_one())), ray_trial(tmp_path)
    logger.log_trial_result(0, trial, row(1))
    events = EventAccumulator(str(tmp_path / "0000_arm")).Reload()
    assert [event.step for event in events.Scalars("dice/mean")] == [1]
    assert any("session_start" in tag for tag in events.summary_metadata), "HPARAMS knows it, too"
    logger.log_trial_end(trial)


def test_updates_of_class_counts_are_shown_at_their_steps_and_each_of_them_once(tmp_path):
    """Also where another driver goes on, which reads the same file."""
    trial = ray_trial(tmp_path)
    folder = TrialFolder(trial.config["run"]["dir"])
    for epoch in (1, 2, 3):
        steps = (epoch * 100 - 50, epoch * 100)
        shares = [{"nuc": step / 1000, "pm": math.nan} for step in steps]
        folder.append_count_updates(
            {"epoch": epoch, "step": step, "class_frequency": share, "logit_adjustment": {"nuc": -0.5, "pm": 0.5}}
            for step, share in zip(steps, shares)
        )
    found = []
    for epochs in ((1, 2), (3,)):
        logger = InSweepFolder(TensorBoardLogger(study_of_one()))
        for epoch in epochs:
            logger.log_trial_result(0, trial, row(epoch))
        logger.log_trial_end(trial)
        events = EventAccumulator(str(folder.path)).Reload()
        found += [(event.step, event.value) for event in events.Scalars("class_frequency/nuc")]
        for path in folder.path.glob("events.*"):  # named by the second, so that the next would be the same file
            path.unlink()
    assert found == [(step, pytest.approx(step / 1000)) for step in (50, 100, 150, 200, 250, 300)]
    assert [event.value for event in events.Scalars("logit_adjustment/pm")] == [0.5] * 2
    tags = set(events.Tags()["scalars"]) - set(scalars(row(3)))
    assert tags == {"class_frequency/nuc", "logit_adjustment/nuc", "logit_adjustment/pm"}, "pm was not annotated"
    assert [event.step for event in events.Scalars("dice/mean")] == [3], "of epochs, as ever"


def test_pictures_come_while_the_trial_runs_and_each_of_them_once(tmp_path):
    logger, trial = InSweepFolder(TensorBoardLogger(study_of_one())), ray_trial(tmp_path)
    logger.log_trial_result(0, trial, row(1))
    write_prediction(tmp_path / "0000_arm", CLASSES, 32, patches=3)
    for epoch in (2, 3):
        logger.log_trial_result(0, trial, row(epoch))
    events = EventAccumulator(str(tmp_path / "0000_arm")).Reload()
    (shown,) = events.Images("predictions/best_epoch")
    assert shown.step == 1, "the epoch that the file names"
    image = imread(io.BytesIO(shown.encoded_image_string), format="png")
    assert image.shape[:2] == (shown.height, shown.width) == (3 * 192, 3 * 192)
    (tmp_path / "0000_arm" / "prediction.npz").write_bytes(b"damaged")
    logger.log_trial_end(trial)


def test_the_server_shows_searched_parameters_first_and_which_trial_failed(tmp_path):
    study, axis = study_of_one(p=0.25, q=2.0), optuna.distributions.FloatDistribution(0, 2)
    for seed, params in ((4, {"p": 0.5, "q": 1.0}), (5, {"tau": 1.0}), (5, {"tau": 0.5})):
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=params,
                distributions=dict.fromkeys(params, axis),
                user_attrs={"family": "seesaw" if "p" in params else "balanced_softmax", "preset": None, "seed": seed},
            )
        )
    logger = InSweepFolder(TensorBoardLogger(study))
    for number in range(4):
        trial = ray_trial(tmp_path, f"000{number}_arm")
        trial.config |= {"run": trial.config["run"] | {"number": number}, "trainer": {"lr": 0.1, "count_window": "2"}}
        logger.log_trial_result(0, trial, row(1))
        if number < 3:
            logger.log_trial_end(trial, failed=number == 1)

    server = program.TensorBoard()
    server.configure([None, "--logdir", str(tmp_path), "--port", "0", "--load_fast=false", "--reload_interval=1"])
    hparams = server.launch() + "data/plugin/hparams/"
    deadline = time.monotonic() + PATIENCE_S
    while len(groups := session_groups(hparams)) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert {name: group["hparams"].get("search/p") for name, group in groups.items()} == {
        "0000_arm": 0.25,
        "0001_arm": 0.5,
        "0002_arm": None,
        "0003_arm": None,
    }
    states = [group["sessions"][0]["status"].removeprefix("STATUS_") for group in groups.values()]
    assert states == ["SUCCESS", "FAILURE", "SUCCESS", "UNKNOWN"]
    names = [info["name"] for info in asked(hparams + "experiment", experimentName="")["hparamInfos"]]
    assert names[:5] == ["search/p", "search/q", "search/tau", "settings/family", "settings/seed"]
    assert set(names[5:]) == {"settings/loss.name", "settings/trainer.lr", "settings/trainer.count_window"}


def session_groups(hparams: str) -> dict[str, Any]:
    statuses = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    found = asked(hparams + "session_groups", experimentName="", allowedStatuses=statuses, colParams=[], sliceSize=99)
    return {group["name"]: group for group in found.get("sessionGroups", [])}


def asked(url: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)
