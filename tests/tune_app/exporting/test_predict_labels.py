"""A network that gives one label to a volume, applied to labelled volumes and to files that nobody has labelled."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from documents import checked_end
from tiny_export import exported

from trainables.inference import Inference
from tune_app.errors import InputError
from tune_app.exporting.predict import DataFolder, PredictSettings, predict, predict_and_print
from tune_app.exporting.volume_labels import Labelled
from tune_app.predict import main
from tune_app.results.manifest import file_sha256

CLASSES, PATCH = ["dark", "middle", "bright"], [4, 6, 8]


class Brightness(torch.nn.Module):
    """Calls a volume by its mean grey value: dark below ¼, bright above ¾."""

    spatial_dims, stride, per_image, fixed_size = 3, 1, True, tuple(PATCH)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mean = image.mean(dim=(2, 3, 4))
        logits = 20 * torch.cat([0.25 - mean, torch.zeros_like(mean), mean - 0.75], dim=1)
        return logits[:, :, None, None, None]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export, and nine volumes of which one bright one is called dark in its labels; two are of another shape."""
    task = {"name": "classification", "options": {}}
    folder = exported(
        *(tmp_path / "best" / "1", Inference(Brightness(), [0.0] * 3).eval(), PATCH, CLASSES, "classified_volumes"),
        task=task,
    )
    about = json.loads((folder / "model.json").read_text()) | {"per_image": True, "logit": [0.0] * 3}
    (folder / "model.json").write_text(json.dumps(about))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["model.json"] = file_sha256(folder / "model.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "data").mkdir()
    lines = ["volume,label,split"]
    for number in range(9):
        shape = PATCH if number < 7 else [8, 6, 8]
        np.save(tmp_path / "data" / f"v{number}.npy", np.full(shape, (20, 128, 240)[number % 3], np.uint8))
        label = "dark" if number == 8 else CLASSES[number % 3]
        lines.append(f"v{number}.npy,{label},{'train' if number < 3 else 'validate'}")
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(**given: Any) -> Labelled:
    done = predict(PredictSettings(checkpoint="best/1", data=DataFolder(root="data"), batch_size=4, **given))
    assert isinstance(done, Labelled)
    return done


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_volume_gets_a_line_and_labels_are_counted(here: Path) -> None:
    done = run(crop="all")
    rows = table(here / "pred.csv")
    assert done.out == here / "pred.csv"
    assert [row["predicted"] for row in rows] == [CLASSES[n % 3] for n in range(9)]
    assert [row["label"] for row in rows] == [*(CLASSES[n % 3] for n in range(8)), "dark"]
    assert [row["side"] for row in rows] == ["train"] * 3 + ["validate"] * 6
    for number, row in enumerate(rows):
        logits = torch.tensor([0.25 - (m := (20, 128, 240)[number % 3] / 255), 0.0, m - 0.75]) * 20
        found = [float(row[f"p_{name}"]) for name in CLASSES]
        assert found == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)
    assert done.told[0] == "3 dark, 3 middle, 3 bright"
    recalls = (3 / 4, 1, 1)
    assert f"{sum(recalls) / 3:.4f}" in done.told[1]
    assert done.told[2].startswith("3 of them trained the network")
    one = PredictSettings(checkpoint="best/1", data=DataFolder(root="data"), crop="v4.npy", out="one.csv")
    assert checked_end("predict", predict_and_print(one))["volumes"] == 1
    assert table(here / "one.csv") == [rows[4]]


def test_files_without_labels_need_none(here: Path) -> None:
    (here / "new").mkdir()
    for number in (0, 2):
        (here / "data" / f"v{number}.npy").rename(here / "new" / f"v{number}.npy")
    done = run(volume="new", out="new.csv")
    rows = table(here / "new.csv")
    assert [(row["predicted"], row["label"], row["side"]) for row in rows] == [("dark", "", ""), ("bright", "", "")]
    assert done.told == ("1 dark, 1 bright",)
    assert table(run(volume="new/v2.npy", out="two.csv").out) == rows[1:]


def test_only_a_prediction_of_these_classes_is_replaced(here: Path) -> None:
    first = run(crop="v0.npy").out.read_text()
    with pytest.raises(InputError, match=r"overwrite=true to replace"):
        run(crop="v1.npy")
    assert (here / "pred.csv").read_text() == first
    run(crop="v1.npy", overwrite=True)
    assert table(here / "pred.csv")[0]["volume"] == "v1.npy"
    (here / "mine.csv").write_text("a,b\n")
    with pytest.raises(InputError, match=r"exists and is no such prediction"):
        run(crop="v1.npy", out="mine.csv", overwrite=True)
    assert (here / "mine.csv").read_text() == "a,b\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["crop=nowhere"], "crop=nowhere: there is no such crop. Choices: "),
        (["volume=nowhere"], "volume=nowhere: does not exist; needed is a file of .npy"),
        (["volume=best"], "volume=best: holds no volume"),
        (["crop=all", "out=folder"], "one label for each volume is a table. Use out=pred.csv"),
        (["submission=challenge"], "submission=challenge: the network gives one label to a volume"),
        (["volume=data/v0.npy", "intensity=[0,9]"], "intensity=[0.0, 9.0]: the network gives one label to a volume"),
        (["crop=v3.npy", "volume=data"], "one of the two says what to predict"),
    ],
)
def test_bad_input_is_a_sentence(
    here: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["predict", "checkpoint=best/1", "data.root=data", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(here.glob("*.csv"))
