"""final=: the winner trained on all crops, at the epoch that validation had chosen, and marked as not validated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from planned import composed_of
from sweep_folder import WrittenTrial, write_sweep

from trainables.objective import Objective
from tune_app import run as run_module
from tune_app.confirmation.confirm import refuse_unready
from tune_app.errors import InputError
from tune_app.exporting import export as export_module
from tune_app.exporting.export import ExportSettings, confirmed_epochs, export
from tune_app.exporting.operating_point import cut_of, inherited_point
from tune_app.results.manifest import build_manifest
from tune_app.results.summary import NOT_VALIDATED, notices
from tune_app.results.sweep import Sweep
from tune_app.run import finish
from tune_app.settings.schema import Settings
from tune_app.sweep.begin import planned
from tune_app.sweep.folder import new_folder
from tune_app.sweep.runner import Outcome

TRIAL = WrittenTrial(label="seesaw_p0.8", dice=[(0.5, 0.5), (0.8, 0.6), (0.7, 0.5)], params={"p": 0.8}, seed=4)


@pytest.fixture(autouse=True)
def _no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(export_module, "write_program", lambda *_: "")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def best(tmp_path: Path) -> Path:
    """best/1 of a sweep, whose best epoch was the second of three."""
    write_sweep(tmp_path / "results" / "a", [TRIAL])
    config = tmp_path / "results" / "a" / "trials" / "0000_seesaw_p0.8" / "config.json"
    found = json.loads(config.read_text())
    found["data"] |= {"name": "phantom", "root": ""}
    config.write_text(json.dumps(found))
    [folder] = export(ExportSettings(sweep="a", top=1, out="best"), tell=lambda _: None)
    return folder


@pytest.fixture
def trained(best: Path, tmp_path: Path) -> Path:
    """A sweep as final=best/1 leaves it: its last epoch has the best figures, the second one was kept."""
    folder = write_sweep(tmp_path / "results" / "last", [TRIAL])
    stored = planned(composed_of(f"final={best}", "name=last")).as_dict()
    (folder / "sweep.yaml").write_text(yaml.safe_dump(stored))
    config = folder / "trials" / "0000_seesaw_p0.8" / "config.json"
    change(config, data=json.loads(config.read_text())["data"] | {"train_on": "all"})
    (folder / "trial.yaml").write_text((best / "config.yaml").read_text())
    return folder


def change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def test_it_is_the_exported_configuration_on_all_crops_at_the_best_epoch(best: Path) -> None:
    settings = planned(composed_of(f"final={best}"))
    assert (settings.data.train_on, settings.trainer.keep_epoch, settings.trainer.epochs) == ("all", 2, 3)
    assert (settings.trial, settings.final) == (str((best / "config.yaml").absolute()), "")
    assert (settings.single_arms, settings.early_stopping) == (True, False)
    assert new_folder(settings).name.endswith("_final")
    assert planned(composed_of(f"final={best}/config.yaml")).trainer.keep_epoch == 2


def test_a_confirmation_decides_the_epoch(best: Path) -> None:
    change(best / "manifest.json", confirmation={"name": "x", "best_epochs": [3, 1, 3, 2, 3]})
    assert planned(composed_of(f"final={best}")).trainer.keep_epoch == 3


def test_the_best_epochs_of_the_confirmed_arm_are_read(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "results" / "a", [TRIAL])
    runs = [WrittenTrial(label="x", dice=[(0.1, 0.1)] * n + [(0.9, 0.9)], seed=n) for n in range(3)]
    stopped = WrittenTrial(label="x", dice=[(0.9, 0.9)], seed=9, status="stopped early")
    write_sweep(folder / "confirmation_2", [*runs, stopped, WrittenTrial(label="y", dice=[(0.3, 0.3)])])
    (folder / "confirmation.json").write_text(json.dumps({"source": {"runs": "confirmation_2"}}))
    assert confirmed_epochs(Sweep(folder), "x") == [1, 2, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["final=nowhere"], "final=nowhere: is not the folder of an export"),
        (["final=best/1", "trainer.epochs=1"], "trainer.keep_epoch=2: must lie in"),
        (["final=best/1", "seeds=3"], "final= trains one network"),
        (["final=best/1", "preset=seesaw_default"], "only one of them"),
    ],
)
def test_bad_input_is_a_sentence(best: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned(composed_of(*words))


def test_what_is_final_is_not_made_final_again_nor_confirmed(trained: Path) -> None:
    [folder] = export(ExportSettings(sweep="last", top=1, out="other"), tell=lambda _: None)
    with pytest.raises(InputError, match="was itself trained on the validation crops"):
        planned(composed_of(f"final={folder}"))
    with pytest.raises(InputError, match="nothing to confirm"):
        refuse_unready(Sweep(trained))


def test_it_is_exported_at_its_end_and_marked(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the manifest, the configuration and the README: no score of its own, thresholds of the validated network."""
    assert finish(Outcome(folder=trained, complete=True)) == 0
    folder = trained / "export" / "1"
    printed = capsys.readouterr()
    assert "not validated, weights at epoch 2" in printed.out
    assert NOT_VALIDATED in printed.err
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["validated"], manifest["mean_dice"], manifest["best_epoch"]) == (False, None, 2)
    assert manifest["without_validation_crops"]["mean_dice"] == pytest.approx(0.7)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["validated"], config["thresholds"]["validated"], config["data"]["train_on"]) == (False, False, "all")
    before = yaml.safe_load((trained / "trial.yaml").read_text())["thresholds"]
    assert cut_of(config["thresholds"]) == cut_of(before)
    assert "dice" not in config["thresholds"]["classes"]["nuc"]
    readme = (folder / "README.md").read_text()
    assert NOT_VALIDATED in readme
    assert "had mean Dice 0.7000" in readme
    assert "on the validation crops." not in readme
    assert finish(Outcome(folder=trained, complete=True)) == 0, "again, as after a resume"


def test_an_interrupted_one_says_how_to_go_on(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(Outcome(folder=trained, complete=False)) == run_module.INTERRUPTED
    assert "resume=last" in capsys.readouterr().out
    assert not (trained / "export").exists()


def test_the_board_and_the_manifest_of_its_sweep_say_so(trained: Path) -> None:
    assert NOT_VALIDATED in notices(Sweep(trained))
    for train_on in ("train", "all"):
        manifest = build_manifest(
            sweep="x",
            family="x",
            seed=0,
            objective=Objective(metric="mean_dice"),
            classes=(),
            data={"train_on": train_on},
        )
        assert manifest["validated"] is (train_on == "train")
    assert Settings().data.train_on == "train"


def test_a_new_shift_is_taken_off_the_old_thresholds() -> None:
    source = {"classes": {"nuc": {"logit": 0.5, "shift": 0.25}, "pm": {"logit": -1.0}}}
    section = inherited_point(source, ("nuc", "pm"), {"nuc": 0.1, "pm": -0.5}, 7)
    assert cut_of(section) == pytest.approx([0.75, -1.0])
    assert [found["logit"] for found in section["classes"].values()] == pytest.approx([0.65, -0.5])
