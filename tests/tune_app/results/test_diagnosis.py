"""Each name for what goes wrong: provoked by rows, and, where a CPU can, by a training that really goes wrong."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planned import ray_trial, settings_of

sys.path.append(str(Path(__file__).parents[2] / "trainables"))
from tiny_trial import loss_of, tiny_dataset, tiny_settings, trial_config

from trainables.data import PackedDataset
from trainables.data.expand import class_masks, pack_class
from trainables.engine import Engine
from trainables.objective import Objective
from trainables.settings import trial_settings
from tune_app.results.diagnosis import HOPELESS, diagnose, hopeless, of_error
from tune_app.search.early_failure import Watch
from tune_app.search.scheduler import ResumableAsha, RunToTheEnd
from tune_app.settings.schema import DiagnosisSettings

DEFAULTS = DiagnosisSettings()
CLASSES = ("nuc", "pm")
EPOCHS = 60

DICE = Objective(metric="mean_dice")


def row(epoch: int, dice: float = 0.5, **other: Any) -> dict[str, Any]:
    """A healthy one."""
    healthy = {
        "epoch": epoch,
        "mean_dice": dice,
        "loss": 0.6,
        "lr": 1e-3,
        "grad_norm": 0.3,
        "weight_growth": 1.1,
        "skipped_share": 0.0,
        "grad_scale": 65536.0,
        "diagnosis": "",
    }
    for name in CLASSES:
        healthy |= {f"sigmoid/{name}/sd": 0.2, f"fg_pred/{name}": 0.1, f"fg_true/{name}": 0.08}
    return healthy | other


def codes(
    rows: Iterable[dict[str, Any]], settings: DiagnosisSettings = DEFAULTS, objective: Objective = DICE, **more: Any
) -> list[str]:
    return [one.code for one in diagnose(list(rows), settings, objective, epochs=EPOCHS, **more)]


def every(value: float, key: str = "fg_pred") -> dict[str, float]:
    return (
        {f"{key}/{name}": value for name in CLASSES}
        if "/" not in key
        else {key.replace("*", name): value for name in CLASSES}
    )


def rising(epochs: int = EPOCHS) -> list[dict[str, Any]]:
    return [row(e, 0.8 * (1 - 0.9**e), loss=0.9 * 0.98**e) for e in range(1, epochs + 1)]


# From rows.


def test_a_healthy_curve_has_none() -> None:
    assert codes(rising()) == []


def test_nothing_is_said_before_there_is_anything() -> None:
    assert codes([]) == []
    assert hopeless([row(1)], DEFAULTS) is None


def test_rows_of_an_older_version_that_lack_the_figures_are_healthy() -> None:
    assert codes({"epoch": e, "mean_dice": 0.1 * e} for e in range(1, 10)) == []


@pytest.mark.parametrize(
    ("loss", "said"), [(math.nan, "the loss is not finite at epoch 2"), (0.5, "a weight is not finite at epoch 2")]
)
def test_nan(loss: float, said: str) -> None:
    found = diagnose([row(1), row(2, math.nan, loss=loss, diagnosis="nan")], DEFAULTS, DICE, epochs=EPOCHS)
    assert [one.code for one in found] == ["nan"]
    assert said in found[0].evidence


def test_diverged_weights_are_hopeless_at_once() -> None:
    found = hopeless([row(1, weight_growth=101.0)], DEFAULTS)
    assert found is not None
    assert (found.code, found.epoch) == ("diverged", 1)
    assert "101 times" in found.evidence
    assert hopeless([row(1, weight_growth=99.0)], DEFAULTS) is None


def test_a_training_that_has_unlearnt_every_class_for_two_epochs_has_diverged() -> None:
    losses = [(0.8, 0.9), (0.5, 0.9), (0.8, 0.95), (0.6, 0.9), (0.85, 0.9), (0.8, 0.92)]
    rows = [row(e, **{"loss/nuc": nuc, "loss/pm": pm}) for e, (nuc, pm) in enumerate(losses, start=1)]
    (found,) = diagnose(rows, DEFAULTS, DICE, epochs=EPOCHS)
    assert (found.code, found.epoch) == ("diverged", 6)
    assert "nuc at 0.8, after 0.5" in found.evidence
    assert codes(rows[:5]) == []
    one_lives = [{**r, "loss/pm": 0.89} if r["epoch"] == 6 else r for r in rows]
    assert codes(one_lives) == []
    absent = [{**r, "loss/pm": math.nan} for r in rows]
    assert codes(absent) == ["diverged"], "a class that is annotated nowhere says nothing"


def test_the_scale_of_the_loss_says_nothing() -> None:
    """Weights that follow counts multiply it: three published configurations, on rarer classes, from 1.8 to 6."""
    rows = [row(e, 0.3 + e / 100, loss=1.8 if e == 1 else 6e9, **every(0.9 - e / 100, "loss")) for e in range(1, 9)]
    assert codes(rows) == []
    assert codes({**r, "loss": r["loss"] / 1e12} for r in rows) == []


def test_what_was_never_learnt_is_not_unlearnt() -> None:
    rows = [row(e, **every(0.9 if e == 1 else 0.91, "loss")) for e in range(1, 9)]
    assert codes(rows) == []


def test_an_output_that_is_the_same_everywhere_has_collapsed() -> None:
    flat = every(1e-6, "sigmoid/*/sd")
    assert codes([row(1, **flat), row(2, **flat)]) == []
    assert codes([row(1, **flat), row(2, **flat), row(3, **flat)]) == ["collapsed"]
    one_lives = flat | {"sigmoid/pm/sd": 0.1}
    assert codes([row(e, **one_lives) for e in range(1, 4)]) == []


@pytest.mark.parametrize(("predicted", "collapsed"), [(0.0, True), (0.0005, True), (0.01, False), (0.9, False)])
def test_foreground_far_from_the_truth_in_every_class(predicted: float, collapsed: bool) -> None:
    rows = [row(e, **every(predicted)) for e in range(1, 4)]
    assert ("collapsed" in codes(rows)) == collapsed


def test_what_is_predicted_at_half_says_nothing_where_thresholds_are_searched() -> None:
    rows = [row(e, **every(0.0), best_calibrated_recall=0.5) for e in range(1, 9)]
    assert codes(rows) == []
    assert codes([{**r, **every(1e-6, "sigmoid/*/sd")} for r in rows]) == ["collapsed"], "the same everywhere"


def test_foreground_predicted_everywhere_where_there_is_hardly_any() -> None:
    rows = [row(e, **every(0.9), **every(0.005, "fg_true")) for e in range(1, 4)]
    assert codes(rows) == ["collapsed"]


def binary_row(epoch: int, **other: Any) -> dict[str, Any]:
    """A healthy one of a task of one class that is rare."""
    one = {"fg_pred": 0.02, "fg_true": 0.019, "mean_p": 0.03, "var_p": 0.004, "spread_p": 0.14, "f1": 0.1 * epoch}
    classes = {"sigmoid/nuc/sd": 1e-6, "fg_pred/nuc": 0.02, "fg_true/nuc": 0.019}
    return {k: v for k, v in row(epoch).items() if "/" not in k} | classes | one | other


def of_binary(**other: Any) -> list[str]:
    rows = [binary_row(e, **other) for e in range(1, 4)]
    assert diagnose(rows[:2], DEFAULTS, F1, epochs=EPOCHS) == []
    return [str(one) for one in diagnose(rows, DEFAULTS, F1, epochs=EPOCHS)]


F1 = Objective(metric="f1")


@pytest.mark.parametrize("p", [1e-6, 0.004, 0.019, 0.3, 0.5, 0.957, 0.9999])
def test_an_output_is_uniform_by_what_it_varies_of_what_it_could_at_any_level(p: float) -> None:
    """Of a class of 1.9 % p is small everywhere: that alone is not uniform."""
    most = p * (1 - p)
    deviation = math.sqrt(5e-5 * most)
    (told,) = of_binary(mean_p=p, var_p=5e-5 * most, spread_p=5e-5)
    assert told == f"uniform_output: the output is {p:.3g} ± {deviation:.1g} everywhere, for 3 epochs"
    rows = [binary_row(e, mean_p=p, var_p=0.0, spread_p=0.0) for e in range(1, 4)]
    found = hopeless(rows, DEFAULTS)
    assert found is not None
    assert found.code == "uniform_output"
    assert of_binary(mean_p=p, var_p=2e-4 * most, spread_p=2e-4) == []
    for scale in (1e-9, 1e9):  # of the loss
        assert hopeless([{**r, "loss": scale, "val_loss": scale} for r in rows], DEFAULTS) == found


def test_an_output_that_begins_to_vary_is_not_uniform() -> None:
    """Ten steps an epoch: the statistics of batch norm are still near those of no training."""
    spreads = (2e-6, 5e-6, 1.1e-5, 2.4e-5, 5.4e-5, 9e-4)
    rows = [binary_row(e, mean_p=0.035, var_p=0.03 * s, spread_p=s) for e, s in enumerate(spreads, start=1)]
    assert hopeless(rows, DEFAULTS) is None
    assert codes(rows, objective=F1) == []
    stuck = [*rows[:3], *(binary_row(e, mean_p=0.035, var_p=4e-7, spread_p=1.2e-5) for e in range(4, 7))]
    found = hopeless(stuck, DEFAULTS)
    assert found is not None
    assert (found.code, found.epoch) == ("uniform_output", 6)


@pytest.mark.parametrize(
    ("predicted", "true", "told"),
    [
        (0.9565, 0.609, "predicts 95.7% foreground, labels 60.9%, for 3 epochs"),  # as published: v1
        (0.9988, 0.609, "predicts 99.9% foreground, labels 60.9%, for 3 epochs"),
        (1.0, 0.609, "predicts 100.0% foreground, labels 60.9%, for 3 epochs"),
        (0.11, 0.609, "predicts 11.0% foreground, labels 60.9%, for 3 epochs"),
        (0.3, 0.019, "predicts 30.0% foreground, labels 1.9%, for 3 epochs"),
        (0.0, 0.019, "predicts 0.0% foreground, labels 1.9%, for 3 epochs"),
        (0.8, 0.609, ""),
        (0.3, 0.609, ""),
        (0.1, 0.019, ""),
        (0.5, 0.0, ""),
    ],
)
def test_foreground_far_from_the_labels_has_a_name_and_is_not_stopped(predicted: float, true: float, told: str) -> None:
    both = {"fg_pred": predicted, "fg_true": true, "fg_pred/nuc": predicted, "fg_true/nuc": true}
    assert of_binary(**both) == ([f"foreground_collapse: {told}"] if told else [])
    assert hopeless([binary_row(e, **both) for e in range(1, 9)], DEFAULTS) is None, "a threshold may mend it"
    assert of_binary(**both, best_calibrated_f1=0.5) == []


def test_overflow_in_the_first_epoch_is_the_scale_being_found() -> None:
    assert codes([row(1, skipped_share=0.5), row(2), row(3)]) == []
    rows = [row(1), row(2, skipped_share=0.2), row(3, skipped_share=0.3, grad_scale=2.0)]
    found = diagnose(rows, DEFAULTS, DICE, epochs=EPOCHS)
    assert [(one.code, one.epoch) for one in found] == [("amp_overflow", 3)]
    assert "30%" in found[0].evidence
    assert "scale 2" in found[0].evidence


def labels(epoch: int, share: float, support: float = 5.0) -> dict[str, Any]:
    """A row of a task with one label for each sample."""
    shares = {"predicted_share/nuc": share, "predicted_share/pm": 1 - share}
    return {"epoch": epoch, "loss": 1.0, "diagnosis": "", **shares, "support/nuc": 9.0, "support/pm": support}


def test_predictions_that_are_all_one_class_are_named_with_it() -> None:
    rows = [labels(1, 0.9), *(labels(e, 1.0) for e in range(2, 5))]
    (found,) = diagnose(rows, DEFAULTS, DICE, epochs=EPOCHS)
    assert (found.code, found.epoch, found.hopeless) == ("one_class", 4, False)
    assert found.evidence.startswith("all predictions are nuc, for 3 epochs")
    assert codes(rows[:3]) == []
    assert codes([labels(e, float(e % 2)) for e in range(1, 9)]) == [], "it moves from class to class"
    assert codes([labels(e, 1.0, support=0.0) for e in range(1, 9)]) == [], "there is nothing else"


def test_a_class_that_is_there_and_never_predicted_is_dead() -> None:
    rows = [row(e, **{"fg_pred/pm": 0.0}) for e in range(1, 6)]
    assert codes(rows) == ["dead_class"]
    assert codes(rows[:4]) == []
    absent = [{**r, "fg_true/pm": 0.0} for r in rows]
    assert codes(absent) == [], "a class without a voxel cannot be found"


def test_late_degradation() -> None:
    rows = [row(1, 0.4), row(2, 0.7), *(row(e, 0.55) for e in range(3, 8))]
    found = diagnose(rows, DEFAULTS, DICE, epochs=EPOCHS)
    assert [(one.code, one.epoch) for one in found] == [("late_degradation", 7)]
    assert "0.7000 at epoch 2" in found[0].evidence
    assert codes([*rows[:4], row(5, 0.65), *rows[5:]]) == [], "it has been nearly as good lately"


def test_plateau_is_no_name_for_the_end_of_a_schedule() -> None:
    flat = [row(e, 0.5 + 1e-5 * e) for e in range(1, 12)]
    assert codes(flat) == ["plateau"]
    assert codes(flat[:10]) == []
    cooled = [{**r, "lr": 1e-3 if r["epoch"] < 5 else 1e-5} for r in flat]
    assert codes(cooled) == []


def test_progress_is_that_of_the_figure_that_ranks() -> None:
    """F1 of a task of one class, a loss that is minimised, the Dice of a class: mean Dice is in none of the rows."""

    def told(objective: Objective, *figures: float) -> str:
        rows = [{k: v for k, v in row(e).items() if k != "mean_dice"} for e in range(1, len(figures) + 1)]
        rows = [r | {objective.metric: figure} for r, figure in zip(rows, figures, strict=True)]
        return "; ".join(map(str, diagnose(rows, DEFAULTS, objective, epochs=EPOCHS)))

    f1, loss = Objective(metric="f1"), Objective(metric="val_loss", mode="min")
    lost = "0.5500, and 0.7000 at epoch 2; 0.1500 above the last 5 epochs"
    assert told(f1, 0.4, 0.7, *[0.55] * 5) == f"late_degradation: f1 {lost}"
    assert told(Objective(metric="dice/nuc"), 0.4, 0.7, *[0.55] * 5) == f"late_degradation: Dice nuc {lost}"
    found = told(loss, 0.9, 0.4, *[0.7] * 5)
    assert found == "late_degradation: val loss 0.7000, and 0.4000 at epoch 2; 0.3000 below the last 5 epochs"
    assert told(loss, 0.4, *[0.3 - 0.01 * e for e in range(6)]) == "", "it falls, as it should"
    assert told(loss, *[0.7] * 11) == "plateau: val loss has fallen by 0.0000 in 10 epochs, at a learning rate of 0.001"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory"),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "out_of_memory"),
        ("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.", "out_of_memory"),
        ("ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.", "lost_worker"),
        ("ray.exceptions.NodeDiedError: The node died", "lost_worker"),
        (
            "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Some common causes: "
            "(1) the process was killed by the OOM killer due to high memory usage",
            "lost_worker",
        ),
        ("2 worker(s) were killed due to the node running low on memory. ", "out_of_memory"),
        ("ValueError: loss.params.p=-1", "error"),
    ],
)
def test_errors_have_names(error: str, code: str) -> None:
    text = f"Failure # 1 (occurred at 2026-11-21)\nTraceback (most recent call last):\n{error}\n"
    found = of_error(text, epoch=4)
    assert (found.code, found.epoch) == (code, 4)
    assert found.evidence.startswith(error.strip()[:60])
    assert len(found.evidence) <= 200
    assert codes([row(1)], error=text) == [code]


def test_an_error_of_setting_up_a_trial_is_no_lost_worker() -> None:
    died = "The actor died because of an error raised in its creation task, ray::SegmentationTrial.__init__() (pid=7)\n"
    assert str(of_error(f"Failure # 1\n{died}RuntimeError: can't start new thread\n", 0)).startswith("error: Runtime")
    lost = "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task."
    assert of_error(f"Failure # 1\n{died}{lost}\n", 0).code == "lost_worker"


def test_each_code_is_told_once_at_its_first_epoch() -> None:
    rows = [row(e, **{"fg_pred/pm": 0.0}) for e in range(1, 10)]
    assert [(one.code, one.epoch) for one in diagnose(rows, DEFAULTS, DICE, epochs=EPOCHS)] == [("dead_class", 5)]


def test_thresholds_are_settings() -> None:
    settings = settings_of("diagnosis.dead_epochs=2", "diagnosis.collapsed_epochs=9").diagnosis
    assert codes([row(e, **{"fg_pred/pm": 0.0}) for e in range(1, 3)], settings) == ["dead_class"]


# The watch, and the schedulers that ask it.


def scheduler_of(kind: str, watch: Watch) -> Any:
    if kind == "none":
        return RunToTheEnd(metric="mean_dice", watch=watch)
    return ResumableAsha(objective=DICE, max_epochs=9, grace_period=5, reduction_factor=4, watch=watch)


@pytest.mark.parametrize("kind", ["none", "asha"])
def test_a_hopeless_trial_is_stopped_and_a_healthy_one_goes_on(kind: str, tmp_path: Path) -> None:
    watch = Watch(DEFAULTS, tmp_path)
    scheduler = scheduler_of(kind, watch)
    bad, good = ray_trial(tmp_path, "0000_bad"), ray_trial(tmp_path, "0001_good")
    flat = every(1e-6, "sigmoid/*/sd")
    decisions = [scheduler.on_trial_result(None, bad, row(e, **flat)) for e in range(1, 4)]
    assert decisions == ["CONTINUE", "CONTINUE", "STOP"]
    assert all(scheduler.on_trial_result(None, good, row(e)) == "CONTINUE" for e in range(1, 4))
    assert watch.verdicts == {"0000_bad": "collapsed"}
    scheduler.on_trial_complete(None, good, row(9))
    assert watch._courses == {}, "nothing is kept of trials that have ended"


def test_a_restarted_driver_remembers_the_epochs_before(tmp_path: Path) -> None:
    flat = every(1e-6, "sigmoid/*/sd")
    (tmp_path / "0000_bad").mkdir()
    lines = [json.dumps(row(e, **flat)) for e in range(1, 4)]
    (tmp_path / "0000_bad" / "history.jsonl").write_text("\n".join(lines))
    assert Watch(DEFAULTS, tmp_path).is_hopeless("0000_bad", row(3, **flat))
    assert not Watch(DEFAULTS, tmp_path / "none").is_hopeless("0000_bad", row(3, **flat))


def test_stopping_can_be_left_off(tmp_path: Path) -> None:
    watch = Watch(replace(DEFAULTS, stop_hopeless=False), tmp_path)
    assert not watch.is_hopeless("a", row(1, weight_growth=1e9))
    assert set(HOPELESS) == {"diverged", "collapsed", "uniform_output"}


# From trainings that really go wrong.


@pytest.fixture(scope="module")
def blobs() -> PackedDataset:
    return tiny_dataset(tiny_settings().data)


def trained(dataset: PackedDataset, epochs: int, loss: dict[str, Any] | None = None, **trainer: Any) -> list[dict]:
    engine = engine_of(dataset, epochs, **trainer)
    if loss:
        engine.reset(loss, 0, engine.settings.trainer)
    return [engine.run_epoch() for _ in range(epochs)]


def test_a_learning_rate_of_a_million_diverges_in_the_first_epoch(blobs: PackedDataset) -> None:
    rows = trained(blobs, 1, lr=1e6)
    assert {one.code for one in diagnose(rows, DEFAULTS, DICE, epochs=4)} & {"diverged", "nan"}
    if rows[0]["diagnosis"] != "nan":
        assert hopeless(rows, DEFAULTS) is not None


def test_an_infinite_weight_is_nan(blobs: PackedDataset) -> None:
    engine = Engine(tiny_settings(), loss_of("static"), 0, dataset=blobs)
    with torch.no_grad():
        engine.optim.parameters[0].fill_(math.inf)
    rows = [engine.run_epoch()]
    assert next(one.code for one in diagnose(rows, DEFAULTS, DICE, epochs=4)) == "nan"


def engine_of(dataset: PackedDataset, epochs: int, **trainer: Any) -> Engine:
    settings = trial_settings(trial_config(trainer={"epochs": epochs, "iterations_per_epoch": 6, **trainer}))
    return Engine(settings, loss_of("static"), 0, dataset=dataset)


@pytest.mark.parametrize(("stuck", "code"), [(True, "uniform_output"), (False, None)])
def test_a_network_whose_last_layer_is_dead_is_stopped_as_uniform(
    blobs: PackedDataset, stuck: bool, code: str | None
) -> None:
    """At p = .047 everywhere, which no threshold mends; the same training with a last layer is not stopped."""
    crops = []
    for crop in blobs.crops:
        labels = np.zeros((1, *crop.shape), np.uint8)
        pack_class(labels, 0, 1, *class_masks(crop.labels, 0, 3))
        rows = {name: getattr(crop, name)[:1] for name in ("positive", "known", "positions")}
        crops.append(replace(crop, labels=labels, **rows))
    dataset = replace(blobs, classes=("dark",), crops=tuple(crops), settings=replace(blobs.settings, classes=["dark"]))
    loss = {"name": "static", "params": {"weights": [1.0]}}
    trainer = {"epochs": 3, "iterations_per_epoch": 6, "lr": 1e-12 if stuck else 1e-2}
    config = trial_config(trainer=trainer, data={"classes": ["dark"]}, task={"name": "binary"}, loss=loss)
    engine = Engine(trial_settings(config), loss, 0, dataset=dataset)
    if stuck:
        with torch.no_grad():
            weight, bias = engine.optim.parameters[-2:]
            weight.zero_()
            bias.fill_(-3.0)
    found = hopeless([engine.run_epoch() for _ in range(3)], DEFAULTS)
    assert (found.code if found else None) == code
    assert not found or found.evidence.startswith("the output is 0.0474 ± ")


def taught_background(dataset: PackedDataset, classes: Iterable[int]) -> PackedDataset:
    """The data with nothing but background of these of the three classes in training, all else as it was."""
    mask = np.uint8(~sum(1 << c for c in classes) & 0xFF)
    crops = [replace(c, labels=c.labels & mask) if c.side == "train" else c for c in dataset.crops]
    return replace(dataset, crops=tuple(crops))


def test_a_learning_rate_of_ten_collapses_the_output(blobs: PackedDataset) -> None:
    rows = trained(blobs, 6, lr=10.0)
    settings = replace(DEFAULTS, diverged_growth=math.inf)
    found = [one for one in diagnose(rows, settings, DICE, epochs=6) if one.code == "collapsed"]
    assert "varies by" in found[0].evidence
    stopped_at = next(count for count in range(1, 7) if hopeless(rows[:count], settings))
    assert stopped_at == found[0].epoch < 6


def test_nothing_but_background_in_training_leaves_classes_dead(blobs: PackedDataset) -> None:
    rows = trained(taught_background(blobs, range(3)), 8, lr=3e-2)
    assert "dead_class" in [one.code for one in diagnose(rows, DEFAULTS, DICE, epochs=8)]


def test_a_class_that_is_background_in_training_dies_alone(blobs: PackedDataset) -> None:
    rows = trained(taught_background(blobs, [1]), 9, lr=3e-2)
    found = diagnose(rows, DEFAULTS, DICE, epochs=9)
    assert [one.code for one in found] == ["dead_class"]
    assert found[0].evidence.startswith("mid:")


def exchanged(dataset: PackedDataset) -> PackedDataset:
    """The data with the first class taught as the third, and the third as the first."""
    crops = []
    for c in dataset.crops:
        first, third = c.labels & 1, c.labels >> 2 & 1
        crops.append(replace(c, labels=(c.labels & np.uint8(0b11111010)) | first << 2 | third))
    return replace(dataset, crops=tuple(crops))


def test_a_model_that_unlearns_has_degraded(blobs: PackedDataset) -> None:
    engine = engine_of(blobs, 14, lr=3e-2)
    rows = [engine.run_epoch() for _ in range(5)]
    engine.sampler = type(engine.sampler)(exchanged(blobs), side="train", batch_size=2, seed=0)
    rows += [engine.run_epoch() for _ in range(9)]
    assert rows[4]["mean_dice"] > 0.6, "it had learnt something"
    assert [one.code for one in diagnose(rows, DEFAULTS, DICE, epochs=14)] == ["late_degradation"]


def test_a_learning_rate_of_nothing_is_a_plateau(blobs: PackedDataset) -> None:
    rows = trained(blobs, 14, lr=1e-12, pct_start=0.9)
    found = [one.code for one in diagnose(rows, replace(DEFAULTS, collapsed_epochs=99), DICE, epochs=14)]
    assert found[:1] == ["plateau"] or set(found) == {"plateau", "dead_class"}


def test_a_scale_that_never_fits_is_an_overflow(blobs: PackedDataset) -> None:
    """On the CPU with a scale beyond float32, as float16 does it on a card."""
    engine = engine_of(blobs, 4)
    engine.optim.scaler = torch.amp.GradScaler("cpu", init_scale=math.inf)
    rows = [engine.run_epoch() for _ in range(3)]
    assert rows[-1]["skipped_share"] == 1
    assert "amp_overflow" in [one.code for one in diagnose(rows, DEFAULTS, DICE, epochs=4)]


def test_memory_that_is_not_there_has_its_name() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert of_error(f"RuntimeError: {caught.value}", 1).code == "out_of_memory"
