"""What the sweep tells Prometheus, without Ray: the gauges are stand-ins."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from trainables.objective import Objective
from tune_app.ray_adapters import gauges
from tune_app.results.trial import PAUSED

DICE = Objective(metric="mean_dice")


class Recorded:
    """Stands where Ray's Gauge would; keeps what was set, until a test forgets it as Ray does."""

    values: dict[tuple, float] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.keys = name, set(tag_keys)

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == self.keys, "Ray refuses other tags"
        self.values[(self.name, *tags.values())] = value


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(gauges, "Gauge", Recorded)
    monkeypatch.setattr(Recorded, "values", {})
    return Recorded.values


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize")


def begin(study: optuna.Study, *curve: float, state: optuna.trial.TrialState | None = None) -> None:
    trial = study.ask()
    for epoch, value in enumerate(curve, start=1):
        trial.report(value, epoch)
    if state is not None:
        study.tell(trial, curve[-1] if state == optuna.trial.TrialState.COMPLETE else None, state=state)


def trial(name: str, status: str = "RUNNING", **params: object) -> SimpleNamespace:
    config = {"run": {"name": name}, "loss": {"name": "seesaw", "params": params}}
    return SimpleNamespace(config=config, status=status)


def of_trials(recorded: dict[tuple, float]) -> set[str]:
    """The trials that some gauge names."""
    return {key[2] for key in recorded if len(key) == 4}


def test_rows_become_gauges_with_the_trial_in_the_tags(recorded, study):
    callback = gauges.SweepGauges("s", study, objective=DICE, planned=2, gpus=0.5)
    row = {
        "mean_dice": 0.4,
        "best_mean_dice": 0.5,
        "dice/nuc": 0.8,
        "dice/pm": math.nan,
        "epoch": 3,
        "seconds_epoch": 7200.0,
        "note": "x",
        "gpu_memory_mb": 812.5,
        "patches_per_s": 90.0,
    }
    callback.on_trial_result(1, [], trial("0001_a", p=0.8123456, q=2.0), row)
    callback.on_trial_result(2, [], trial("0002_b", p=1.0), {"mean_dice": 0.3, "epoch": 1, "seconds_epoch": 3600.0})
    assert recorded == {
        ("tune_app_score", "s", "0001_a", "seesaw p=0.8123 q=2"): 0.4,
        ("tune_app_trial_best_score", "s", "0001_a", "seesaw p=0.8123 q=2"): 0.5,
        ("tune_app_epoch", "s", "0001_a", "seesaw p=0.8123 q=2"): 3,
        ("tune_app_gpu_memory_mb", "s", "0001_a", "seesaw p=0.8123 q=2"): 812.5,
        ("tune_app_patches_per_s", "s", "0001_a", "seesaw p=0.8123 q=2"): 90.0,
        ("tune_app_score", "s", "0002_b", "seesaw p=1"): 0.3,
        ("tune_app_epoch", "s", "0002_b", "seesaw p=1"): 1,
        ("tune_app_dice", "s", "0001_a", "nuc"): 0.8,
        ("tune_app_best_score", "s"): 0.4,
        ("tune_app_gpu_hours", "s"): 1.5,
    }


def test_every_tag_is_one_that_ray_takes(recorded, study):
    """Ray's own gauges raise UnicodeEncodeError for others, which would end the sweep."""
    callback = gauges.SweepGauges("Läufe", study, objective=DICE, planned=1, gpus=0)
    callback.on_trial_result(1, [], trial("0000_ä", p="ß"), {"mean_dice": 0.4, "dice/drüsen": 0.8, "epoch": 1})
    callback.on_step_end(1, [])
    assert recorded["tune_app_dice", r"L\xe4ufe", r"0000_\xe4", r"dr\xfcsen"] == 0.8
    assert all("".join(key).isascii() for key in recorded)


def test_what_is_still_true_is_set_again_and_again(recorded, study, monkeypatch):
    """Ray forgets a gauge twenty seconds after it was set, and an epoch may take minutes."""
    clock = [100.0]
    monkeypatch.setattr(gauges.time, "monotonic", lambda: clock[0])
    callback = gauges.SweepGauges("s", study, objective=DICE, planned=2, gpus=1)
    callback.on_trial_result(1, [], trial("a"), {"mean_dice": 0.4, "epoch": 1, "dice/nuc": 0.7, "seconds_epoch": 60})
    callback.on_step_end(1, [trial("a")])
    before = dict(recorded)
    recorded.clear()
    clock[0] += gauges.BEAT_S / 2
    callback.on_step_end(2, [trial("a")])
    assert recorded == {}, "not at every step of Tune, which takes milliseconds"
    clock[0] += gauges.BEAT_S / 2
    callback.on_step_end(3, [trial("a")])
    assert recorded == before


