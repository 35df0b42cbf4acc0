"""The Tune trainable: what it writes, how it resumes a trial, and reuse of one actor for many trials."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_trial import CLASSES, loss_of, steady, tiny_dataset, trial_config
from volume_writer import write_small

from trainables import checkpoint, engine
from trainables.data.phantom import generate as phantom
from trainables.errors import CheckpointError
from trainables.inference import inference, load_program, save_program
from trainables.prediction import PREDICTION
from trainables.settings import trial_settings
from trainables.trial import SegmentationTrial, identity
from trainables.trial_folder import CHECKSUM, TrialFolder, first_epoch_share, is_intact, read_count_updates

NAN = float("nan")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch, tmp_path):
    """Data in memory, and Ray's default folder out of the home directory."""
    monkeypatch.setattr(engine, "open_packed", tiny_dataset)
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))


@pytest.fixture
def start(tmp_path):
    """Starts a trial in tmp_path/NAME, up to its first step; closes all of them at the end."""
    started = []

    def begin(name: str = "t", **sections) -> SegmentationTrial:
        started.append(SegmentationTrial(trial_config(tmp_path / name, **sections)))
        started[-1]._open_folder()
        return started[-1]

    yield begin
    for trial in started:
        trial.cleanup()


def run(trial: SegmentationTrial, epochs: int = 99) -> list[dict]:
    rows = []
    while len(rows) < epochs:
        rows.append(trial.step())
        if rows[-1]["done"]:
            break
    return rows


def report(folder: Path, rows: list[dict]) -> None:
    """What Ray's JSON logger leaves behind."""
    with (folder / "result.json").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def same(rows: list[dict], others: list[dict]) -> bool:
    return [steady(r) for r in rows] == [steady(r) for r in others]


