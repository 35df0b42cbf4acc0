"""The export: what a folder holds, what is refused, and what happens to what lies in the way."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from safetensors import safe_open
from sweep_folder import WrittenTrial, trial_config, write_sweep, write_validation

from trainables.errors import SettingsError
from trainables.settings import trial_settings
from tune_app.errors import InputError
from tune_app.export import main
from tune_app.exporting import export as export_module
from tune_app.exporting import model_file
from tune_app.exporting.export import EXPORT, ExportSettings, export, export_and_print
from tune_app.exporting.operating_point import metadata, operating_point
from tune_app.results.summary import PHANTOM
from tune_app.results.sweep import Sweep

NAN = float("nan")
FIRST = WrittenTrial(label="seesaw_p0.8", dice=[(0.5, 0.5), (0.8, 0.6), (0.7, 0.5)], params={"p": 0.8}, seed=4)
SECOND = WrittenTrial(label="seesaw_default", preset="seesaw_default", dice=[(0.4, 0.2)])
BROKEN = WrittenTrial(label="seesaw_p1.9", dice=[(0.9, 0.9), (NAN, NAN)], status="failed: nan")


def run(folder: Path, out: Path, **settings: Any) -> tuple[list[Path], list[str]]:
    notices: list[str] = []
    folders = export(ExportSettings(sweep=str(folder), out=str(out), **settings), tell=notices.append)
    return folders, notices


@pytest.fixture(autouse=True)
def _no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes seconds: test_exported_model.py does it, once."""
    monkeypatch.setattr(export_module, "write_program", lambda *_: "")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "results" / "a", [SECOND, FIRST, BROKEN])


def test_an_export_holds_its_files_and_their_digests(sweep: Path, tmp_path: Path) -> None:
    folders, notices = run(sweep, tmp_path / "best", top=2)
    assert folders == [tmp_path / "best" / "1", tmp_path / "best" / "2"]
    assert notices == []
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["1", "2"]
    manifest = json.loads((folders[0] / "manifest.json").read_text())
    assert set(manifest["sha256"]) == {"config.yaml", "metrics.json", "model.safetensors", "README.md"}
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((folders[0] / name).read_bytes()).hexdigest() == digest
    expected = {
        "kind": EXPORT,
        "rank": 1,
        "sweep": "a",
        "trial": "0001_seesaw_p0.8",
        "seed": 4,
        "mean_dice": 0.7,
        "best_epoch": 2,
        "space": {"p": [0.0, 2.0]},
        "git": {"commit": "abc", "dirty": False},
        "packages": {"torch": "2"},
        "hardware": {"cpus": 2},
        "params": {"p": 0.8},
        "trials_ranked": 2,
    }
    assert {key: manifest[key] for key in expected} == expected
    assert manifest["data"]["fingerprint"] == "f00d"


def test_the_config_is_complete_and_exact(sweep: Path, tmp_path: Path) -> None:
    folders, _ = run(sweep, tmp_path / "best", top=1)
    config = yaml.safe_load((folders[0] / "config.yaml").read_text())
    original = trial_config(sweep / "trials" / "0001_seesaw_p0.8", 1, FIRST, ("nuc", "pm"))
    del original["run"]
    del config["thresholds"]
    assert config == original | {"name": "seesaw_p0.8", "family": "seesaw", "preset": None}
    assert config["trainer"]["lr"] == 1e-6
    assert trial_settings(config).trainer.lr == 1e-6


def test_run_accepts_the_exported_config(sweep: Path, tmp_path: Path) -> None:
    arms = pytest.importorskip("tune_app.search.arms", reason="the sweep's reader of exported configurations")
    folders, _ = run(sweep, tmp_path / "best", top=1)
    assert arms.read_exported(folders[0] / "config.yaml")["loss"] == {"name": "seesaw", "params": {"p": 0.8}}