@pytest.mark.parametrize("end", ["on_trial_complete", "on_trial_error"])
def test_a_trial_that_has_ended_is_set_no_more_and_the_sweep_goes_on(recorded, study, end):
    callback = gauges.SweepGauges("s", study, objective=DICE, planned=2, gpus=1)
    for name in ("a", "b"):
        callback.on_trial_result(1, [], trial(name), {"mean_dice": 0.4, "epoch": 1, "dice/nuc": 0.7})
    getattr(callback, end)(2, [], trial("a"))
    assert of_trials(recorded) == {"a", "b"}, "its last row is exported all the same"
    recorded.clear()
    callback.on_step_end(2, [trial("a", "TERMINATED"), trial("b")])
    assert of_trials(recorded) == {"b"}
    assert recorded["tune_app_best_score", "s"] == 0.4


def test_trials_are_counted_by_state(recorded, study):
    state = optuna.trial.TrialState
    begin(study, 0.3, 0.5, state=state.COMPLETE)
    begin(study, 0.2, state=state.PRUNED)
    begin(study, math.nan, state=state.FAIL)
    for _ in range(4):
        begin(study, 0.1)
    paused = study.get_trials()[-1]
    study._storage.set_trial_user_attr(paused._trial_id, PAUSED, 1)
    callback = gauges.SweepGauges("s", study, objective=DICE, planned=10, gpus=0)
    callback.on_step_end(1, [trial("d"), trial("e"), trial("f", "PENDING"), trial("a", "TERMINATED")])
    counted = {key[2]: value for key, value in recorded.items() if key[0] == "tune_app_trials"}
    assert counted == {
        "to come": 3,
        "waiting": 1,
        "running": 2,
        "paused": 1,
        "finished": 1,
        "stopped early": 1,
        "failed": 1,
    }


def test_a_state_that_holds_no_trial_is_zero_and_not_the_last_number(recorded, study):
    callback = gauges.SweepGauges("s", study, objective=DICE, planned=1, gpus=0)
    begin(study, 0.3)
    callback.on_step_end(1, [trial("a")])
    assert recorded["tune_app_trials", "s", "running"] == 1
    study.tell(0, 0.3)
    callback.on_experiment_end([trial("a", "TERMINATED")])
    assert recorded["tune_app_trials", "s", "running"] == 0
    assert recorded["tune_app_trials", "s", "finished"] == 1


def test_a_resumed_sweep_goes_on_from_its_best_and_its_hours(recorded, study):
    best = {"mean_dice": 0.6}
    callback = gauges.SweepGauges("s", study, objective=DICE, planned=4, gpus=2, gpu_hours=1.25, best=best)
    callback.on_step_end(1, [])
    assert recorded["tune_app_best_score", "s"] == 0.6
    callback.on_trial_result(1, [], trial("a"), {"mean_dice": 0.4, "epoch": 1, "seconds_epoch": 900.0})
    assert recorded["tune_app_best_score", "s"] == 0.6
    assert recorded["tune_app_gpu_hours", "s"] == 1.75


def test_hours_are_read_from_histories_damaged_ones_too(tmp_path: Path):
    lines = [json.dumps({"epoch": 1, "seconds_epoch": 1800}), json.dumps({"epoch": 2, "seconds_epoch": None}), "3"]
    (tmp_path / "a").write_text("\n".join([*lines, '{"epoch": 3, "seco']))
    (tmp_path / "b").write_text(json.dumps({"epoch": 1, "seconds_epoch": 900.0}) + "\n")
    assert gauges.hours_in([tmp_path / "a", tmp_path / "b", tmp_path / "missing"]) == 0.75


def test_a_row_without_figures_sets_no_score(recorded, study):
    callback = gauges.SweepGauges("s", study, objective=DICE, planned=1, gpus=1)
    callback.on_trial_result(1, [], trial("a"), {"mean_dice": math.nan, "done": True})
    assert recorded == {("tune_app_gpu_hours", "s"): 0.0}


def test_parameters_are_short():
    weights = trial("a", weights=[0.123456, 2.0], mode="soft", clip=None).config
    assert gauges.written(weights) == "seesaw weights=[0.1235,2] mode=soft clip=None"
    assert gauges.written(None) == ""