def history(folder: Path) -> list[dict]:
    """The rows without their checksums."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert all(map(is_intact, lines))
    return [{key: value for key, value in json.loads(line).items() if key != CHECKSUM} for line in lines]


def test_a_process_bears_the_name_of_the_trial_that_it_trains(start, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("trainables.trial.setproctitle", titles.append)
    trial = start(run={"number": 0, "name": "0000_first", "dir": str(tmp_path / "t")})
    trial.step()
    trial.reset_config(trial_config(tmp_path / "u", run={"number": 1, "name": "0001_next", "dir": str(tmp_path / "u")}))
    trial.step()
    assert titles == ["ray::SegmentationTrial.train 0000_first", "ray::SegmentationTrial.train 0001_next"]


def test_a_trial_writes_its_folder(start, tmp_path):
    rows = run(start())
    folder = tmp_path / "t"
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["training_iteration"] for row in rows] == [1, 2, 3, 4]
    assert [row["done"] for row in rows] == [False, False, False, True]
    files = "config.json history.jsonl validation.npz prediction.npz last.pt previous.pt best.pt trial.log"
    assert {p.name for p in folder.iterdir()} == {*files.split(), "count_updates.jsonl"}
    assert same(
        history(folder), [{k: v for k, v in r.items() if k not in ("done", "training_iteration")} for r in rows]
    )
    assert json.loads((folder / "config.json").read_text())["loss"] == loss_of("seesaw")
    with np.load(folder / "validation.npz") as arrays:
        assert list(arrays["epochs"]) == [1, 2, 3, 4]
        assert list(arrays["classes"]) == list(CLASSES)
    log = (folder / "trial.log").read_text()
    assert "loss seesaw" in log
    assert "with 1 threads, not compiled" in log
    assert [f"epoch {e}/4: mean Dice {rows[e - 1]['mean_dice']:.4f}" in log for e in (1, 2, 3, 4)] == [True] * 4


def test_every_update_of_the_class_counts_is_recorded_once(start, tmp_path):
    """Three steps per epoch, an update after every second: of a checkpoint after epoch 2 epoch 3 is trained again."""
    expected = [(1, 2), (2, 4), (2, 6), (3, 8), (4, 10), (4, 12)]
    first = start(loss=loss_of("balanced_softmax"), trainer={"checkpoint_every": 2})
    run(first, epochs=3)
    first.cleanup()
    with (tmp_path / "t" / "count_updates.jsonl").open("a") as file:
        file.write('{"epoch": 4, "step": 10, "class_f')  # killed
    report(tmp_path / "t", [{"epoch": epoch} for epoch in (1, 2, 3)])
    trial = start(loss=loss_of("balanced_softmax"), trainer={"checkpoint_every": 2})
    run(trial)
    updates = [one for epoch in range(1, 5) for one in read_count_updates(tmp_path / "t", epoch)]
    assert [(one["epoch"], one["step"]) for one in updates] == expected
    assert len((tmp_path / "t" / "count_updates.jsonl").read_text().splitlines()) == len(expected)

    loss, last = trial._engine.loss, updates[-1]
    shares = (loss.positive_count / loss.known_count).tolist()
    assert list(last["class_frequency"].values()) == pytest.approx(shares, rel=1e-5)
    assert list(last["logit_adjustment"].values()) == pytest.approx(loss.shift.tolist(), rel=1e-5)
    assert list(last["class_weight"].values()) == pytest.approx(loss.weight.tolist(), rel=1e-5)
    assert list(last["class_weight"]) == list(CLASSES)
    assert abs(loss.shift).max() > 0

    trial.reset_config(trial_config(tmp_path / "u", trainer={"count_update_every": 100}))
    run(trial)
    assert read_count_updates(tmp_path / "u", 1) == [], "nothing of the trial before, and none where none is due"


def test_weights_of_every_second_epoch_stay_and_what_is_kept_may_change(start, tmp_path):
    first = start(trainer={"keep_checkpoint_every": 2})
    run(first, epochs=3)
    first.cleanup()
    kept = checkpoint.read(tmp_path / "t" / "epoch_0002.pt")
    assert (kept["epoch"], kept["classes"]) == (2, list(CLASSES))
    trial = start(trainer={"keep_checkpoint_every": 4})
    run(trial)
    assert sorted(p.name for p in (tmp_path / "t").glob("epoch_*")) == ["epoch_0002.pt", "epoch_0004.pt"]
    last, fourth = (checkpoint.read(tmp_path / "t" / name) for name in ("last.pt", "epoch_0004.pt"))
    assert all(torch.equal(fourth["model"][name], value) for name, value in last["engine"]["model"].items())
    assert not torch.equal(*(next(iter(state["model"].values())) for state in (kept, fourth)))


def test_the_first_epoch_notes_its_steps_while_it_lasts(start, tmp_path, monkeypatch):
    monkeypatch.setattr("trainables.trial_folder.NOTE_EVERY_S", 0.0)
    shares = []
    note_step = TrialFolder.note_step

    def noted(folder, step, steps):
        note_step(folder, step, steps)
        shares.append(first_epoch_share(folder.path))

    monkeypatch.setattr(TrialFolder, "note_step", noted)
    run(start(), epochs=2)
    assert shares == [0, 1 / 3, 2 / 3]
    assert not (tmp_path / "t" / "step.json").exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"step": 1}', '{"step": 1, "steps": 0}', '{"step": "x", "steps": 2}']
)
def test_a_damaged_note_of_steps_tells_nothing(tmp_path, content):
    assert first_epoch_share(tmp_path) == 0
    (tmp_path / "step.json").write_text(content)
    assert first_epoch_share(tmp_path) == 0


def test_best_pt_holds_the_weights_of_the_best_epoch(start, tmp_path):
    trial = start(trainer={"lr": 0.5})  # so large that the last epoch is not the best
    rows, states = [], []
    for _ in range(4):
        rows.append(trial.step())
        states.append({k: v.clone() for k, v in trial._engine.model.state_dict().items()})
    best = rows[-1]["best_epoch"]
    saved = checkpoint.read(tmp_path / "t" / "best.pt")
    assert (saved["epoch"], saved["mean_dice"]) == (best, max(row["mean_dice"] for row in rows))
    assert all(torch.equal(saved["model"][k], v) for k, v in states[best - 1].items())


def test_the_weights_of_an_epoch_that_is_named_are_kept(start, tmp_path):
    trial = start(trainer={"lr": 0.5, "keep_epoch": 2})
    states = []
    for _ in range(4):
        trial.step()
        states.append({k: v.clone() for k, v in trial._engine.model.state_dict().items()})
    saved = checkpoint.read(tmp_path / "t" / "best.pt")
    assert saved["epoch"] == 2
    assert all(torch.equal(value, states[1][name]) for name, value in saved["model"].items())
    assert int(np.load(tmp_path / "t" / "prediction.npz")["best_epoch"]) == 2


@pytest.mark.parametrize("reported", [0, 1, 2])
def test_a_killed_trial_goes_on_and_reports_every_row_once(start, tmp_path, reported):
    """Two epochs are in last.pt, Ray has logged 0, 1 or 2 of them."""
    expected = run(start("whole"))
    rows = run(start(), 2)
    report(tmp_path / "t", rows[:reported])
    again = start()
    assert again._engine.epoch == 2
    assert same(rows[:reported] + run(again), expected)
    assert same(history(tmp_path / "t"), history(tmp_path / "whole"))


def test_epochs_since_a_sparse_checkpoint_are_trained_again_but_not_reported_again(start, tmp_path):
    """checkpoint_every=2: after epoch 3 last.pt holds 2; Ray has logged 3; its line of epoch 4 was cut short."""
    sparse = {"trainer": {"checkpoint_every": 2}}
    expected = run(start("whole", **sparse))
    rows = run(start(**sparse), 3)
    report(tmp_path / "t", rows)
    with (tmp_path / "t" / "result.json").open("a") as file:
        file.write('{"epoch": 4, "mean_d')
    again = start(**sparse)
    assert again._engine.epoch == 2
    assert len(history(tmp_path / "t")) == 2  # the row ahead of the checkpoint is gone until it is trained again
    assert same(run(again), expected[3:])
    assert same(history(tmp_path / "t"), history(tmp_path / "whole"))


def test_a_checkpoint_cut_short_falls_back_and_says_so(start, tmp_path):
    expected = run(start("whole"))
    run(start(), 3)
    last = tmp_path / "t" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    again = start()
    assert again._engine.epoch == 2
    log = (tmp_path / "t" / "trial.log").read_text()
    assert "last.pt cannot be read" in log
    assert "previous.pt" in log
    assert same(run(again), expected)


def test_without_a_usable_checkpoint_it_starts_again_loudly(start, tmp_path):
    expected = run(start("whole"))
    run(start(), 2)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "t" / name).write_bytes(b"gone")
    again = start()
    assert again._engine.epoch == 0
    assert "STARTING AGAIN AT EPOCH 0" in (tmp_path / "t" / "trial.log").read_text()
    assert same(run(again), expected)
    assert same(history(tmp_path / "t"), history(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": loss_of("tversky")}, "loss was"),
        ({"trainer": {"epochs": 9}}, "trainer was"),
        ({"data": {"mirror": False}}, "data was"),
    ],
)
def test_another_configuration_is_refused_and_nothing_lost(start, tmp_path, change, words):
    run(start(), 1)
    before = (tmp_path / "t" / "last.pt").read_bytes()
    with pytest.raises(CheckpointError, match=words):
        start(**change)
    assert (tmp_path / "t" / "last.pt").read_bytes() == before
    assert len(history(tmp_path / "t")) == 1


def test_a_checkpoint_of_an_earlier_version_names_fewer_settings(start):
    run(start(), 1)
    assert start(model={"options": {}})._engine.epoch == 1
    with pytest.raises(CheckpointError, match="model was"):
        start(model={"options": {"norm": "instance"}})


EARLIEST = {"seed": 0, "loss": loss_of("seesaw"), "data": {"patch": [1, 64, 64]}, "model": {"depth": 3}, "trainer": {}}


def test_a_config_of_an_earlier_version_is_the_one_that_names_the_defaults():
    """As the driver writes it now, which names every section and setting."""
    objective = {"metric": "mean_dice", "mode": "max", "at_least": {}, "at_most": {}}
    now = {**EARLIEST, **asdict(trial_settings(EARLIEST)), "objective": objective}
    assert identity(EARLIEST) == identity(now)
    assert identity({"seed": 0, "loss": EARLIEST["loss"]}) == identity(
        {**now, **asdict(trial_settings({})), "objective": objective}
    )
    assert identity({**now, "objective": {**objective, "mode": ""}}) == identity(now)


DIFFER = {
    "seed": [1],
    "loss": [{"name": "seesaw", "params": {"p": 0.7, "q": 2.0}}, {"name": "static", "params": {}}],
    "data": [
        {"patch": [1, 32, 64]},
        {"patch": [8, 64, 64]},
        {"split_seed": 1},
        {"voxel_nm": [8.0, 8.0, 4.0]},
        {"classes": ["nuc"]},
        {"sampling": "volume"},
        {"train_on": "all"},
        {"rotate_degrees": 0.0},
        {"options": {"stain": 2}},
    ],
    "task": [{"name": "binary"}],
    "model": [{"width": 32}, {"options": {"norm": "instance"}}],
    "trainer": [
        {"lr": 2e-4},
        {"batch_size": 12},
        {"accumulate": 2},
        {"epochs": 30},
        {"optimizer": "sgd"},
        {"schedule": "cosine"},
        {"weight_decay": 0.0},
        {"swa_from": 5},
        {"count_window": "all"},
        {"keep_epoch": 7},
    ],
    "objective": [{"metric": "val_loss", "mode": "min"}, {"at_least": {"precision/nuc": 0.6}}],
}


@pytest.mark.parametrize("section", DIFFER)
def test_what_changes_the_training_is_another_identity(section):
    for change in DIFFER[section]:
        told = change if not isinstance(change, dict) or section == "loss" else {**EARLIEST.get(section, {}), **change}
        assert identity({**EARLIEST, section: told}) != identity(EARLIEST), change


def test_where_and_how_fast_it_is_trained_is_none_of_it():
    elsewhere = {
        "run": {"name": "0007_other", "dir": "/another/place"},
        "resources": {"cpus_per_trial": 4, "gpus_per_trial": 1},
        "hardware": {"device": "cpu", "threads": 3, "channels_last": False},
        "data": {**EARLIEST["data"], "root": "/data", "split_file": "/data/split.csv", "cache_dir": "/scratch"},
        "trainer": {"compile": False, "checkpoint_every": 5},
    }
    assert identity({**EARLIEST, **elsewhere}) == identity(EARLIEST)


def test_other_data_is_refused(start, monkeypatch):
    run(start(), 1)

    def other(settings):
        dataset = tiny_dataset(settings)
        object.__setattr__(dataset, "fingerprint", "beef")
        return dataset

    monkeypatch.setattr(engine, "open_packed", other)
    with pytest.raises(CheckpointError, match="other data"):
        start()


def test_a_finished_trial_repeats_its_last_word(start, tmp_path):
    rows = run(start())
    report(tmp_path / "t", rows)
    again = start()
    assert same([again.step()], rows[-1:])
    assert len(history(tmp_path / "t")) == 4


def test_an_actor_that_starts_late_leaves_the_folder_of_a_trial_run_elsewhere_alone(start, tmp_path):
    """Ray starts an actor for a trial, gives that trial to a reused actor, and the newcomer another trial."""
    ended = start()
    run(ended)
    ended.cleanup()  # elsewhere: its log is not open in this process
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "t" / name).unlink()  # as after the end of a trial
    before = {p.name: p.read_bytes() for p in (tmp_path / "t").iterdir()}
    late = SegmentationTrial(trial_config(tmp_path / "t"))
    late.reset_config(trial_config(tmp_path / "other"))
    late.step()
    assert {p.name: p.read_bytes() for p in (tmp_path / "t").iterdir()} == before
    late.cleanup()


def test_a_history_without_checkpoints_is_kept_aside(start, tmp_path):
    run(start(), 2)
    recorded = (tmp_path / "t" / "history.jsonl").read_text()
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "t" / name).unlink()
    start()
    assert (tmp_path / "t" / "history-before-restart.jsonl").read_text() == recorded


def test_a_reused_trial_equals_a_fresh_one(start, tmp_path):
    expected = run(start("fresh", loss=loss_of("balanced_softmax")))
    trial = start("first")
    run(trial, 2)
    kept = trial._engine
    assert trial.reset_config(trial_config(tmp_path / "second", loss=loss_of("balanced_softmax"))) is True
    assert trial._engine is kept
    assert same(run(trial), expected)
    assert len(history(tmp_path / "first")) == 2
    assert "balanced_softmax" not in (tmp_path / "first" / "trial.log").read_text()


@pytest.mark.parametrize(
    "change", [{"model": {"width": 6}}, {"data": {"patch": [1, 8, 8]}}, {"trainer": {"batch_size": 3}}]
)
def test_other_shapes_build_another_engine_in_the_same_actor(start, tmp_path, change):
    expected = run(start("fresh", **change))
    trial = start("first")
    trial.step()
    kept = trial._engine
    trial.reset_config(trial_config(tmp_path / "second", **change))
    assert trial._engine is not kept
    assert same(run(trial), expected)


def test_not_a_number_ends_the_trial(start, tmp_path):
    trial = start()
    trial.step()
    trial._engine.model.state_dict()["first.0.weight"].fill_(NAN)
    row = trial.step()
    assert (row["done"], row["diagnosis"], row["epoch"]) == (True, "nan", 2)
    assert math.isnan(row["mean_dice"])
    assert history(tmp_path / "t")[1]["mean_dice"] is None  # strict JSON has no NaN
    assert "diagnosis nan" in (tmp_path / "t" / "trial.log").read_text()
    report(tmp_path / "t", history(tmp_path / "t")[:1])
    assert same([start().step()], [row])


def test_ray_gets_a_note_instead_of_a_copy(start, tmp_path):
    trial = start()
    report(tmp_path / "t", [trial.step()])
    (tmp_path / "ray_checkpoint").mkdir()
    trial.save_checkpoint(str(tmp_path / "ray_checkpoint"))
    note = json.loads((tmp_path / "ray_checkpoint" / "trial.json").read_text())
    assert note == {"dir": str(tmp_path / "t"), "epoch": 1}
    trial.load_checkpoint(str(tmp_path / "ray_checkpoint"))
    assert trial.step()["epoch"] == 2


def test_resources_and_name():
    request = SegmentationTrial.default_resource_request
    assert request(trial_config()).bundles == [{"CPU": 1}]
    config = trial_config(resources={"cpus_per_trial": 4, "gpus_per_trial": 0.5})
    assert request(config).bundles == [{"CPU": 4, "GPU": 0.5}]


def test_the_log_is_let_go(start, tmp_path):
    trial = start()
    trial.cleanup()
    logging.getLogger("trainables").warning("after the end")
    assert "after the end" not in (tmp_path / "t" / "trial.log").read_text()


def test_a_result_log_of_ray_is_read_for_the_last_epoch(tmp_path):
    folder = TrialFolder(tmp_path)
    assert folder.last_reported() == 0
    lines = ['{"epoch": 1}', '{"epoch": 12, "mean_dice": NaN}', '{"other": 3}', "[1]", '{"epoch": 13, "x']
    (tmp_path / "result.json").write_text("\n".join(lines))
    assert folder.last_reported() == 12


def test_it_trains_on_volumes_on_disk(monkeypatch, start, tmp_path):
    """The whole way from Zarr: cache, patches, training, validation."""
    monkeypatch.undo()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    write_small(tmp_path / "data")
    data = {
        "name": "cellmap",
        "root": str(tmp_path / "data"),
        "cache_dir": str(tmp_path / "cache"),
        "classes": ["nuc", "pm"],
        "validation_fraction": 0.25,
    }
    rows = run(start(data=data, loss={"name": "seesaw", "params": {"p": 0.8, "q": 2.0}}))
    assert len(rows) == 4
    assert rows[-1]["support/nuc"] > 0
    assert all(math.isfinite(row["loss"]) and 0 <= row["mean_dice"] <= 1 for row in rows)


PHANTOM = phantom.Plan(
    volumes=(replace(phantom.VOLUMES[0], missing_em=False, shape=(40, 128, 128), sides=("validate", "train")),)
)


def test_a_network_in_3d_trains_on_the_phantom(monkeypatch, start, tmp_path):
    """The whole way: cache, patches, training, validation, resuming, the picture, the exported program."""
    monkeypatch.undo()
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    phantom.make(tmp_path / "data", plan=PHANTOM)
    sections = {
        "data": {
            "name": "phantom",
            "root": str(tmp_path / "data"),
            "cache_dir": str(tmp_path / "cache"),
            "classes": ["nuc", "mito_mem", "er_mem"],
            "patch": [8, 24, 16],
        },
        "model": {"width": 4, "depth": 2},
        "hardware": {"device": "cpu"},
    }
    whole = run(start("whole", **sections))
    assert [row["epoch"] for row in whole] == [1, 2, 3, 4]
    assert all(0 < row["loss"] < math.inf and 0 <= row["mean_dice"] <= 1 for row in whole)
    assert whole[-1]["support/nuc"] > 0
    run(start("t", **sections), 2)
    again = start("t", **sections)
    run(again)
    assert same(history(tmp_path / "t"), history(tmp_path / "whole"))

    best, trained = checkpoint.read(tmp_path / "whole" / "best.pt"), again._engine
    assert trained.model.down[0][0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    with np.load(tmp_path / "whole" / PREDICTION) as picture:
        em, predicted = picture["em"], picture["predicted"]
    planes = (24 + 4 + 8, 16 + 4 + 8)  # in z, y and x, with a gap of 4
    assert em.shape == (2, *planes)
    assert predicted.shape == (2, 1, *planes)
    weights = {name: value.contiguous() for name, value in best["model"].items()}
    model = inference(trained.settings, weights, best["inference_shift"])
    save_program(model, tmp_path / "model.pt2")
    program = load_program(tmp_path / "model.pt2", torch.device("cpu"))
    volume = torch.randint(0, 256, (1, 1, 4, 8, 20), dtype=torch.uint8)  # z of one stride, which is 1 voxel below
    with torch.no_grad():
        torch.testing.assert_close(program(volume), model(volume))


class TinyTrial(SegmentationTrial):
    """The trainable with the data in memory, also in Ray's processes."""

    def setup(self, config):
        engine.open_packed = tiny_dataset
        super().setup(config)