def test_metrics_are_the_full_history_in_strict_json(sweep: Path, tmp_path: Path) -> None:
    folders, _ = run(sweep, tmp_path / "best", top=1)
    metrics = json.loads((folders[0] / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert [row["dice/nuc"] for row in metrics["history"]] == [0.5, 0.8, 0.7]
    assert (metrics["best_epoch"], metrics["mean_dice"]) == (2, pytest.approx(0.7))


def test_the_weights_are_those_of_the_checkpoint(sweep: Path, tmp_path: Path) -> None:
    folders, _ = run(sweep, tmp_path / "best", top=1)
    saved = torch.load(sweep / "trials" / "0001_seesaw_p0.8" / "best.pt", weights_only=True)["model"]
    assert len({path.stat().st_mode for path in folders[0].iterdir()}) == 1
    with safe_open(folders[0] / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(saved)
        for name in saved:
            assert torch.equal(file.get_tensor(name), saved[name])
        metadata = file.metadata()
    assert json.loads(metadata["classes"]) == ["nuc", "pm"]
    assert (metadata["epoch"], float(metadata["mean_dice"])) == ("2", pytest.approx(0.7))


def test_weights_of_another_epoch_come_with_its_scores_and_without_thresholds(sweep: Path, tmp_path: Path) -> None:
    trial = sweep / "trials" / "0001_seesaw_p0.8"
    state = torch.load(trial / "best.pt", weights_only=True)
    state["model"] = {name: value + 1 for name, value in state["model"].items()}
    torch.save(state | {"epoch": 3}, trial / "epoch_0003.pt")
    (folder,), notices = run(sweep, tmp_path / "third", top=1, epoch=3)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert all(torch.equal(file.get_tensor(name), value) for name, value in state["model"].items())
        about = file.metadata()
    assert (about["epoch"], float(about["mean_dice"])) == ("3", pytest.approx(0.6))
    assert set(json.loads(about["logit_thresholds"]).values()) == {0.0}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["best_epoch"], manifest["mean_dice"]) == (3, pytest.approx(0.6))
    assert any("thresholds kept at 0.5" in notice for notice in notices)


def test_an_epoch_that_was_not_kept_is_refused_and_those_that_were_are_named(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"epoch=3: 0001_seesaw_p0\.8 has kept no weights of it, but of none"):
        run(sweep, tmp_path / "best", top=1, epoch=3)
    for epoch in (1, 2):
        (sweep / "trials" / "0001_seesaw_p0.8" / f"epoch_{epoch:04d}.pt").write_bytes(b"")
    with pytest.raises(InputError, match="but of 1, 2"):
        run(sweep, tmp_path / "best", top=1, epoch=3)
    with pytest.raises(SettingsError, match="epoch=-1"):
        run(sweep, tmp_path / "best", top=1, epoch=-1)
    assert not (tmp_path / "best").exists()


def exported(sweep: Path, out: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The section `thresholds` of the first configuration, and the metadata of its weights."""
    folders, _ = run(sweep, out, top=1)
    with safe_open(folders[0] / "model.safetensors", "pt") as file:
        return yaml.safe_load((folders[0] / "config.yaml").read_text())["thresholds"], file.metadata()


def test_the_thresholds_go_with_the_configuration_and_the_weights(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "a", [replace(FIRST, own=(0.9, 0.6)), SECOND])
    section, metadata = exported(sweep, tmp_path / "best")
    nuc, pm = section["classes"]["nuc"], section["classes"]["pm"]
    assert (section["epoch"], section["mean_dice"]) == (2, pytest.approx(0.7))
    assert section["calibrated_mean_dice"] == pytest.approx(0.75)
    assert (nuc["dice"], nuc["calibrated_dice"]) == pytest.approx((0.8, 0.9))
    assert nuc["logit"] == 8.25, "the middle of what is best, 0.75 … 15.75"
    assert nuc["probability"] == pytest.approx(1 / (1 + math.exp(-nuc["logit"])))
    assert (pm["logit"], pm["probability"]) == (0.0, 0.5)
    assert "logit > " in section["apply"]
    assert json.loads(metadata["logit_thresholds"]) == {"nuc": nuc["logit"], "pm": pm["logit"]}
    manifest = json.loads((tmp_path / "best" / "1" / "manifest.json").read_text())
    assert manifest["calibrated_mean_dice"] == pytest.approx(0.75)


def test_a_class_without_a_calibrated_dice_keeps_a_half(sweep: Path, tmp_path: Path) -> None:
    write_validation(sweep / "trials" / "0001_seesaw_p0.8", FIRST, ("nuc", "pm"), crops=1)
    section, metadata = exported(sweep, tmp_path / "best")
    assert section["classes"]["nuc"] == {
        "logit": 0.0,
        "probability": 0.5,
        "shift": 0.0,
        "dice": 0.8,
        "calibrated_dice": None,
        "kept_at_half": "there is one validation crop, so a threshold chosen on it cannot be scored on another",
    }
    assert section["calibrated_mean_dice"] is None
    assert json.loads(metadata["logit_thresholds"]) == {"nuc": 0.0, "pm": 0.0}


def test_lost_histograms_are_told(sweep: Path, tmp_path: Path) -> None:
    (sweep / "trials" / "0001_seesaw_p0.8" / "validation.npz").unlink()
    folders, notices = run(sweep, tmp_path / "best", top=1)
    assert notices == ["rank 1, 0001_seesaw_p0.8: thresholds kept at 0.5, validation.npz is missing or damaged"]
    section = yaml.safe_load((folders[0] / "config.yaml").read_text())["thresholds"]
    assert section["classes"]["pm"]["kept_at_half"] == section["chosen_on"] == "validation.npz is missing or damaged"


@pytest.mark.parametrize("known", [True, False])
def test_a_shift_at_inference_is_taken_off_the_thresholds(tmp_path: Path, known: bool) -> None:
    """They are for the raw output of the exported model."""
    sweep = write_sweep(tmp_path / "a", [replace(FIRST, own=(0.9, 0.6))])
    folder = sweep / "trials" / "0000_seesaw_p0.8"
    study = Sweep(sweep).trials[0]
    loss = {"name": "balanced_softmax", "params": {"tau": 1.0, "apply_at": "inference"}}
    state = {"inference_shift": [0.5, -0.75]} if known else {}
    section = operating_point(replace(study, loss=loss, folder=folder), ("nuc", "pm"), state)
    logits = [section["classes"][name]["logit"] for name in ("nuc", "pm")]
    assert logits == ([7.75, 0.75] if known else [8.25, 0.0])
    assert ("does not hold" in section["apply"]) == (not known)
    assert bool(metadata(section)) == known


def test_the_prefix_of_a_compiled_model_is_taken_off() -> None:
    tensors = model_file.tensors_of({"model": {"_orig_mod.a": torch.ones(2)}, "epoch": 1})
    assert list(tensors) == ["a"]


def test_only_finite_scores_are_exported(sweep: Path, tmp_path: Path) -> None:
    folders, notices = run(sweep, tmp_path / "best", top=3)
    assert len(folders) == 2
    assert any("only 2 of the top=3" in notice for notice in notices)


def test_nothing_to_export_is_an_error(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [BROKEN])
    with pytest.raises(InputError, match="no trial has a finite score"):
        run(folder, tmp_path / "best")
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize("damage", ["removed", "cut short", "no weights"])
def test_a_checkpoint_that_is_gone_leaves_the_rest(sweep: Path, tmp_path: Path, damage: str) -> None:
    best = sweep / "trials" / "0001_seesaw_p0.8" / "best.pt"
    content = best.read_bytes()
    best.unlink()
    if damage == "cut short":
        best.write_bytes(content[: len(content) // 2])
    if damage == "no weights":
        torch.save({"epoch": 1}, best)
    folders, notices = run(sweep, tmp_path / "best", top=1)
    kept = ["README.md", "config.yaml", "manifest.json", "metrics.json"]
    assert sorted(path.name for path in folders[0].iterdir()) == kept
    assert f"python -m tune_app.run trial={folders[0]}/config.yaml" in notices[0]
    assert json.loads((folders[0] / "manifest.json").read_text())["model_missing"]


def test_an_earlier_export_is_replaced(sweep: Path, tmp_path: Path) -> None:
    run(sweep, tmp_path / "best", top=2)
    other = write_sweep(tmp_path / "b", [WrittenTrial(label="other", dice=[(0.1, 0.1)])])
    folders, notices = run(other, tmp_path / "best", top=1)
    assert json.loads((folders[0] / "manifest.json").read_text())["trial"] == "0000_other"
    assert any("left over" in notice and notice.endswith("best/2") for notice in notices)
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["1", "2"]


def test_an_export_that_was_changed_is_kept_unless_asked(sweep: Path, tmp_path: Path) -> None:
    run(sweep, tmp_path / "best", top=1)
    notes = tmp_path / "best" / "1" / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(InputError, match=r"changed since.*overwrite=true"):
        run(sweep, tmp_path / "best", top=1)
    assert notes.read_text() == "mine"
    run(sweep, tmp_path / "best", top=1, overwrite=True)
    assert not notes.exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_is_never_replaced(sweep: Path, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "best" / "2").mkdir(parents=True)
    (tmp_path / "best" / "2" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is no export"):
        run(sweep, tmp_path / "best", top=2, overwrite=overwrite)
    assert (tmp_path / "best" / "2" / "thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "best" / "1").exists()


def test_out_that_is_a_file_or_lies_under_one_is_refused(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "best").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        run(sweep, tmp_path / "best")
    with pytest.raises(InputError, match="cannot be written"):
        run(sweep, tmp_path / "best" / "under")


def test_a_failure_half_way_leaves_the_earlier_export(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(sweep, tmp_path / "best", top=1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "best" / "1").iterdir()}

    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "write_model", fail)
    with pytest.raises(InputError, match="No space left"):
        run(sweep, tmp_path / "best", top=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "best" / "1").iterdir()} == before
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["1"]


def test_what_a_killed_export_has_left_is_removed_by_the_next(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "best"
    run(sweep, out, top=2)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    for pid, rank in ((process.pid, 2), (os.getppid(), 1)):  # one is dead, one lives
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda pid=pid: pid)
            partial, old = (export_module._beside(out / str(rank), kind) for kind in ("partial", "old"))
        partial.mkdir()
        (partial / "config.yaml").touch()
        (out / str(rank)).rename(old)  # as if killed between the two renames
    run(sweep, out, top=1)
    assert sorted(path.name for path in out.iterdir()) == sorted([partial.name, old.name, "1", "2"])
    assert (out / "2" / "model.safetensors").is_file(), "the earlier export, which was on its way out"


def test_a_running_sweep_on_the_phantom_says_so(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [FIRST], status="running", phantom=True)
    with FileLock(folder / "sweep.lock"):
        _, notices = run(folder, tmp_path / "best", top=1)
    assert PHANTOM in notices
    assert any("still running" in notice for notice in notices)


def test_runs_of_one_configuration_are_pointed_out(tmp_path: Path) -> None:
    trials = [WrittenTrial(label="x", dice=[(s, s)], signature="u", seed=i) for i, s in enumerate((0.4, 0.5))]
    _, notices = run(write_sweep(tmp_path / "a", trials), tmp_path / "best", top=2)
    assert notices == ["ranks 1, 2 are runs of one configuration, x"]


def test_a_trial_without_its_config_is_refused(sweep: Path, tmp_path: Path) -> None:
    (sweep / "trials" / "0000_seesaw_default" / "config.json").write_text('{"seed": ')
    with pytest.raises(InputError, match=r"rank 2, 0000_seesaw_default.*top=1"):
        run(sweep, tmp_path / "best", top=2)
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize(
    ("settings", "message"), [({"top": 0}, "top=0"), ({"out": ""}, "out="), ({"sweep": ""}, "sweep=")]
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        export(ExportSettings(**settings))


def test_printing_says_where_and_what_next(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_and_print(ExportSettings(sweep=str(sweep), out=str(tmp_path / "best"), top=1)).code == 0
    out = capsys.readouterr().out
    assert (
        f"{tmp_path}/best/1   0001_seesaw_p0.8   mean_dice 0.7000 at epoch 2   0.7000 at thresholds of its own" in out
    )
    assert f"python -m tune_app.run trial={tmp_path}/best/1/config.yaml" in out


def test_command_line(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["export", "sweep=a", f"results_dir={sweep.parent}", f"out={tmp_path}/best", "top=1"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    assert (tmp_path / "best" / "1" / "config.yaml").is_file()


def test_a_trial_not_trained_to_the_end_is_named(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [replace(FIRST, status="running")], status="interrupted")
    _, notices = run(folder, tmp_path / "best", top=1)
    assert any("not trained to the end" in notice for notice in notices)
