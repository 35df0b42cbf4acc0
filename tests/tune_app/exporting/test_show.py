"""What `show` tells of an export and of a trial."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sweep_folder import WrittenTrial, write_sweep

from tune_app.exporting import export as export_module
from tune_app.exporting.export import ExportSettings, export
from tune_app.exporting.show import ShowSettings, show
from tune_app.show import main

BEST = WrittenTrial(label="seesaw_p0.8", dice=[(0.5, 0.5), (0.8, 0.6)], own=(0.9, 0.7), params={"p": 0.8}, seed=4)
POOR = WrittenTrial(label="seesaw_p1.9", dice=[(0.4, 0.2)], params={"p": 1.9}, weights=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The export of the best trial of sweep `a`, whose best.pt has a batch norm."""
    monkeypatch.setenv("TUNE_APP_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export_module, "write_program", lambda *_: "")
    sweep = write_sweep(tmp_path / "results" / "a", [BEST, POOR])
    weights = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))
    torch.save({"model": weights.state_dict(), "epoch": 2}, sweep / "trials" / "0000_seesaw_p0.8" / "best.pt")
    return export(ExportSettings(sweep="a", out="best", top=1), tell=lambda _: None)[0]


def test_an_export_by_names_shapes_and_figures(folder: Path) -> None:
    found = show(ShowSettings(checkpoint=str(folder)))
    weights = load_file(folder / "model.safetensors")
    shapes = dict(zip(found.tensors["name"], found.tensors["shape"]))
    assert shapes == {name: " × ".join(map(str, w.shape)) or "1" for name, w in weights.items()}
    learnt = 4 * 9 + 4 + 2 * 4 + 2 * 4 + 2
    assert found.tensors["parameters"].sum() == found.parts["parameters"].sum() == learnt
    assert found.parts["part"].tolist() == ["0", "1", "2"]
    facts = dict(found.facts)
    assert facts["loss"] == "seesaw p=0.8"
    assert facts["network"].endswith(f"; {learnt} parameters")
    assert "mean Dice 0.7000 at epoch 2" in facts["score"]
    assert facts["again"] == f"python -m tune_app.run trial={folder}/config.yaml"
    assert "fingerprint f00d" in facts["data"]
    thresholds = found.thresholds.set_index("class")
    assert thresholds["dice"].to_dict() == {"nuc": 0.8, "pm": 0.6}
    assert (thresholds["logit"] > 0).all()
    text = found.text(80, every_tensor=False)
    assert max(map(len, text.splitlines())) <= 80


def test_a_trial_says_the_same_and_what_it_lacks(folder: Path) -> None:
    exported, trial = show(ShowSettings(checkpoint=str(folder))), show(ShowSettings(checkpoint="a/0"))
    assert dict(trial.facts)["network"] == dict(exported.facts)["network"]
    assert trial.figures.equals(exported.figures)
    assert trial.thresholds.equals(exported.thresholds)
    poor = show(ShowSettings(checkpoint="latest/0001_seesaw_p1.9"))
    assert any(notice.startswith("no weights: its checkpoint is gone") for notice in poor.notices)
    assert poor.tensors.empty
    assert poor.parts.empty


def test_damage_is_named(folder: Path) -> None:
    assert show(ShowSettings(checkpoint=str(folder))).notices == []
    (folder / "README.md").write_text("mine")
    (folder / "model.safetensors").unlink()
    notices = show(ShowSettings(checkpoint=str(folder))).notices
    assert "missing: model.safetensors" in notices
    assert "changed since it was exported: README.md" in notices


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["checkpoint=best/1", "format=json"], 0, '"thresholds"'),
        (["checkpoint=best/1", "tensors=true"], 0, "0.weight"),
        (["checkpoint=a/0"], 0, "Parts of the network"),
        (["checkpoint=a"], 2, "checkpoint=a: is neither the folder of an export nor a trial"),
        (["checkpoint=best"], 2, "checkpoint=best: holds 1 export: give checkpoint=best/1"),
        (["checkpoint=a/7"], 2, "trial 7: a has no such trial"),
        (["checkpoint=nowhere"], 2, "Make an export: python -m tune_app.export"),
    ],
)
def test_the_command(
    folder: Path,
    words: list[str],
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["show", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == code
    said = capsys.readouterr()
    assert told in said.out + said.err
    if "format=json" in words:
        json.loads(said.out, parse_constant=pytest.fail)