@pytest.fixture
def ray_machine(monkeypatch):
    """Ray with two slots on loopback, in a folder of its own."""
    import ray

    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # socket paths must stay short
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parents[1])]))  # workers import TinyTrial
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    ray.init(num_cpus=2, include_dashboard=False, _temp_dir=folder, ignore_reinit_error=False, log_to_driver=False)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.usefixtures("ray_machine")
def test_reused_actors_equal_fresh_ones(start, tmp_path):
    """Three trials on one slot, so one actor runs them all; each equals its own run without Ray."""
    from ray import tune

    families = ("seesaw", "balanced_softmax", "tversky")
    config = trial_config()
    config["loss"] = tune.grid_search([loss_of(f) for f in families])
    config["run"]["dir"] = tune.sample_from(lambda spec: str(tmp_path / "trials" / spec.config.loss["name"]))
    tuner = tune.Tuner(
        TinyTrial,
        param_space=config,
        tune_config=tune.TuneConfig(metric="mean_dice", mode="max", reuse_actors=True, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(tmp_path / "ray"), name="sweep", verbose=0),
    )
    results = list(tuner.fit())
    assert [r.error for r in results] == [None] * 3
    assert len({r.metrics["pid"] for r in results}) == 1
    for family in families:
        expected = run(start(f"fresh_{family}", loss=loss_of(family)))
        got = history(tmp_path / "trials" / family)
        assert same(got, history(tmp_path / f"fresh_{family}"))
        assert len(got) == len(expected) == 4


@pytest.fixture
def of_a_user():
    """Starts a trial whose config says nothing of our folders, as a Tuner of the user's own would."""
    config = trial_config()
    for name in ("run", "seed", "hardware", "resources"):
        del config[name]
    started = []

    def begin() -> SegmentationTrial:
        started.append(SegmentationTrial(copy.deepcopy(config)))
        return started[-1]

    yield begin
    for trial in started:
        trial.cleanup()


def test_without_our_folders_rays_checkpoint_is_the_whole_state(of_a_user, start, tmp_path):
    whole = run(of_a_user())
    assert same(whole, run(start())), "as in a sweep of ours"
    first = of_a_user()
    first.step()
    first.step()
    first.save(str(tmp_path / "kept"))
    first.step()  # is not in the checkpoint, and not to be seen after it
    second = of_a_user()
    second.restore(str(tmp_path / "kept"))
    assert same(run(second), whole[2:])
    first.restore(str(tmp_path / "kept"))
    assert same(run(first), whole[2:]), "in the same process, too"


def test_a_trial_of_its_own_asks_for_the_resources_of_its_config_or_one_cpu():
    assert SegmentationTrial.default_resource_request({}).bundles == [{"CPU": 1}]
    config = {"resources": {"cpus_per_trial": 2, "gpus_per_trial": 0.5}}
    assert SegmentationTrial.default_resource_request(config).bundles == [{"CPU": 2, "GPU": 0.5}]


def test_a_trial_ends_by_itself_when_it_is_out_of_patience_also_after_a_resume(start, tmp_path):
    """With a step that is never enough the first epoch stays the last one that counted."""
    patient = {"epochs": 9, "patience": 3, "min_delta": 1.0}
    whole = run(start("whole", trainer=patient))
    assert [(row["epoch"], row["done"], row.get("stopped")) for row in whole] == [
        (1, False, None),
        (2, False, None),
        (3, False, None),
        (4, True, "out of patience"),
    ]
    first = start("cut", trainer=patient)
    report(tmp_path / "cut", run(first, 2))
    first.cleanup()
    rest = run(start("cut", trainer=patient))
    assert same(rest, whole[2:])
    assert (tmp_path / "cut" / PREDICTION).is_file()
